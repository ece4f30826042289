"""SpecAugment: what is hidden, what never is, every field."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.audio.spec_augment import SpecAugment, random_stripes, stretch_channels

LENGTHS = np.array([40, 25, 3, 0])
TIME_ONLY = SpecAugment(num_frequency_masks=0, num_time_masks=2, time_mask_size=100, time_mask_fraction=0.25)
FREQUENCY_ONLY = SpecAugment(num_frequency_masks=1, frequency_mask_size=4, num_time_masks=0)


@pytest.fixture(scope="module")
def log_mel() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (4, 40, 10)) + 3


def hidden(augment: SpecAugment, log_mel: jax.Array, seed: int) -> np.ndarray:
    return np.asarray(jax.jit(augment.__call__)(log_mel, jnp.asarray(LENGTHS), jax.random.key(seed)) != log_mel)


def runs(flags: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    return [len(run) for run in "".join("x" if flag else " " for flag in flags).split()]


def test_masks_stay_within_the_real_frames_and_below_their_sizes(log_mel):
    for seed in range(5):
        mask = hidden(TIME_ONLY, log_mel, seed)
        for row, length in enumerate(LENGTHS):
            assert not mask[row, length:].any()
            frames = mask[row].any(axis=-1)
            assert (mask[row] == frames[:, None]).all(), "a time mask hides whole frames"
            assert frames.sum() <= 2 * int(0.25 * length)


def test_frequency_masks_hide_one_stripe_of_all_real_frames(log_mel):
    sizes = set()
    for seed in range(8):
        mask = hidden(FREQUENCY_ONLY, log_mel, seed)
        channels = mask[0].any(axis=0)
        assert (mask[0] == channels).all()
        sizes.add(sum(runs(channels)))
        assert len(runs(channels)) <= 1
    assert max(sizes) <= 4 and len(sizes) > 2


def test_stripes_reach_both_ends_and_every_width():
    stripes = jax.jit(
        lambda key: random_stripes(key, num_masks=1, max_width=jnp.full((400,), 2), extent=jnp.full((400,), 5), size=7)
    )(jax.random.key(0))
    assert stripes.any(axis=0).tolist() == [True] * 5 + [False] * 2
    counts = np.bincount(np.asarray(stripes.sum(axis=1)), minlength=3)
    assert len(counts) == 3 and counts.min() > 100


def test_hidden_values_are_the_mean_of_the_channel(log_mel):
    augmented = FREQUENCY_ONLY(log_mel, jnp.asarray(LENGTHS), jax.random.key(1))
    mask = augmented != log_mel
    mean = np.stack([x[:length].mean(0) if length else x[0] for x, length in zip(log_mel, LENGTHS, strict=True)])
    expected = np.broadcast_to(mean[:, None], log_mel.shape)
    np.testing.assert_allclose(augmented[mask], expected[mask], atol=1e-5)


def test_the_key_decides(log_mel):
    augment = SpecAugment(frequency_mask_size=5, time_mask_fraction=0.2)
    assert (hidden(augment, log_mel, 3) == hidden(augment, log_mel, 3)).all()
    assert (hidden(augment, log_mel, 3) != hidden(augment, log_mel, 4)).any()


@pytest.mark.parametrize(
    "change",
    [
        dict(num_frequency_masks=0),
        dict(frequency_mask_size=9),
        dict(num_time_masks=6),
        dict(time_mask_size=1),
        dict(time_mask_fraction=0.9),
        dict(channel_shift=1.0),
    ],
)
def test_every_field_matters(log_mel, change):
    augment = SpecAugment(frequency_mask_size=4, num_time_masks=2, time_mask_fraction=0.25)
    assert (hidden(augment, log_mel, 0) != hidden(dataclasses.replace(augment, **change), log_mel, 0)).any()


@pytest.mark.parametrize(
    "low, high, expected",
    [(1, 1, [10, 20, 30, 30]), (0, -3, [0, 0, 0, 0]), (0.5, 0.5, [5, 15, 25, 30]), (0, 0, [0, 10, 20, 30])],
)
def test_stretch_drawing(low, high, expected):
    row = jnp.array([[[0.0, 10, 20, 30]]])
    stretched = stretch_channels(row, jnp.array([float(low)]), jnp.array([float(high)]))
    np.testing.assert_allclose(stretched[0, 0], expected, atol=1e-5)


def test_ends_move_independently_and_no_farther_than_allowed():
    shift = SpecAugment(num_frequency_masks=0, num_time_masks=0, channel_shift=2.0)
    ramp = jnp.broadcast_to(jnp.arange(11.0), (500, 1, 11))
    moved = jax.jit(shift.__call__)(ramp, jnp.ones(500, jnp.int32), jax.random.key(0)) - ramp
    low, high = np.asarray(moved[:, 0, 2]), np.asarray(moved[:, 0, 8])  # away from the ends, where values repeat
    assert np.abs(np.asarray(moved)).max() <= 2.0
    assert low.min() < -1.2 and low.max() > 1.2 and high.min() < -1.2 and high.max() > 1.2
    assert abs(np.corrcoef(low, high)[0, 1]) < 0.6
    assert len(set(np.round(low, 4))) > 400


def test_padding_stays_what_it_was():
    shift = SpecAugment(num_frequency_masks=0, num_time_masks=0, channel_shift=2.0)
    log_mel = jnp.where(jnp.arange(6)[:, None] < 4, jax.random.normal(jax.random.key(0), (1, 6, 5)), 0)
    moved = shift(log_mel, jnp.array([4]), jax.random.key(1))
    assert (moved[:, 4:] == 0).all() and (moved[:, :4] != log_mel[:, :4]).any()
