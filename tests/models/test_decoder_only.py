"""Decoder-only models: PaLM's parallel block against plain numpy, every field, published sizes.

Llama, Qwen and Gemma are compared with transformers in tests/weights/huggingface/test_decoders.py.
"""

import functools
import math
import pathlib

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.layers.positions import LinearScaling
from slm_jax.models.decoder_blocks import Norm, ParallelBlock, SandwichBlock
from slm_jax.models.decoder_only import DecoderOnly

GIN = pathlib.Path(__file__).resolve().parents[2] / "gin"
CONFIG = dict(vocab_size=17, width=12, ff_width=20, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=6)
PALM = CONFIG | dict(num_kv_heads=1, block=ParallelBlock, norm=Norm(kind="layer_without_bias", epsilon=1e-5))
WINDOWED = dict(windows=(3, None), num_layers=2)


@pytest.fixture(scope="module")
def inputs():
    prefix = jax.random.normal(jax.random.key(0), (2, 5, 12))
    mask = jnp.arange(5) < jnp.array([[5], [3]])
    return prefix, mask, jax.random.randint(jax.random.key(1), (2, 4), 0, 17)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, variables, inputs):
    return model.apply(variables, model.apply(variables, *inputs), method="logits")


def layer_norm(x, params):
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt(np.mean(centered**2, axis=-1, keepdims=True) + 1e-5) * params["scale"]


def rotate(x, base=10_000.0):
    """Heads [H, L, D]: pairs (i, i + D / 2) as complex numbers, turned by position times frequency."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    turned = pairs * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def palm_reference(params, prefix, targets):
    """One example through one parallel block, without padding."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    layer = jax.tree.map(lambda leaf: leaf[0], params["decoder"]["layers"])
    table = params["token_embedder"]["embedding"]
    x = np.concatenate([np.asarray(prefix, np.float64), table[np.asarray(targets)]])
    h = layer_norm(x, layer["norm"])
    query, key, value = (
        np.einsum("le,ehd->hld", h, layer["attention"][name]["kernel"]) for name in ("query", "key", "value")
    )
    position = np.arange(len(x))
    visible = (position[None] < len(prefix)) | (position[None] <= position[:, None])
    scores = np.where(visible, np.einsum("hqd,gkd->hqk", rotate(query), rotate(key)) / math.sqrt(6), -np.inf)
    weights = np.exp(scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    attended = np.einsum("hqk,gkd,hde->qe", weights, value, layer["attention"]["out"]["kernel"])
    gate = h @ layer["mlp"]["gate"]["kernel"]
    fed = (gate / (1 + np.exp(-gate)) * (h @ layer["mlp"]["up"]["kernel"])) @ layer["mlp"]["down"]["kernel"]
    return (layer_norm(x + attended + fed, params["decoder"]["final_norm"]) @ table.T)[len(prefix) :]


def test_parity_of_the_parallel_block_with_plain_numpy(inputs, random_variables):
    prefix, mask, targets = inputs
    model = DecoderOnly(**PALM, prefix_attention="bidirectional")
    variables = random_variables(model, inputs)
    ours = logits(model, variables, inputs)
    for example, length in enumerate(mask.sum(axis=1)):
        expected = palm_reference(variables["params"], prefix[example, : int(length)], targets[example])
        np.testing.assert_allclose(ours[example], expected, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        dict(vocab_size=18),
        dict(width=16),
        dict(ff_width=8),
        dict(num_layers=2),
        dict(num_heads=2),
        dict(num_kv_heads=4),
        dict(head_dim=8),
        dict(block=ParallelBlock),
        dict(block=SandwichBlock),
        dict(norm=Norm(kind="layer")),
        dict(head_norm="rms"),
        dict(projection_bias="query_key_value"),
        dict(output_head="untied"),
        dict(scan_layers=False),
    ],
    ids=str,
)
def test_every_field_of_the_structure_matters(inputs, shapes_of, change):
    model = DecoderOnly(**(CONFIG | change))
    changed = (jnp.zeros((2, 5, model.width)), *inputs[1:])
    assert shapes_of(model, changed) != shapes_of(DecoderOnly(**CONFIG), inputs)


