"""Distillation equals its formula in value and gradient, teaches without learning, and costs what it promises."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slm_jax import trees
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.interfaces import METRICS
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.training import partitioning
from slm_jax.training.distillation import Distillation
from slm_jax.training.objective import TeacherForcing

V = 24
ONLY_TAUGHT = V - 1
"""A token that stands in what the teacher reads and nowhere else."""


class BagLM(nn.Module):
    """The next token follows from the sum of what was read and from the last token."""

    vocab_size: int
    width: int

    def setup(self):
        self.table = nn.Embed(self.vocab_size, self.width)
        self.inner, self.outer = nn.Dense(8 * self.width), nn.Dense(self.width)
        self.head = nn.Dense(self.vocab_size)

    def __call__(self, read, decoder_inputs):
        hidden = jnp.tanh(read)[:, None] + self.table(decoder_inputs)
        return hidden + self.outer(nn.gelu(self.inner(hidden)))


class Bag(nn.Module):
    """The smallest system of speech and language, quick to compile."""

    vocab_size: int = V
    width: int = 16

    def setup(self):
        self.lm = BagLM(self.vocab_size, self.width)
        self.adapter = nn.Dense(self.width)

    def __call__(self, batch, *, training=()):
        tokens = batch["encoder_input_tokens"]
        read = jnp.where(tokens[..., None] > 0, self.lm.table(tokens), 0).sum(axis=1)
        if "speech_embeddings" in batch:
            mask = batch["speech_mask"]
            read += jnp.where(mask[..., None], self.adapter(batch["speech_embeddings"]), 0).sum(axis=1)
            self.sow(METRICS, "frames", (mask.sum(), mask.size), reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return self.lm(read, batch["decoder_input_tokens"])

    def logits(self, hidden):
        return self.lm.head(hidden)


MODEL = Bag()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)

    def tokens(length, shortest):
        real = np.arange(length) < rng.integers(shortest, length + 1, (8, 1))
        return np.where(real, rng.integers(1, ONLY_TAUGHT, (8, length)), 0)

    taught, targets = tokens(7, 2), tokens(6, 1)
    taught[:, 0] = ONLY_TAUGHT
    return {
        "speech_embeddings": jnp.asarray(rng.normal(size=(8, 5, 8)), jnp.float32),
        "speech_mask": jnp.arange(5) < jnp.asarray(rng.integers(1, 6, (8, 1))),
        "encoder_input_tokens": jnp.asarray(tokens(3, 1)),
        "teacher_input_tokens": jnp.asarray(taught),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": jnp.asarray((targets > 0) * rng.choice([1.0, 0.5], targets.shape), jnp.float32),
    }


def random_params(model, batch):
    """Larger than at the start of a training, so that teacher and student are sure of different tokens."""
    shapes = nn.unbox(jax.eval_shape(Distillation(model=model).init, jax.random.key(0), batch))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def params(batch):
    return random_params(MODEL, batch)


def outcome(objective, params, batch):
    """The loss's output and the gradients of all parameters."""

    def loss(params, batch):
        output = objective.loss(params, batch, rng=jax.random.key(0))
        return output.loss, output

    (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
    return output, gradients


def value(objective, params, batch):
    return jax.jit(lambda params, batch: objective.loss(params, batch, rng=jax.random.key(0)))(params, batch)


@pytest.fixture(scope="module")
def distilled(params, batch):
    return outcome(Distillation(model=MODEL), params, batch)


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected)


def in_writing(batch):
    """The teacher's batch: a text task."""
    return {name: batch[name] for name in batch if name.startswith("decoder_")} | {
        "encoder_input_tokens": batch["teacher_input_tokens"]
    }


def all_logits(params, batch, *, model=MODEL):
    hidden = model.apply({"params": params}, batch)
    return model.apply({"params": params}, hidden, method="logits")


SETTINGS = [
    {},
    {"temperature": 2.5},
    {"label_weight": 0.3},
    {"label_weight": 0.4, "temperature": 0.5, "z_loss": 0.01, "label_smoothing": 0.1, "chunk_tokens": 4},
]


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def formula(student, teacher, batch, *, temperature=1.0, label_weight=0.0, z_loss=0.0, label_smoothing=0.0, **_):
    """In numpy and float64, all positions at once."""
    known, guessed = log_softmax(teacher / temperature), log_softmax(student / temperature)
    divergence = temperature**2 * np.sum(np.exp(known) * (known - guessed), axis=-1)
    low = label_smoothing / (V - 1)
    soft = np.where(np.arange(V) == np.asarray(batch["decoder_target_tokens"])[..., None], 1 - label_smoothing, low)
    entropy = -np.sum(soft * np.log(np.maximum(soft, 1e-30)), axis=-1)
    log_partition = np.log(np.sum(np.exp(student), axis=-1))
    labels = -np.sum(soft * log_softmax(student), axis=-1) - entropy + z_loss * log_partition**2
    weights = np.asarray(batch["decoder_loss_weights"], np.float64)
    return np.sum(weights * (label_weight * labels + (1 - label_weight) * divergence))


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_loss_is_the_formula_of_every_setting(params, batch, settings):
    student, teacher = (np.asarray(jax.jit(all_logits)(params, b), np.float64) for b in (batch, in_writing(batch)))
    output = value(Distillation(model=MODEL, **settings), params, batch)
    assert float(output.loss) == pytest.approx(formula(student, teacher, batch, **settings), rel=1e-5)
    assert float(output.weight) == float(batch["decoder_loss_weights"].sum())
    plain = {"temperature": 1.0, "label_weight": 0.0, "z_loss": 0.0, "label_smoothing": 0.0}
    for name in plain.keys() & settings.keys():
        changed = formula(student, teacher, batch, **settings | {name: plain[name]})
        assert abs(changed - float(output.loss)) > 1e-2, f"{name} makes no difference"


