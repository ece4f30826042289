"""wav2vec 2.0: sums written out, invariance to padding and batch, lengths, every attribute."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.layers.stack import Remat
from slm_jax.models.interfaces import SpeechEncoder
from slm_jax.models.wav2vec2 import ConvNorm, NormOrder, TimeNorm, Wav2Vec2, standardize

SIZES = dict(
    num_layers=2,
    width=12,
    num_heads=3,
    ff_width=20,
    conv_features=(6, 5, 8),
    conv_kernels=(10, 3, 2),
    conv_strides=(5, 2, 2),
    position_kernel=6,
    position_groups=3,
    ctc_vocab_size=6,
    ctc_blank=2,
)
BASE = dict(conv_norm="time", norm_order="after", conv_bias=False)
LARGE = dict(conv_norm="frame", norm_order="before", conv_bias=True)
KINDS = pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
NUM_SAMPLES = 700
LENGTHS = (700, 433, 31, 0)
BIG = dict(num_layers=24, width=1024, num_heads=16, ff_width=4096, conv_norm="frame", norm_order="before")


@pytest.fixture(scope="module")
def speech():
    rng = np.random.default_rng(0)
    return jnp.asarray(0.1 * rng.normal(size=(4, NUM_SAMPLES)) + 0.05, jnp.float32), jnp.array(LENGTHS)


@pytest.fixture(scope="module")
def variables_of(random_variables, speech):
    """Variables of an encoder, none at a special value; the same whenever it has the same parameters."""
    return lambda encoder: random_variables(encoder, speech)


def run(encoder, variables, samples, lengths, **options):
    return jax.jit(lambda *args: encoder.apply(*args, **options))(variables, samples, lengths)


def test_standardize_drawing():
    drawn = standardize(jnp.array([[1.0, 3.0, 9.0]]), jnp.array([2]))
    np.testing.assert_allclose(drawn, [[-1.0, 1.0, 0.0]], atol=1e-6)


def test_time_norm_is_the_textbook_s_over_real_frames():
    x = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32) + 2
    scale, bias = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    params = {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}
    real = np.arange(7) < np.array([[7], [4], [0]])
    normed = TimeNorm(epsilon=0.3).apply(params, jnp.asarray(x), jnp.asarray(real))
    for row, count in enumerate((7, 4)):
        of_real = x[row, :count]
        expected = (of_real - of_real.mean(0)) / np.sqrt(of_real.var(0) + 0.3) * scale + bias
        np.testing.assert_allclose(normed[row, :count], expected, atol=1e-5)
    assert np.all(np.isfinite(normed))


@KINDS
def test_output_length_is_the_number_of_frames(variables_of, kind):
    encoder = Wav2Vec2(**SIZES, **kind)
    assert isinstance(encoder, SpeechEncoder)
    variables, lengths = variables_of(encoder), np.arange(24, 132)
    frames = [encoder.output_length(int(length)) for length in lengths]
    batch = jnp.zeros((len(lengths), int(lengths[-1])))
    assert run(encoder, variables, batch, jnp.asarray(lengths)).mask.sum(axis=1).tolist() == frames
    for length in (0, 1, encoder.min_samples - 1, encoder.min_samples, encoder.min_samples + 19, 131):
        shape = jax.eval_shape(encoder.apply, variables, jnp.zeros((1, length)), jnp.array([length]))
        count = encoder.output_length(length)
        assert shape.embeddings.shape == (1, count, 12) and shape.mask.shape == (1, count)
    assert encoder.output_length(encoder.min_samples) == 1 and encoder.output_length(encoder.min_samples - 1) == 0


def test_frames_of_the_published_models():
    encoder = Wav2Vec2(**BIG)
    assert encoder.min_samples == 400
    assert [encoder.output_length(n) for n in (0, 399, 400, 719, 720, 16000)] == [0, 0, 1, 1, 2, 49]


@KINDS
def test_shapes_masks_and_zeros(speech, variables_of, kind):
    encoder = Wav2Vec2(**SIZES, **kind)
    output = run(encoder, variables_of(encoder), *speech)
    frames = [encoder.output_length(length) for length in LENGTHS]
    assert frames == [34, 21, 1, 0]
    assert output.embeddings.shape == (4, 34, 12) and output.ctc_logits.shape == (4, 34, 7)
    assert output.mask.sum(axis=1).tolist() == frames
    assert not np.any(np.where(output.mask[..., None], 0, output.embeddings))
    assert np.all(np.isfinite(output.embeddings)) and np.all(np.isfinite(output.ctc_logits))


@KINDS
@pytest.mark.parametrize("waveform", ["standardized", "as_is"])
def test_padding_garbage_changes_nothing(speech, variables_of, kind, waveform):
    encoder = Wav2Vec2(**SIZES, **kind, waveform=waveform)
    variables, (samples, lengths) = variables_of(encoder), speech
    output = run(encoder, variables, samples, lengths)
    for garbage in (1e3, jnp.nan, jnp.inf):
        padded = jnp.where(jnp.arange(NUM_SAMPLES) < lengths[:, None], samples, garbage)
        jax.tree.map(np.testing.assert_array_equal, run(encoder, variables, padded, lengths), output)


@KINDS
def test_alone_equals_in_a_batch_whatever_the_padding(speech, variables_of, kind):
    encoder = Wav2Vec2(**SIZES, **kind)
    variables, (samples, lengths) = variables_of(encoder), speech
    output = run(encoder, variables, samples, lengths)
    for row, length in enumerate(LENGTHS):
        alone = run(encoder, variables, samples[row : row + 1, :length], lengths[row : row + 1])
        count = encoder.output_length(length)
        assert alone.embeddings.shape[1] == count and np.all(alone.mask)
        np.testing.assert_allclose(alone.embeddings[0], output.embeddings[row, :count], atol=1e-4)
        np.testing.assert_allclose(alone.ctc_logits[0], output.ctc_logits[row, :count], atol=1e-4)


def test_loudness_and_offset_are_not_heard(speech, variables_of):
    encoder = Wav2Vec2(**SIZES, **LARGE)
    variables, (samples, lengths) = variables_of(encoder), speech
    output, louder = (run(encoder, variables, each, lengths) for each in (samples, 3 * samples + 0.2))
    np.testing.assert_allclose(louder.embeddings, output.embeddings, atol=1e-3)


def test_the_blank_is_last(speech, variables_of):
    """Class c of the parameters is class c below the blank, c - 1 above it."""
    encoder = Wav2Vec2(**SIZES)
    variables = variables_of(encoder)
    output, head = run(encoder, variables, *speech), variables["params"]["ctc_head"]
    stored = np.asarray(output.embeddings @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(output.ctc_logits, stored[..., [0, 1, 3, 4, 5, 6, 2]], atol=1e-4)


def test_no_ctc_head(speech, variables_of):
    variables = variables_of(Wav2Vec2(**SIZES))
    output = run(Wav2Vec2(**SIZES), variables, *speech)
    without = Wav2Vec2(**(SIZES | dict(ctc_vocab_size=None)))
    params = {key: value for key, value in variables["params"].items() if key != "ctc_head"}
    frames = run(without, {"params": params}, *speech)
    assert frames.ctc_logits is None
    np.testing.assert_array_equal(frames.embeddings, output.embeddings)


@KINDS
def test_scanned_equals_unrolled(speech, variables_of, kind):
    encoder = Wav2Vec2(**SIZES, **kind)
    variables = variables_of(encoder)
    output = run(encoder, variables, *speech)
    params = {"params": trees.unstack_layers(variables["params"])}
    unrolled = run(Wav2Vec2(**SIZES, **kind, scan_layers=False), params, *speech)
    np.testing.assert_allclose(unrolled.embeddings, output.embeddings, atol=1e-4)
    rematerialized = run(Wav2Vec2(**SIZES, **kind, remat=Remat.FULL), variables, *speech)
    np.testing.assert_allclose(rematerialized.embeddings, output.embeddings, atol=1e-4)


@KINDS
def test_gradients_are_finite_with_padding(speech, variables_of, kind):
    encoder = Wav2Vec2(**SIZES, **kind)

    def loss(variables):
        return jnp.sum(encoder.apply(variables, *speech, deterministic=False).embeddings ** 2)

    gradients = jax.jit(jax.grad(loss))(variables_of(encoder))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "change",
    [
        dict(num_layers=1),
        dict(width=24),
        dict(num_heads=4),
        dict(ff_width=10),
        dict(conv_features=(6, 4, 8)),
        dict(conv_kernels=(10, 3, 3)),
        dict(conv_strides=(5, 2, 3)),
        dict(conv_norm="frame"),
        dict(conv_bias=True),
        dict(projection_norm="none"),
        dict(position_kernel=5),
        dict(position_groups=4),
        dict(norm_order="before"),
        dict(norm_epsilon=0.1),
        dict(conv_activation="relu"),
        dict(activation="relu"),
        dict(ctc_vocab_size=5),
        dict(ctc_blank=0),
        dict(waveform="as_is"),
        dict(dtype=jnp.bfloat16),
    ],
    ids=str,
)
def test_every_attribute_matters(speech, variables_of, change):
    """Parameters of other shapes, or other frames or scores from the same ones."""
    encoder, changed = Wav2Vec2(**SIZES), Wav2Vec2(**(SIZES | change))
    variables, others = variables_of(encoder), variables_of(changed)
    if jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, others):
        before, after = run(encoder, variables, *speech), run(changed, variables, *speech)
        differs = before.embeddings.shape != after.embeddings.shape
        assert differs or np.abs(before.ctc_logits - after.ctc_logits).max() > 1e-3


@KINDS
def test_bfloat16_computes_the_same_roughly(speech, variables_of, kind):
    encoder = Wav2Vec2(**SIZES, **kind)
    variables = variables_of(encoder)
    exact = run(encoder, variables, *speech)
    rough = run(Wav2Vec2(**SIZES, **kind, dtype="bfloat16"), variables, *speech)
    assert rough.embeddings.dtype == jnp.bfloat16 and rough.ctc_logits.dtype == jnp.float32
    error = np.abs(np.asarray(rough.embeddings, np.float32) - exact.embeddings).mean()
    assert error < 0.05 * np.abs(exact.embeddings).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_heads=5), "width 12 is not a multiple of num_heads 5"),
        (dict(position_groups=5), "width 12 is not a multiple of position_groups 5"),
        (dict(conv_strides=(5, 2)), "got 3, 3 and 2 numbers"),
        (dict(conv_features=(), conv_kernels=(), conv_strides=()), "got 0, 0 and 0 numbers"),
        (dict(ctc_blank=7), r"ctc_blank is 7, but the head has the classes 0 \.\. 6"),
        (dict(conv_norm="batch"), "conv_norm is 'batch', choose one of 'time', 'frame'"),
    ],
)
def test_bad_attributes_give_one_clear_error(change, message):
    with pytest.raises(ValueError, match=message):
        Wav2Vec2(**(SIZES | change))


def test_enums_may_be_given_by_value():
    assert Wav2Vec2(**SIZES, **LARGE) == Wav2Vec2(
        **SIZES, conv_norm=ConvNorm.FRAME, norm_order=NormOrder.BEFORE, conv_bias=True
    )


@pytest.mark.parametrize(
    ("size", "millions"), [(dict(num_layers=12, width=768, num_heads=12, ff_width=3072), 94.4), (BIG, 315.4)]
)
def test_sizes_of_the_paper(size, millions):
    """95 and 317 million with the vector that stands for masked frames and the quantiser's projections."""
    encoder = Wav2Vec2(**size)
    boxed = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 1600)), jnp.array([1600]))["params"]
    assert sum(trees.count(nn.unbox(boxed)).values()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert all(isinstance(leaf, nn.Partitioned) for leaf in trees.flatten(boxed).values())
