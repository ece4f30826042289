"""The Conformer: attention against plain loops, invariance to padding and batch, every field, sizes of the paper."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.audio.log_mel import LogMel
from slm_jax.audio.spec_augment import SpecAugment
from slm_jax.layers.attention import dot_product_attention
from slm_jax.layers.masks import chunk_mask, key_mask
from slm_jax.layers.stack import Remat
from slm_jax.models.conformer import ChunkedAttention, Conformer, Subsampling
from slm_jax.models.conformer_blocks import DepthwiseConv, RelativeAttention, distance_encoding, relative_shift

CONFIG = dict(
    num_layers=2,
    width=8,
    num_heads=2,
    chunk_frames=4,
    subsampling_channels=(3, 4),
    ctc_vocab_size=6,
    front_end=LogMel(num_mels=8, fft_length=512),
)
LENGTHS = (4800, 3000, 100, 0)


def run(encoder: Conformer, variables: dict, samples: jax.Array, lengths: jax.Array, **rngs: jax.Array):
    """The encoder compiled and applied, in training mode if there are random streams."""
    return jax.jit(lambda *args: encoder.apply(*args, deterministic=not rngs, rngs=rngs))(variables, samples, lengths)


@pytest.fixture(scope="module")
def speech():
    return 0.1 * jax.random.normal(jax.random.key(0), (4, 4800)), jnp.array(LENGTHS)


@pytest.fixture(scope="module")
def variables(speech):
    """Parameters none of which is at a special value such as 0 or 1."""
    variables = nn.unbox(jax.jit(Conformer(**CONFIG).init)(jax.random.key(1), *speech))
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="module")
def output(speech, variables):
    return run(Conformer(**CONFIG), variables, *speech)


def test_relative_shift_drawing():
    distances = jnp.broadcast_to(jnp.array([2, 1, 0, -1, -2]), (1, 1, 3, 5)).astype(jnp.float32)
    assert relative_shift(distances)[0, 0].tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]


def naive_attention(params: dict, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Transformer-XL's scores, one pair of frames and one head at a time."""
    size, width = x.shape
    query, key, value = (np.einsum("sd,dhk->shk", x, params[n]["kernel"]) for n in ("query", "key", "value"))
    relative, (heads, head_dim) = params["relative"]["kernel"], query.shape[1:]
    mixed = np.zeros_like(query)
    for h in range(heads):
        for i in range(size):
            scores = np.full(size, -np.inf)
            for j in np.flatnonzero(mask):
                angle = (i - j) * 10000.0 ** (-np.arange(0, width, 2) / width)
                position = np.concatenate([np.sin(angle), np.cos(angle)]) @ relative[:, h]
                content = (query[i, h] + params["content_bias"][h]) @ key[j, h]
                scores[j] = (content + (query[i, h] + params["position_bias"][h]) @ position) / math.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            mixed[i, h] = weights @ value[:, h] / weights.sum()
    return np.einsum("shk,hkd->sd", mixed, params["out"]["kernel"])


@pytest.fixture(scope="module")
def attention_params():
    x = jnp.zeros((1, 3, 8))
    init = jax.jit(RelativeAttention(num_heads=2).init)
    boxed = init(jax.random.key(0), x, jnp.ones((1, 3), bool), distance_encoding(3, 8))
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), nn.unbox(boxed))


def test_attention_equals_the_loops(attention_params):
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    mask = jnp.arange(6) < jnp.array([[6], [4]])
    attended = jax.jit(RelativeAttention(num_heads=2).apply)(attention_params, x, mask, distance_encoding(6, 8))
    params = jax.tree.map(np.asarray, attention_params["params"])
    for row in range(2):
        expected = naive_attention(params, np.asarray(x[row]), np.asarray(mask[row]))
        np.testing.assert_allclose(attended[row], expected, atol=1e-5)


@pytest.mark.parametrize("size", [3, 4, 8, 10])
def test_chunked_attention_equals_attention_of_each_chunk(attention_params, size):
    x = jax.random.normal(jax.random.key(1), (2, size, 8))
    mask = jnp.arange(size) < jnp.array([[size], [size - 2]])
    distances = distance_encoding(min(size, 4), 8)
    chunked = ChunkedAttention(num_heads=2).apply(
        {"params": {"attention": attention_params["params"]}}, x, mask, distances
    )
    params = jax.tree.map(np.asarray, attention_params["params"])
    for row in range(2):
        for start in range(0, size, 4):
            real = np.asarray(mask[row, start : start + 4])
            expected = naive_attention(params, np.asarray(x[row, start : start + 4]), real) if real.any() else 0
            np.testing.assert_allclose(
                chunked[row, start : start + 4], np.broadcast_to(expected, (len(real), 8)), atol=1e-5
            )


