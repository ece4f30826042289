"""FastConformer: invariance to padding and batch, lengths, every field."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.audio.nemo_log_mel import NemoLogMel
from slm_jax.layers.stack import Remat
from slm_jax.models.fast_conformer import FastConformer, SeparableSubsampling, StridedConv
from slm_jax.models.interfaces import SpeechEncoder

CONFIG = dict(
    num_layers=2,
    width=8,
    num_heads=2,
    ff_width=12,
    conv_kernel=5,
    subsampling_factor=4,
    subsampling_channels=3,
    ctc_vocab_size=6,
    front_end=NemoLogMel(num_mels=8),
)
LENGTHS = (4800, 3050, 170, 0)


def run(encoder, variables, samples, lengths):
    return jax.jit(encoder.apply)(variables, samples, lengths)


@pytest.fixture(scope="module")
def speech():
    return 0.1 * jax.random.normal(jax.random.key(0), (4, 4800)), jnp.array(LENGTHS)


@pytest.fixture(scope="module")
def variables(speech, random_variables):
    return random_variables(FastConformer(**CONFIG), speech)


@pytest.fixture(scope="module")
def output(speech, variables):
    return run(FastConformer(**CONFIG), variables, *speech)


def test_it_is_a_speech_encoder(speech, output):
    encoder = FastConformer(**CONFIG)
    assert isinstance(encoder, SpeechEncoder)
    size = encoder.output_length(4800)
    assert output.embeddings.shape == (4, size, 8) and output.ctc_logits.shape == (4, size, 7)
    assert not np.any(output.embeddings[~output.mask])
    assert output.mask.sum(1).tolist() == [encoder.output_length(n) for n in LENGTHS]


def test_garbage_in_the_padding_changes_nothing(speech, variables, output):
    samples, lengths = speech
    real = jnp.arange(5600) < lengths[:, None]
    garbage = jnp.where(real, jnp.pad(samples, ((0, 0), (0, 800))), 1e3)
    longer = run(FastConformer(**CONFIG), variables, garbage, lengths)
    size = output.mask.shape[1]
    np.testing.assert_allclose(longer.embeddings[:, :size], output.embeddings, atol=1e-5)
    np.testing.assert_allclose(longer.ctc_logits[:, :size], output.ctc_logits, atol=1e-5)
    assert not np.any(longer.embeddings[:, size:]) and not np.any(longer.mask[:, size:])


@pytest.mark.parametrize("row", range(3))
def test_a_batch_of_one_gives_the_same(row, speech, variables, output):
    length = LENGTHS[row]
    alone = run(FastConformer(**CONFIG), variables, speech[0][row : row + 1, :length], jnp.array([length]))
    size = alone.mask.shape[1]
    assert alone.mask.all() and size == output.mask[row].sum()
    np.testing.assert_allclose(alone.embeddings[0], output.embeddings[row, :size], atol=1e-5)
    np.testing.assert_allclose(alone.ctc_logits[0], output.ctc_logits[row, :size], atol=1e-5)


@pytest.mark.parametrize("factor", [2, 8])
def test_output_length_counts_the_real_frames(factor):
    lengths = jnp.array([0, 1, 159, 160, 320, 1279, 1280, 1281, 1439, 1440, 2560, 2719, 2720, 4000])
    encoder = FastConformer(**(CONFIG | dict(num_layers=1, subsampling_factor=factor)))
    shape = (len(lengths), 4000)
    count = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros(shape), lengths)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), nn.unbox(count))
    mask = run(encoder, params, jnp.zeros(shape), lengths).mask
    assert mask.sum(1).tolist() == [encoder.output_length(n) for n in lengths.tolist()]
    assert mask.shape[1] == encoder.output_length(4000)


def test_scanned_equals_unrolled(speech, variables, output):
    unrolled = FastConformer(**CONFIG, scan_layers=False)
    params = {"params": trees.unstack_layers(variables["params"])}
    assert {"layers_0", "layers_1"} <= params["params"].keys()
    np.testing.assert_allclose(run(unrolled, params, *speech).embeddings, output.embeddings, atol=1e-5)


def test_gradients_are_finite(speech, variables):
    def loss(variables):
        return jnp.sum(FastConformer(**CONFIG, remat=Remat.FULL).apply(variables, *speech).embeddings ** 2)

    gradients = jax.jit(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "change",
    [
        dict(num_layers=1),
        dict(width=16),
        dict(num_heads=4),
        dict(ff_width=10),
        dict(conv_kernel=3),
        dict(subsampling_factor=8),
        dict(subsampling_channels=4),
        dict(projection_bias="none"),
        dict(convolution_bias="none"),
        dict(input_scale="none"),
        dict(front_end=NemoLogMel(num_mels=8, preemphasis=0.5)),
        dict(dtype=jnp.bfloat16),
    ],
)
def test_every_field_matters(change, speech, variables, output, shapes_of):
    encoder = FastConformer(**(CONFIG | change))
    before = {path: leaf.shape for path, leaf in trees.flatten(variables["params"]).items()}
    if shapes_of(encoder, speech) == before:
        assert np.abs(run(encoder, variables, *speech).embeddings - output.embeddings).max() > 1e-4


def test_biases_are_where_they_are_said_to_be(speech, shapes_of):
    def biased(**change):
        paths = shapes_of(FastConformer(**(CONFIG | change)), speech)
        return {path.removeprefix("layers/") for path in paths if path.startswith("layers/") and path.endswith("bias")}

    projections = {f"self_attention/{name}/bias" for name in ("query", "key", "value", "out")}
    projections |= {f"{n}_feed_forward/{m}/bias" for n in ("first", "second") for m in ("expand", "contract")}
    assert biased() - biased(projection_bias="none") == projections
    maps = {f"convolution/{name}/bias" for name in ("values", "gate", "depthwise", "out")}
    assert biased() - biased(convolution_bias="none") == maps


def test_no_ctc_head(speech, variables, output):
    without = FastConformer(**(CONFIG | dict(ctc_vocab_size=None)))
    params = {key: value for key, value in variables["params"].items() if key != "ctc_head"}
    frames = run(without, {"params": params}, *speech)
    assert frames.ctc_logits is None
    np.testing.assert_allclose(frames.embeddings, output.embeddings, atol=1e-5)


def test_a_strided_convolution_is_the_sum_over_a_window():
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, 2))
    for groups in (1, 2):
        layer = StridedConv(features=2, groups=groups)
        params = nn.unbox(layer.init(jax.random.key(1), x))["params"]
        padded, kernel = np.pad(x[0], ((1, 1), (1, 1), (0, 0))), np.asarray(params["kernel"])
        y = layer.apply({"params": params}, x)[0]
        assert y.shape == (3, 2, 2)
        for t, f, c in np.ndindex(3, 2, 2):
            window = padded[2 * t : 2 * t + 3, 2 * f : 2 * f + 3]
            window = window if groups == 1 else window[..., c : c + 1]
            np.testing.assert_allclose(y[t, f, c], (window * kernel[..., c]).sum(), atol=1e-5)


def test_subsampling_does_not_see_the_padding():
    layer = SeparableSubsampling(factor=8, channels=3, width=4)
    x, lengths = jax.random.normal(jax.random.key(0), (3, 32, 8)), jnp.array([32, 17, 3])
    x = jnp.where(jnp.arange(32)[:, None] < lengths[:, None, None], x, 0)
    variables = nn.unbox(layer.init(jax.random.key(1), x, lengths))
    variables = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), variables)
    together, mask = layer.apply(variables, x, lengths)
    assert mask.sum(1).tolist() == [4, 3, 1]
    for row, length in enumerate(lengths.tolist()):
        alone, _ = layer.apply(variables, x[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(together[row, : alone.shape[1]], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_heads=3), "not a multiple of num_heads 3"),
        (dict(conv_kernel=4), "must be odd"),
        (dict(subsampling_factor=6), "must be a power of two, got 6"),
        (dict(subsampling_factor=1), "must be a power of two, got 1"),
        (dict(projection_bias="some"), "choose one of 'none', 'learned'"),
    ],
)
def test_bad_fields_give_one_clear_error(change, message, speech):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(FastConformer(**(CONFIG | change)).init, jax.random.key(0), *speech)


def test_too_short_a_batch_is_an_error():
    with pytest.raises(ValueError, match="makes no frame of 159 samples; pad them to 160"):
        jax.eval_shape(FastConformer(**CONFIG).init, jax.random.key(0), jnp.zeros((1, 159)), jnp.array([159]))