def test_gradients_are_those_of_a_constant_teacher(params, batch, distilled):
    """Of all parameters, the language model's too: through the student, as if the teacher's scores were data."""
    teacher = jax.jit(all_logits)(params, in_writing(batch))

    def loss(params):
        known, guessed = jax.nn.log_softmax(teacher), jax.nn.log_softmax(all_logits(params, batch))
        return jnp.sum(batch["decoder_loss_weights"][..., None] * jnp.exp(known) * (known - guessed))

    assert_close(distilled[1], jax.jit(jax.grad(loss))(params))


def test_the_teacher_gets_no_gradient(batch, distilled, params):
    """What only the teacher reads is not learned; the same token before the student is."""
    table = distilled[1]["lm"]["table"]["embedding"]
    assert not table[ONLY_TAUGHT].any() and table[:ONLY_TAUGHT].any()
    read = batch | {"encoder_input_tokens": batch["encoder_input_tokens"].at[:, 0].set(ONLY_TAUGHT)}
    _, gradients = outcome(Distillation(model=MODEL), params, read)
    assert gradients["lm"]["table"]["embedding"][ONLY_TAUGHT].any()


def test_nothing_is_learned_from_a_teacher_who_reads_the_same(params, batch):
    same = in_writing(batch) | {"teacher_input_tokens": batch["teacher_input_tokens"]}
    output, gradients = outcome(Distillation(model=MODEL, temperature=2.0), {"lm": params["lm"]}, same)
    assert_close((output.loss, gradients), (0.0, jax.tree.map(jnp.zeros_like, gradients)))
    assert float(output.metrics["teacher_nll"][0]) == pytest.approx(float(output.metrics["nll"][0]), rel=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 4])
def test_the_size_of_chunks_does_not_matter(params, batch, distilled, chunk_tokens):
    assert_close(outcome(Distillation(model=MODEL, chunk_tokens=chunk_tokens), params, batch), distilled)


def test_on_labels_alone_it_is_teacher_forcing(params, batch):
    shared = dict(model=MODEL, z_loss=0.01, label_smoothing=0.1)
    output, gradients = outcome(Distillation(label_weight=1.0, temperature=3.0, **shared), params, batch)
    expected, expected_gradients = outcome(TeacherForcing(**shared), params, batch)
    assert_close((output.loss, output.weight, gradients), (expected.loss, expected.weight, expected_gradients))


def test_metrics_are_those_of_teacher_forcing_and_the_teachers_own(params, batch, distilled):
    metrics = dict(distilled[0].metrics)
    teacher = metrics.pop("teacher_nll")
    assert_close(metrics, value(TeacherForcing(model=MODEL), params, batch).metrics)
    assert_close(teacher, value(TeacherForcing(model=MODEL), params, in_writing(batch)).metrics["nll"])


def test_a_batch_is_the_sum_of_its_examples(params, batch, distilled):
    rows = [{name: x[i : i + 1] for name, x in batch.items()} for i in range(8)]
    objective = Distillation(model=MODEL)
    one = jax.jit(lambda row: objective.loss(params, row, rng=jax.random.key(0)))
    summed = jax.tree.map(lambda *leaves: sum(leaves), *[one(row) for row in rows])
    assert_close(summed, distilled[0])


def test_a_batch_split_over_devices_gives_the_same(params, batch, distilled):
    mesh = partitioning.make_mesh(data=8)
    split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    assert_close(value(Distillation(model=MODEL), everywhere, split), distilled[0])