@pytest.mark.parametrize(
    "change",
    [
        dict(activation="gelu"),
        dict(norm=Norm(kind="layer_without_bias")),
        dict(norm=Norm(epsilon=0.5)),
        dict(norm=Norm(scale_offset=1.0)),
        dict(rotary_base=3.0),
        dict(rotary_scaling=LinearScaling(factor=8.0)),
        dict(windows=(3,)),
        dict(query_scale=3.0),
        dict(attention_softcap=0.1),
        dict(embedding_scale="sqrt_width"),
        dict(logit_scale=0.5),
        dict(logit_softcap=0.1),
    ],
    ids=str,
)
def test_every_field_of_the_computation_matters(inputs, random_variables, change):
    variables = random_variables(DecoderOnly(**CONFIG), inputs)
    output, before = (logits(DecoderOnly(**(CONFIG | fields)), variables, inputs) for fields in (change, {}))
    assert np.abs(output - before).max() > 1e-3


def test_what_layers_see_and_their_rotary_bases_matter(inputs, random_variables):
    variables = random_variables(DecoderOnly(**(CONFIG | WINDOWED)), inputs)

    def changed(**fields):
        return logits(DecoderOnly(**(CONFIG | WINDOWED | fields)), variables, inputs)

    before = changed()
    for fields in (
        dict(windows=(None, 3)),
        dict(windows=(3,)),
        dict(windows=(2, None)),
        dict(prefix_attention="bidirectional"),
        dict(window_rotary_base=3.0),
        dict(rotary_base=3.0, window_rotary_base=10_000.0),
    ):
        assert np.abs(changed(**fields) - before).max() > 1e-3, fields
    for fields in (dict(windows=(3, 99)), dict(windows=(3, None, 3)), dict(window_rotary_base=10_000.0)):
        np.testing.assert_allclose(changed(**fields), before, atol=1e-5)


def test_a_causal_prefix_is_read_like_targets(inputs, random_variables):
    """As embedded tokens in the prefix, padded, or as the first of the targets, tokens mean the same."""
    model = DecoderOnly(**(CONFIG | WINDOWED))
    variables = random_variables(model, inputs)
    tokens = jax.random.randint(jax.random.key(2), (1, 9), 0, 17)
    nothing = jnp.zeros((1, 5, 12)), jnp.zeros((1, 5), bool)
    expected = logits(model, variables, (*nothing, tokens))[:, 3:]
    embedded = model.apply(variables, tokens[:, :3], method="embed")
    prefix = jnp.pad(embedded, ((0, 0), (0, 2), (0, 0)), constant_values=jnp.nan)
    ours = logits(model, variables, (prefix, jnp.arange(5)[None] < 3, tokens[:, 3:]))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_initial_embeddings_have_the_asked_size():
    tokens = jnp.zeros((1, 1), jnp.int32)
    model = DecoderOnly(**(CONFIG | dict(vocab_size=1000)), embedding_stddev=0.3)
    table = model.init(jax.random.key(0), tokens, method="embed")["params"]["token_embedder"]["embedding"].value
    assert np.std(table) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DecoderOnly(**CONFIG, activation="swish"), "DecoderOnly.activation is 'swish', choose one of 'gelu'"),
        (lambda: Norm(kind="batch"), "Norm.kind is 'batch', choose one of 'rms'"),
    ],
)
def test_an_unknown_choice_gives_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "parameters"), [("palm_8b", 8.63e9), ("gemma_2b", 2_506_172_416), ("smollm2_135m", 134_515_008)]
)
def test_published_sizes(name, parameters):
    gin.clear_config()
    gin.add_config_file_search_path(str(GIN))
    gin.parse_config_file(f"models/lms/{name}.gin")
    model = gin.query_parameter("%LM").scoped_configurable_fn()
    gin.clear_config()
    prefix = jax.ShapeDtypeStruct((1, 2, model.width), jnp.float32)
    mask, tokens = jax.ShapeDtypeStruct((1, 2), bool), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), prefix, mask, tokens)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == pytest.approx(parameters, rel=0.002)
