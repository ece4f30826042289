"""BEST-RQ: targets and loss against plain references, spans, padding, what carries gradients, the way to CTC."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slm_jax import trees
from slm_jax.audio.log_mel import LogMel
from slm_jax.audio.spec_augment import SpecAugment
from slm_jax.evaluation import Evaluated
from slm_jax.models.conformer import Conformer
from slm_jax.models.interfaces import Objective
from slm_jax.pretraining import best_rq
from slm_jax.pretraining.best_rq import BestRQObjective, Quantizer
from slm_jax.pretraining.ctc import CTCObjective
from slm_jax.training import bundle, partitioning
from slm_jax.training.restore import RestoreError
from slm_jax.training.run import Training
from slm_jax.training.state import TrainState
from slm_jax.training.step import TrainStep

ENCODER = Conformer(
    num_layers=1,
    width=8,
    num_heads=2,
    subsampling_channels=(3, 3),
    dropout_rate=0.2,
    front_end=LogMel(num_mels=8, fft_length=512),
    spec_augment=SpecAugment(),
    scan_layers=False,
)
OBJECTIVE = BestRQObjective(
    speech_encoder=ENCODER,
    num_codebooks=3,
    codebook_size=11,
    codebook_dim=4,
    mask_probability=0.05,
    mask_length=8,
    seed=1,
)
FRAME = 640
LENGTHS = (16 * FRAME, 9 * FRAME + 200, 0)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def batch():
    speech = 0.1 * jax.random.normal(jax.random.key(0), (3, 16 * FRAME))
    return {"speech": speech, "speech_length": jnp.array(LENGTHS)}


@pytest.fixture(scope="module")
def params(batch):
    return nn.unbox(jax.jit(OBJECTIVE.init)(jax.random.key(1), batch))


@pytest.fixture(scope="module")
def loss():
    compiled = jax.jit(lambda params, batch, key: OBJECTIVE.loss(params, batch, rng=key))
    return lambda params, batch, key=KEY: compiled(params, batch, key)


@pytest.fixture(scope="module")
def features():
    """What a front end might give, and how much of it is real."""
    return 3 + 2 * jax.random.normal(jax.random.key(4), (2, 10, 8)), jnp.array([10, 6])


def test_obeys_the_protocol_and_names_its_components(batch):
    assert isinstance(OBJECTIVE, Objective) and OBJECTIVE.model is ENCODER
    boxed = jax.eval_shape(OBJECTIVE.init, jax.random.key(0), batch)
    assert set(boxed) == {"speech_encoder", "codebook_heads"}
    heads = {name: (leaf.names, leaf.unbox().shape) for name, leaf in boxed["codebook_heads"].items()}
    assert heads == {"kernel": (("layers", "embed", "vocab"), (3, 8, 11)), "bias": (("layers", "vocab"), (3, 11))}
    assert all(isinstance(leaf, nn.Partitioned) for leaf in trees.flatten(boxed).values())


def test_drawings():
    quantizer = Quantizer(np.eye(2, dtype=np.float32)[None], np.eye(2, dtype=np.float32)[None])
    assert best_rq.quantize(jnp.array([[[3.0, 1.0], [1.0, 2.0]]]), quantizer).tolist() == [[[0, 1]]]
    stacked = best_rq.stack_frames(jnp.array([[[1.0, 2], [3, 4], [5, 6]]]), 2)
    assert stacked.tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0]]]
    starts = jnp.array([[0, 1, 0, 0, 0, 0, 1, 0]], bool)
    assert best_rq.spans(starts, 3).astype(int).tolist() == [[0, 1, 1, 1, 0, 0, 1, 1]]
    hidden = jnp.array([[1, 1, 1, 0, 1, 0]], bool)
    assert best_rq.fully_hidden(hidden, jnp.array([5]), 2).astype(int).tolist() == [[1, 0, 1]]
    entropy = best_rq.target_entropy(
        jnp.array([[[3, 3, 5, 5, 7]]]), jnp.array([[1, 1, 1, 1, 0]], bool), codebook_size=8
    )
    np.testing.assert_allclose(entropy, np.log(2), rtol=1e-5)


def test_the_seed_alone_decides_the_quantizer():
    sizes = dict(num_codebooks=3, codebook_size=11, codebook_dim=4)
    one = best_rq.random_quantizer(seed=1, num_features=32, **sizes)
    best_rq.random_quantizer.cache_clear()
    again, other = (best_rq.random_quantizer(seed=seed, num_features=32, **sizes) for seed in (1, 2))
    for left, right, different in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.abs(left - different).max() > 0.1
    assert (one.projections.shape, one.codebooks.shape) == ((3, 32, 4), (3, 11, 4))
    np.testing.assert_allclose(np.linalg.norm(one.codebooks, axis=-1), 1, rtol=1e-5)
    # Runs that were stopped before some update of NumPy or JAX must meet the same targets after it.
    np.testing.assert_allclose(one.codebooks[0, 0], [-0.241125, 0.259676, -0.931312, -0.084170], atol=1e-5)


def reference_targets(log_mel: np.ndarray, length: int, quantizer: Quantizer) -> np.ndarray:
    """[M, ceil(length / 4)] for one utterance without its padding: the nearest of vectors of length 1."""
    real = np.asarray(log_mel[:length], np.float64)
    normal = (real - real.mean(axis=0)) / np.sqrt(real.var(axis=0) + 1e-5)
    stacked = np.concatenate([normal, np.zeros((-length % 4, normal.shape[1]))]).reshape(-1, 4 * normal.shape[1])
    rows = []
    for projection, codebook in zip(*quantizer, strict=True):
        projected = stacked @ projection
        projected /= np.linalg.norm(projected, axis=-1, keepdims=True)
        rows.append(np.linalg.norm(projected[:, None] - codebook, axis=-1).argmin(axis=-1))
    return np.stack(rows)


def test_targets_equal_the_plain_reference(features):
    log_mel, lengths = features
    targets = OBJECTIVE.targets(log_mel, lengths)
    assert targets.shape == (3, 2, 3)
    quantizer = best_rq.random_quantizer(seed=1, num_codebooks=3, codebook_size=11, codebook_dim=4, num_features=32)
    for row, length in enumerate(lengths.tolist()):
        expected = reference_targets(np.asarray(log_mel[row]), length, quantizer)
        np.testing.assert_array_equal(targets[:, row, : expected.shape[1]], expected)


def test_targets_do_not_depend_on_padding(features):
    log_mel, lengths = features
    garbage = jnp.concatenate([log_mel.at[1, 6:].set(99), jnp.full((2, 3, 8), -7.0)], axis=1)
    longer = OBJECTIVE.targets(jnp.concatenate([garbage, garbage]), jnp.concatenate([lengths, lengths]))
    expected = np.asarray(OBJECTIVE.targets(log_mel, lengths))
    np.testing.assert_array_equal(longer[:, 0, :3], expected[:, 0])
    np.testing.assert_array_equal(longer[:, 1, :2], expected[:, 1, :2])


def test_stacks_are_the_encoders_frames():
    samples = [1, 160, 161, 640, 641, 2400, 10239, 10240, 10241]
    factor, lengths = ENCODER.subsampling_factor, jnp.array([ENCODER.front_end.output_length(n) for n in samples])
    for n, length in zip(samples, lengths.tolist(), strict=True):
        stacked = jax.eval_shape(lambda x: best_rq.stack_frames(x, factor), jnp.zeros((1, length, 8)))
        assert stacked.shape[1] == ENCODER.output_length(n)
    whole = best_rq.fully_hidden(jnp.ones((len(samples), 65), bool), lengths, factor)
    assert whole.sum(axis=1).tolist() == [ENCODER.output_length(n) for n in samples]


def test_spans_and_noise():
    log_mel, lengths = jnp.ones((60, 500, 2)), jnp.full((60,), 400)
    masked, hidden = (np.asarray(x) for x in OBJECTIVE.hide(log_mel, lengths, KEY))
    assert hidden[:, 8:400].mean() == pytest.approx(1 - 0.95**8, abs=0.02)
    assert not hidden[:, 400:].any()
    edges = np.diff(np.pad(hidden[:, :400], ((0, 0), (1, 1))).astype(int), axis=1)
    for row in edges:
        widths = np.flatnonzero(row == -1) - np.flatnonzero(row == 1)
        assert (widths[:-1] >= 8).all(), "only the last span may be cut off, by the end"
    np.testing.assert_array_equal(masked[~hidden], 1)
    assert (masked[hidden].mean(), masked[hidden].std()) == pytest.approx((0, 0.1), abs=0.005)
    shorter, same = OBJECTIVE.hide(log_mel[:3, :410], lengths[:3], KEY)
    np.testing.assert_array_equal(same, hidden[:3, :410])
    np.testing.assert_array_equal(shorter, masked[:3, :410])


@pytest.mark.parametrize(
    "change",
    [
        dict(num_codebooks=2),
        dict(codebook_size=7),
        dict(codebook_dim=5),
        dict(mask_probability=0.4),
        dict(mask_length=2),
        dict(noise_stddev=0.3),
        dict(seed=2),
        dict(speech_encoder=ENCODER.clone(subsampling_channels=(3,))),
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_matters(change):
    features = jax.random.normal(jax.random.key(4), (2, 100, 8)), jnp.array([100, 90])

    def outcome(objective: BestRQObjective) -> list[np.ndarray]:
        return [np.asarray(x) for x in (objective.targets(*features), *objective.hide(*features, KEY))]

    pairs = zip(outcome(OBJECTIVE), outcome(dataclasses.replace(OBJECTIVE, **change)), strict=True)
    assert not all(np.array_equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("change", [dict(mask_probability=1.1), dict(mask_length=0)])
def test_bad_fields_are_refused(change):
    with pytest.raises(ValueError, match="BestRQObjective needs"):
        dataclasses.replace(OBJECTIVE, **change)


def random_heads(num_codebooks: int, codebook_size: int) -> dict[str, jax.Array]:
    kernel = jax.random.normal(jax.random.key(5), (num_codebooks, 4, codebook_size))
    return {"kernel": kernel, "bias": jax.random.normal(jax.random.key(6), (num_codebooks, codebook_size))}


def test_cross_entropy_and_gradients_equal_the_plain_ones():
    heads, frames = random_heads(3, 5), jax.random.normal(jax.random.key(7), (2, 6, 4))
    targets = jax.random.randint(jax.random.key(8), (3, 2, 6), 0, 5)
    counted = jnp.array([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]], bool)

    def plain(heads, frames):
        scores = jnp.einsum("bsd,mdv->mbsv", frames, heads["kernel"]) + heads["bias"][:, None, None]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], axis=-1)[..., 0]
        return jnp.sum(losses * counted), jnp.sum((scores.argmax(-1) == targets) * counted)

    def chunked(heads, frames):
        return tuple(best_rq.codebook_cross_entropy(heads, frames, targets, counted))

    (value, correct), gradients = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))(heads, frames)
    (expected, hits), plain_gradients = jax.jit(jax.value_and_grad(plain, argnums=(0, 1), has_aux=True))(heads, frames)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert correct == hits
    for left, right in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain_gradients), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    assert not np.any(gradients[1][~np.asarray(counted)]), "frames that are not counted have no gradient"


def test_scores_of_all_codebooks_are_never_in_memory():
    size, num_codebooks, codebook_size = 64, 32, 512
    arguments = random_heads(num_codebooks, codebook_size), jnp.zeros((1, size, 4))
    targets, counted = jnp.zeros((num_codebooks, 1, size), jnp.int32), jnp.ones((1, size), bool)

    def loss(heads, frames):
        return best_rq.codebook_cross_entropy(heads, frames, targets, counted).loss

    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < size * num_codebooks * codebook_size * 4 / 2


def test_the_loss_is_that_of_its_parts(params, batch, loss):
    """In evaluation: the encoder hears the masked features, the targets are those of the unmasked ones."""
    log_mel, frame_length = ENCODER.front_end(batch["speech"], batch["speech_length"])
    masked, hidden = OBJECTIVE.hide(log_mel, frame_length, jax.random.split(KEY)[0])

    @jax.jit
    def encode(params):
        heard = ENCODER.apply({"params": params}, batch["speech"], batch["speech_length"])
        own = ENCODER.apply({"params": params}, log_mel, frame_length, deterministic=True, method="encode")
        return heard, own, ENCODER.apply({"params": params}, masked, frame_length, deterministic=True, method="encode")

    heard, own, frames = encode(params["speech_encoder"])
    np.testing.assert_allclose(own.embeddings, heard.embeddings, atol=1e-5)
    heads = {name: np.asarray(leaf, np.float64) for name, leaf in params["codebook_heads"].items()}
    scores = np.einsum("bsd,mdv->mbsv", np.asarray(frames.embeddings), heads["kernel"]) + heads["bias"][:, None, None]
    targets = np.asarray(OBJECTIVE.targets(log_mel, frame_length))[..., None]
    losses = np.log(np.exp(scores).sum(axis=-1)) - np.take_along_axis(scores, targets, axis=-1)[..., 0]
    counted = np.asarray(best_rq.fully_hidden(hidden, frame_length, 4))
    assert 0 < counted.sum() < frames.mask.sum()
    output = loss(params, batch)
    np.testing.assert_allclose(output.loss, losses[:, counted].sum(), rtol=1e-5)
    assert output.weight == 3 * counted.sum()
    correct = (scores.argmax(axis=-1) == targets[..., 0])[:, counted].sum()
    assert output.metrics["accuracy"] == (correct, output.weight)
    assert output.metrics["hidden_frames"] == (counted.sum(), sum(ENCODER.output_length(n) for n in LENGTHS))
    assert 0.5 < output.metrics["target_entropy"][0] / output.metrics["target_entropy"][1] < np.log(11)


def test_padding_and_filler_examples_change_nothing(params, batch, loss):
    garbage = jax.random.normal(jax.random.key(9), batch["speech"].shape)
    real = jnp.arange(garbage.shape[1]) < batch["speech_length"][:, None]
    speech = jnp.pad(jnp.where(real, batch["speech"], garbage), ((0, 2), (0, 1000)), constant_values=0.3)
    padded = {"speech": speech, "speech_length": jnp.pad(batch["speech_length"], (0, 2))}
    for one, other in zip(jax.tree.leaves(loss(params, padded)), jax.tree.leaves(loss(params, batch)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_nothing_hidden_is_no_loss_and_no_gradient(params, batch):
    objective = dataclasses.replace(OBJECTIVE, mask_probability=0.0)

    def loss(heads):
        output = objective.loss(params | {"codebook_heads": heads}, batch, rng=KEY)
        return output.loss, output

    (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params["codebook_heads"])
    assert output.loss == output.weight == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients)), "zeros, and no NaN"


def test_steps_in_training_mode_lower_the_loss(params, batch, loss):
    """No stream for SpecAugment is given to the encoder here: it would be an error if `encode` used it."""
    optimizer = optax.adam(0.02)
    step = jax.jit(TrainStep(objective=OBJECTIVE, optimizer=optimizer, training=("speech_encoder",)))
    state, scalars = TrainState.create(params, optimizer), []
    for _ in range(12):
        state, told = step(state, {}, batch, jax.random.key(2))
        scalars.append(told)
    before, after = (loss(tree, batch) for tree in (params, state.trainable))
    assert after.loss < 0.8 * before.loss
    quiet = loss(params, batch, jax.random.fold_in(jax.random.key(2), 0))
    assert abs(scalars[0]["loss"] - quiet.loss / quiet.weight) > 1e-3, "dropout is on"
    assert {"accuracy", "hidden_frames", "target_entropy"} <= scalars[0].keys()


def test_an_encoder_with_a_ctc_head_is_refused(params, batch):
    objective = dataclasses.replace(OBJECTIVE, speech_encoder=ENCODER.clone(ctc_vocab_size=5))
    shapes = nn.unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))
    with pytest.raises(ValueError, match="set ctc_vocab_size to None"):
        jax.eval_shape(lambda params: objective.loss(params, batch, rng=KEY), shapes)


class NoBatches:
    """What a run of no steps reads."""

    position = 0

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


class NoScores:
    """An evaluation of nothing."""

    def predict(self, model):
        return jax.jit(lambda params: params)

    def run(self, predict, params, *, shard):
        return Evaluated({}, [])


def test_ctc_starts_from_all_of_the_pretrained_encoder_but_its_head(tmp_path, batch):
    pretraining = Training(
        model_dir=str(tmp_path / "best_rq"),
        objective=OBJECTIVE,
        optimizer=optax.sgd(1.0),
        train_batches=lambda **_: NoBatches(),
        batch_shapes=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch),
        train_steps=0,
        trainable=("speech_encoder/.*", "codebook_heads/.*"),
        mesh=partitioning.make_mesh(devices=jax.devices()[:1]),
        evaluations={"none": NoScores()},
    )
    pretraining.run()
    ctc = dataclasses.replace(
        pretraining,
        model_dir=str(tmp_path / "ctc"),
        objective=CTCObjective(speech_encoder=ENCODER.clone(ctc_vocab_size=5)),
        trainable=("speech_encoder/.*",),
        initial_checkpoint=pretraining.model_dir,
        seed=1,
    )
    with pytest.raises(
        RestoreError, match=r"(?s)unexpected \(2\): codebook_heads.*only a part.*speech_encoder/ctc_head"
    ):
        ctc.run()
    dataclasses.replace(
        ctc, allow_random=("speech_encoder/ctc_head/.*",), allow_unexpected=("codebook_heads/.*",)
    ).run()
    before, after = (trees.flatten(bundle.load_bundle(tmp_path / name).trainable) for name in ("best_rq", "ctc"))
    new = {"speech_encoder/ctc_head/kernel", "speech_encoder/ctc_head/bias"}
    assert after.keys() - before.keys() == new
    for path in after.keys() - new:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
