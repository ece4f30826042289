"""T5: parity with plain numpy, every field, published sizes."""

import functools
import math
import pathlib

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import FeedForward
from slm_jax.models.t5 import T5
from slm_jax.models.t5_blocks import EncoderBlock, Positions

GIN = pathlib.Path(__file__).resolve().parents[2] / "gin"
CONFIG = dict(
    vocab_size=17,
    width=12,
    ff_width=20,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_heads=2,
    head_dim=4,
    relative_buckets=8,
    relative_max_distance=10,
)


@pytest.fixture(scope="module")
def inputs():
    prefix = jax.random.normal(jax.random.key(0), (2, 12, 12))
    mask = jnp.arange(12) < jnp.array([[12], [7]])
    return prefix, mask, jax.random.randint(jax.random.key(1), (2, 9), 0, 17)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, variables, inputs):
    return model.apply(variables, model.apply(variables, *inputs), method="logits")


@pytest.fixture(scope="module")
def variables(inputs, random_variables):
    return random_variables(T5(**CONFIG), inputs)


def rms_norm(x, params):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * params["scale"]


def mlp(x, params):
    gate, up = x @ params["gate"]["kernel"], x @ params["up"]["kernel"]
    gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * up) @ params["down"]["kernel"]


def attention(x, memory, params, visible, bias):
    query, key, value = (
        np.einsum("le,ehd->hld", source, params[name]["kernel"])
        for name, source in (("query", x), ("key", memory), ("value", memory))
    )
    scores = np.where(visible, np.einsum("hqd,hkd->hqk", query, key) + bias, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hqk,hkd,hde->qe", weights, value, params["out"]["kernel"])


def bucket(distance, *, bidirectional, buckets=8, farthest=10):
    """One relative position (key minus query), as the T5 paper's code buckets it."""
    start = 0
    if bidirectional:
        buckets //= 2
        start = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    far = exact + int(math.log(distance / exact) / math.log(farthest / exact) * (buckets - exact))
    return start + min(far, buckets - 1)


def position_bias(size, params, *, bidirectional):
    rows = [[bucket(k - q, bidirectional=bidirectional) for k in range(size)] for q in range(size)]
    return np.moveaxis(params["embedding"][np.array(rows)], -1, 0)


def reference_logits(params, prefix, length, targets):
    """One example through one encoder and one decoder layer, padding cut off."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    encoder, decoder = params["encoder"], params["decoder"]
    layer = jax.tree.map(lambda leaf: leaf[0], encoder["layers"])
    x = np.asarray(prefix, np.float64)[:length]
    bias = position_bias(length, encoder["relative_position_bias"], bidirectional=True)
    h = rms_norm(x, layer["attention_norm"])
    x = x + attention(h, h, layer["attention"], True, bias)
    x = x + mlp(rms_norm(x, layer["mlp_norm"]), layer["mlp"])
    memory = rms_norm(x, encoder["final_norm"])

    layer = jax.tree.map(lambda leaf: leaf[0], decoder["layers"])
    y = params["token_embedder"]["embedding"][np.asarray(targets)]
    bias = position_bias(len(y), decoder["relative_position_bias"], bidirectional=False)
    h = rms_norm(y, layer["self_attention_norm"])
    y = y + attention(h, h, layer["self_attention"], np.tril(np.ones((len(y), len(y)), bool)), bias)
    y = y + attention(rms_norm(y, layer["cross_attention_norm"]), memory, layer["cross_attention"], True, 0.0)
    y = y + mlp(rms_norm(y, layer["mlp_norm"]), layer["mlp"])
    return rms_norm(y, decoder["final_norm"]) @ params["logits_dense"]["kernel"]


def test_parity_with_plain_numpy(inputs, variables):
    prefix, mask, targets = inputs
    ours = logits(T5(**CONFIG), variables, inputs)
    for example, length in enumerate(mask.sum(axis=1)):
        expected = reference_logits(variables["params"], prefix[example], int(length), targets[example])
        np.testing.assert_allclose(ours[example], expected, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        dict(vocab_size=18),
        dict(width=16),
        dict(ff_width=8),
        dict(num_encoder_layers=2),
        dict(num_decoder_layers=2),
        dict(num_heads=1),
        dict(head_dim=8),
        dict(relative_buckets=4),
        dict(output_head="tied"),
        dict(feed_forward=FeedForward),
        dict(position_tables="per_layer"),
        dict(scan_layers=False),
    ],
    ids=str,
)
def test_every_field_of_the_structure_matters(inputs, shapes_of, change):
    model = T5(**(CONFIG | change))
    changed = (jnp.zeros((2, 12, model.width)), *inputs[1:])
    assert shapes_of(model, changed) != shapes_of(T5(**CONFIG), inputs)


@pytest.mark.parametrize(
    "change", [dict(relative_max_distance=6), dict(activation="relu"), dict(norm_epsilon=1e-2)], ids=str
)
def test_every_field_of_the_computation_matters(inputs, variables, change):
    model = T5(**(CONFIG | change))
    assert np.abs(logits(model, variables, inputs) - logits(T5(**CONFIG), variables, inputs)).max() > 1e-3


def test_equal_tables_of_all_layers_are_one_of_the_stack(inputs, variables):
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    for stack in ("encoder", "decoder"):
        table = params[stack].pop("relative_position_bias")
        params[stack]["layers"]["relative_position_bias"] = jax.tree.map(lambda leaf: leaf[None], table)
    own = logits(T5(**CONFIG, position_tables="per_layer"), {"params": params}, inputs)
    np.testing.assert_allclose(own, logits(T5(**CONFIG), variables, inputs), atol=1e-5)


def test_a_tied_head_scales_by_the_square_root_of_the_width(inputs, variables, shapes_of):
    model = T5(**CONFIG, output_head=OutputHead.TIED)
    params = {name: tree for name, tree in variables["params"].items() if name != "logits_dense"}
    assert shapes_of(model, inputs) == {path: leaf.shape for path, leaf in trees.flatten(params).items()}
    hidden = model.apply({"params": params}, *inputs)
    expected = hidden @ params["token_embedder"]["embedding"].T / math.sqrt(12)
    np.testing.assert_allclose(model.apply({"params": params}, hidden, method="logits"), expected, atol=1e-5)


def test_parameters_carry_logical_axes(inputs):
    boxed = jax.eval_shape(T5(**CONFIG).init, jax.random.key(0), *inputs)["params"]
    assert boxed["token_embedder"]["embedding"].names == ("vocab", "embed")
    assert boxed["logits_dense"]["kernel"].names == ("embed", "vocab")
    assert boxed["decoder"]["layers"]["mlp"]["gate"]["kernel"].names == ("layers", "embed", "mlp")
    assert boxed["encoder"]["relative_position_bias"]["embedding"].names == ("relpos_buckets", "heads")


def test_initial_queries_are_smaller_by_the_square_root_of_the_head():
    layer = EncoderBlock(num_heads=8, head_dim=16, ff_width=8)
    positions = Positions(jnp.arange(2), jnp.arange(2), jnp.zeros((1, 8, 2, 2)))
    example = (jnp.zeros((1, 2, 64)), None, jnp.ones((1, 1, 2), bool), positions)
    kernels = nn.unbox(layer.init(jax.random.key(0), *example))["params"]["attention"]
    assert np.std(kernels["query"]["kernel"]) == pytest.approx((64 * 16) ** -0.5, rel=0.05)
    assert np.std(kernels["key"]["kernel"]) == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("t5_1_1_small", 77),
        ("t5_1_1_base", 248),
        ("t5_1_1_large", 783),
        ("t5_1_1_xl", 2_850),
        ("t5_1_1_xxl", 11_100),
        ("mt5_small", 300),
        ("mt5_base", 582),
        ("mt5_large", 1_230),
        ("mt5_xl", 3_740),
        ("mt5_xxl", 12_900),
        ("t5_scenes", 3.42),
        ("t5_tiny", 0.181),
    ],
)
def test_published_sizes(name, millions):
    gin.clear_config()
    gin.add_config_file_search_path(str(GIN))
    gin.parse_config_file(f"models/lms/{name}.gin")
    model = gin.query_parameter("%LM").scoped_configurable_fn()
    prefix = jax.ShapeDtypeStruct((1, 2, model.width), jnp.float32)
    mask, tokens = jax.ShapeDtypeStruct((1, 2), bool), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), prefix, mask, tokens)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    gin.clear_config()
    assert count / 1e6 == pytest.approx(millions, rel=0.01)