def test_chunked_attention_equals_the_masked_whole(attention_params):
    """Chunks as entries of the batch give what a block-diagonal mask over all frames gives."""
    size = 10
    x = jax.random.normal(jax.random.key(1), (2, size, 8))
    mask = jnp.arange(size) < jnp.array([[10], [7]])
    params = attention_params["params"]
    query = jnp.einsum("bsd,dhk->bshk", x, params["query"]["kernel"])
    key, value = (jnp.einsum("bsd,dhk->bhsk", x, params[name]["kernel"]) for name in ("key", "value"))
    relative = jnp.einsum("rd,dhk->rhk", distance_encoding(size, 8), params["relative"]["kernel"])
    bias = relative_shift(jnp.einsum("bqhk,rhk->bhqr", query + params["position_bias"], relative)) / 2
    content = (query + params["content_bias"]) / 2
    whole = dot_product_attention(content, key, value, mask=chunk_mask(size, 4) & key_mask(mask), bias=bias)
    expected = jnp.einsum("bshk,hkd->bsd", whole, params["out"]["kernel"])
    chunked = ChunkedAttention(num_heads=2).apply({"params": {"attention": params}}, x, mask, distance_encoding(4, 8))
    np.testing.assert_allclose(chunked, expected, atol=1e-5)