def test_without_a_teachers_text_the_error_says_how_to_get_it(params, batch):
    alone = {name: x for name, x in batch.items() if name != "teacher_input_tokens"}
    with pytest.raises(ValueError, match=r"teacher_input_tokens.*Form\.TAUGHT.*'teacher_inputs'.*listening_objective"):
        Distillation(model=MODEL).loss(params, alone, rng=jax.random.key(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("inf")}, "above 0 and finite, got inf"),
        ({"label_weight": -0.1}, r"label_weight must be in \[0, 1\]"),
        ({"label_weight": 1.1}, "label_weight"),
        ({"label_weight": 0.5, "z_loss": -1.0}, "z_loss must not be negative"),
        ({"label_weight": 0.5, "label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"z_loss": 1e-4}, "need a label_weight above 0"),
        ({"label_smoothing": 0.1}, "need a label_weight above 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Distillation(model=MODEL, **settings)


def test_a_chunk_of_no_tokens_is_refused(params, batch):
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1"):
        value(Distillation(model=MODEL, chunk_tokens=0), params, batch)


LM = dict(vocab_size=V, width=16, ff_width=16, num_encoder_layers=1, num_decoder_layers=1, num_heads=2, head_dim=8)
ADAPTER = TransformerAdapter(features=16, num_heads=2, head_dim=8, ff_width=16, num_layers=1)


def test_padding_and_filler_rows_count_for_nothing(batch):
    """Behind what the teacher reads may be more padding, and any id below 1; in a filler row all arrays are zeros."""
    objective = Distillation(model=SpeechLanguageModel(lm=T5(**LM), adapter=ADAPTER))
    params = random_params(objective.model, batch)
    taught = batch["teacher_input_tokens"]
    longer = jnp.pad(jnp.where(taught > 0, taught, -3), ((0, 0), (0, 4)), constant_values=-5)
    filled = {
        name: jnp.concatenate([x, jnp.zeros_like(x)]) for name, x in (batch | {"teacher_input_tokens": longer}).items()
    }
    assert_close(outcome(objective, params, filled), outcome(objective, params, batch))


def test_the_teacher_never_drops_out(batch):
    """Where the language model is trained too, with dropout, the student's loss moves and the teacher's does not."""
    model = SpeechLanguageModel(lm=T5(**LM, dropout_rate=0.5), adapter=ADAPTER)
    objective, params = Distillation(model=model), random_params(model, batch)
    train = jax.jit(lambda rng: objective.loss(params, batch, rng=rng, training={"adapter", "lm"}).metrics)
    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert float(first["nll"][0]) != float(second["nll"][0])
    assert float(first["teacher_nll"][0]) == float(second["teacher_nll"][0])


def specs(*, taught=8, length=16):
    """Shapes of a batch, width 16."""
    arrays = {"speech_embeddings": ((8, 12, 16), jnp.float32), "speech_mask": ((8, 12), jnp.bool_)}
    tokens = {"encoder_input_tokens": 8, "teacher_input_tokens": taught}
    tokens |= dict.fromkeys(("decoder_input_tokens", "decoder_target_tokens"), length)
    arrays |= {name: ((8, size), jnp.int32) for name, size in tokens.items()}
    arrays |= {"decoder_loss_weights": ((8, length), jnp.float32)}
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in arrays.items()}


def adapter_gradient(objective, batch):
    """(function, its arguments): the loss and the adapter's gradient of a batch of these shapes."""
    params = nn.unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))

    def loss(trained, frozen, batch):
        return objective.loss(trees.combine(trained, frozen), batch, rng=jax.random.key(0)).loss

    return loss, (*trees.partition(params, ("adapter/.*",)), batch)


def compiled(objective, batch):
    loss, arguments = adapter_gradient(objective, batch)
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()


def test_a_teacher_costs_its_forward_pass():
    """One chunk, because XLA's count of a loop takes its body once."""
    batch = specs(length=64)
    model = Bag(width=16, vocab_size=256)
    lm = nn.unbox(jax.eval_shape(Distillation(model=model).init, jax.random.key(0), batch))["lm"]
    forward = jax.jit(lambda lm: all_logits({"lm": lm}, in_writing(zeros), model=model))
    zeros = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), batch)
    forced, taught = (
        compiled(objective(model=model), batch).cost_analysis()["flops"] for objective in (TeacherForcing, Distillation)
    )
    alone = forward.lower(lm).compile().cost_analysis()["flops"]
    softmaxes = 30 * 8 * 64 * 256
    assert alone < taught - forced < alone + softmaxes < 2 * alone


def test_nothing_of_the_teacher_is_kept_for_the_backward_pass():
    objective = Distillation(model=SpeechLanguageModel(lm=T5(**LM), adapter=ADAPTER))

    def kept(taught):
        loss, (trained, *others) = adapter_gradient(objective, specs(taught=taught))
        pull = jax.eval_shape(
            lambda trained, *others: jax.vjp(lambda p: loss(p, *others), trained)[1], trained, *others
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert kept(200) == kept(10) > 0


def test_memory_never_holds_the_logits_of_the_batch():
    def memory(chunk_tokens):
        objective = Distillation(model=Bag(vocab_size=16384), chunk_tokens=chunk_tokens)
        return compiled(objective, specs(length=64)).memory_analysis().temp_size_in_bytes

    logits = 4 * 8 * 64 * 16384
    assert memory(64) >= 2 * logits
    assert memory(1) < logits / 4