def test_no_scores_of_all_frames_by_all_frames(attention_params):
    """1000 frames in chunks of 10 need a small part of the temporary memory of 1000 x 1000 scores."""
    x, mask = jnp.zeros((1, 1000, 8)), jnp.ones((1, 1000), bool)
    variables = {"params": {"attention": attention_params["params"]}}

    def temporary_bytes(chunk: int) -> int:
        attend = jax.jit(ChunkedAttention(num_heads=2).apply)
        program = attend.lower(variables, x, mask, distance_encoding(chunk, 8)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(10) * 10 < temporary_bytes(1000)


def test_depthwise_convolution_equals_the_loops():
    x, kernel = jax.random.normal(jax.random.key(0), (1, 6, 2)), jax.random.normal(jax.random.key(1), (5, 2))
    convolved = DepthwiseConv(kernel_size=5).apply({"params": {"kernel": kernel}}, x)
    for channel in range(2):
        expected = np.convolve(x[0, :, channel], kernel[::-1, channel], mode="full")[2:-2]
        np.testing.assert_allclose(convolved[0, :, channel], expected, atol=1e-5)


def test_convolution_crosses_chunk_borders(speech, variables, output):
    """The frame before a border hears the frame after it, and only through the convolutions."""
    samples, _ = speech
    late = (
        4 * 640 + 400
    )  # the second chunk begins at 4 frames of 640 samples; the first chunk's windows end before this
    changed = samples.at[0, late:].set(0)
    after = run(Conformer(**CONFIG), variables, changed, speech[1])
    difference = np.abs(after.embeddings - output.embeddings)[0].max(-1)
    assert difference[3] > 1e-4


def test_subsampling_has_the_length_of_the_real_frames():
    log_mel = jax.random.normal(jax.random.key(0), (1, 9, 8))
    module = Subsampling(channels=(3, 4), width=8)
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(1), log_mel, jnp.array([9])))
    apply = jax.jit(module.apply)
    for length in (0, 1, 4, 5, 9):
        real = jnp.where(jnp.arange(9)[None, :, None] < length, log_mel, 0)
        frames, mask = apply(variables, real, jnp.array([length]))
        assert mask.sum() == -(-length // 4)
        assert not np.any(frames[0, -(-length // 4) :])
        if length:
            alone, _ = apply(variables, log_mel[:, :length], jnp.array([length]))
            np.testing.assert_allclose(frames[0, : alone.shape[1]], alone[0], atol=1e-5)


def test_shapes_masks_and_zeros(output):
    encoder = Conformer(**CONFIG)
    frames = [encoder.output_length(length) for length in LENGTHS]
    assert frames == [8, 5, 1, 0]
    assert output.embeddings.shape == (4, 8, 8) and output.ctc_logits.shape == (4, 8, 7)
    assert output.mask.sum(axis=1).tolist() == frames
    assert not np.any(np.where(output.mask[..., None], 0, output.embeddings))
    assert np.all(np.isfinite(output.ctc_logits))


def test_eight_seconds_are_one_chunk_of_usm():
    assert Conformer(num_layers=1, width=8, num_heads=2).output_length(8 * 16000) == 200


def test_padding_garbage_changes_nothing(speech, variables, output):
    samples, lengths = speech
    garbage = jnp.where(jnp.arange(4800) < lengths[:, None], samples, 1e3)
    other = run(Conformer(**CONFIG), variables, garbage, lengths)
    np.testing.assert_array_equal(other.embeddings, output.embeddings)
    np.testing.assert_array_equal(other.mask, output.mask)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_alone_equals_in_a_batch_whatever_the_padding(speech, variables, output, row):
    samples, length = speech[0][row : row + 1], LENGTHS[row]
    alone = run(Conformer(**CONFIG), variables, samples[:, :length], jnp.array([length]))
    count = alone.embeddings.shape[1]
    np.testing.assert_allclose(alone.embeddings[0], output.embeddings[row, :count], atol=1e-4)
    np.testing.assert_allclose(alone.ctc_logits[0], output.ctc_logits[row, :count], atol=1e-4)


def test_gradients_are_finite_with_padding_and_masking(speech, variables):
    encoder = Conformer(**CONFIG, dropout_rate=0.1, spec_augment=SpecAugment(time_mask_fraction=0.5))

    def loss(variables):
        rngs = {"dropout": jax.random.key(0), "specaugment": jax.random.key(1)}
        return jnp.sum(encoder.apply(variables, *speech, deterministic=False, rngs=rngs).embeddings ** 2)

    gradients = jax.jit(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("remat", [Remat.DOTS, Remat.FULL])
def test_scanned_equals_unrolled(speech, variables, output, remat):
    unrolled = Conformer(**CONFIG, scan_layers=False, remat=remat)
    params = {"params": trees.unstack_layers(variables["params"])}
    assert {"layers_0", "layers_1"} <= params["params"].keys()
    np.testing.assert_allclose(run(unrolled, params, *speech).embeddings, output.embeddings, atol=1e-4)
    rematerialized = run(Conformer(**CONFIG, remat=remat), variables, *speech)
    np.testing.assert_allclose(rematerialized.embeddings, output.embeddings, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        dict(num_layers=1),
        dict(width=16),
        dict(num_heads=4),
        dict(ff_multiplier=2),
        dict(conv_kernel=3),
        dict(block_norm="none"),
        dict(chunk_frames=2),
        dict(chunk_frames=None),
        dict(subsampling_channels=(3, 5)),
        dict(subsampling_channels=(3,)),
        dict(front_end=LogMel(num_mels=9, fft_length=512)),
        dict(dtype=jnp.bfloat16),
    ],
)
def test_every_field_matters(speech, variables, output, change):
    encoder = Conformer(**(CONFIG | change))
    shapes = jax.tree.map(jnp.shape, nn.unbox(jax.eval_shape(encoder.init, jax.random.key(1), *speech)))
    if shapes == jax.tree.map(jnp.shape, variables):
        assert np.abs(run(encoder, variables, *speech).embeddings - output.embeddings).max() > 1e-4


def test_no_ctc_head(speech, variables, output):
    without = Conformer(**(CONFIG | dict(ctc_vocab_size=None)))
    params = {key: value for key, value in variables["params"].items() if key != "ctc_head"}
    frames = run(without, {"params": params}, *speech)
    assert frames.ctc_logits is None
    np.testing.assert_allclose(frames.embeddings, output.embeddings, atol=1e-5)


@pytest.mark.parametrize("field", [dict(dropout_rate=0.3), dict(spec_augment=SpecAugment(time_mask_fraction=0.5))])
def test_noise_is_for_training_only(speech, variables, output, field):
    encoder = Conformer(**CONFIG, **field)
    rngs = {"dropout": jax.random.key(0), "specaugment": jax.random.key(1)}
    training = run(encoder, variables, *speech, **rngs)
    assert np.abs(training.embeddings - output.embeddings).max() > 1e-2
    np.testing.assert_allclose(run(encoder, variables, *speech).embeddings, output.embeddings, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"), [(dict(num_heads=3), "not a multiple of num_heads 3"), (dict(conv_kernel=4), "must be odd")]
)
def test_bad_fields_give_one_clear_error(speech, change, message):
    encoder = Conformer(**(CONFIG | change))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder.init, jax.random.key(0), *speech)


@pytest.mark.parametrize(
    ("size", "billions"),
    [(dict(num_layers=24, width=1024, num_heads=8), 0.606), (dict(num_layers=32, width=1536, num_heads=16), 1.815)],
)
def test_sizes_of_usm(size, billions):
    encoder = Conformer(**size)
    boxed = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 1600)), jnp.array([1600]))["params"]
    assert sum(trees.count(nn.unbox(boxed)).values()) / 1e9 == pytest.approx(billions, abs=0.001)
    assert all(isinstance(leaf, nn.Partitioned) for leaf in trees.flatten(boxed).values())
