"""Reducers: the drawings of their documentation, bad input, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.decoding.ctc import ctc_greedy
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.models.reducers import (
    CTCBlankFilter,
    CTCRunMean,
    KeepAll,
    RandomDiscard,
    Repeats,
    Stacking,
    keep_frames,
    starts_run,
)

LETTERS = "_abcdefghijklmnopqrstuvwxyz"


def frames_of(*rows: str, **fields) -> EncoderOutput:
    """One letter a frame, one feature a frame; '_' is padding."""
    values = jnp.array([[float(LETTERS.index(letter)) for letter in row] for row in rows])
    return EncoderOutput(embeddings=values[..., None], mask=values > 0, **fields)


def letters(frames: EncoderOutput) -> list[str]:
    assert not np.any(np.where(frames.mask[..., None], 0, frames.embeddings)), "padding holds zeros"
    return ["".join(LETTERS[int(value)] for value in row) for row in frames.embeddings[..., 0]]


def logits_of(posteriors: list[list[float]], labels: list[str]) -> jax.Array:
    """Scores of ten labels and the blank ('-'), with the given posterior of the blank."""
    rows = []
    for blanks, row in zip(posteriors, labels, strict=True):
        for blank, label in zip(blanks, row, strict=True):
            scores = np.full(11, 1e-6)
            scores[10] = blank
            scores[0 if label == "-" else int(label)] += 1 - blank
            rows.append(np.log(scores))
    return jnp.asarray(rows, jnp.float32).reshape(len(posteriors), -1, 11)


def test_starts_run_drawing():
    assert starts_run(jnp.array([[10, 7, 7, 10, 7]])).tolist() == [[True, True, False, True, True]]


def test_keep_frames_drawing():
    keep = jnp.array([[1, 0, 1, 1, 1, 0]], bool)
    kept = keep_frames(frames_of("acdef_"), keep, length=4, room=jnp.array([3]))
    assert letters(kept) == ["ade_"]
    assert kept.mask.tolist() == [[True, True, True, False]]
    assert kept.dropped.tolist() == [1]
    assert letters(keep_frames(frames_of("acdef_"), keep, length=4)) == ["adef"]


def test_keep_frames_never_keeps_padding_and_moves_scores_along():
    frames = frames_of("abc__", ctc_logits=jnp.arange(10.0).reshape(1, 5, 2))
    kept = keep_frames(frames, jnp.array([[0, 1, 1, 1, 1]], bool), length=4)
    assert letters(kept) == ["bc__"]
    assert kept.ctc_logits.tolist() == [[[2, 3], [4, 5], [0, 0], [0, 0]]]
    assert kept.dropped.tolist() == [0]


def test_keep_all_changes_nothing():
    frames = frames_of("abc_", "a___")
    kept = KeepAll()(frames)
    assert letters(kept) == ["abc_", "a___"]
    assert kept.dropped.tolist() == [0, 0]
    assert KeepAll().output_length(4) == 4


def test_stacking_drawing():
    frames = frames_of("abc_", "____")
    stacked = Stacking(factor=2)(frames)
    assert stacked.embeddings.tolist() == [[[1, 2], [3, 0]], [[0, 0], [0, 0]]]
    assert stacked.mask.tolist() == [[True, True], [False, False]]
    assert Stacking(factor=3)(frames).embeddings.tolist()[0] == [[1, 2, 3], [0, 0, 0]]


def test_random_discard_drawing():
    frames = frames_of("abcdefg_", "ab______", "________")
    kept = RandomDiscard(ratio=3).apply({}, frames)
    assert letters(kept) == ["adg", "a__", "___"]
    assert kept.dropped.tolist() == [0, 0, 0]


def test_random_discard_keeps_order_and_count_and_every_frame_has_its_turn():
    frames = frames_of("abcdefg_", "ab______", "________")
    discard = jax.jit(lambda key: RandomDiscard(ratio=3).apply({}, frames, rngs={"discard": key}))
    seen = set()
    for seed in range(20):
        kept = discard(jax.random.key(seed))
        first, second, third = letters(kept)
        assert list(first) == sorted(set(first)) and "_" not in first
        assert second in ("a__", "b__") and third == "___"
        assert kept.dropped.tolist() == [0, 0, 0]
        seen |= set(first)
    assert seen == set("abcdefg")


POSTERIORS, LABELS = [[0.99, 0.2, 0.1, 0.95, 0.3, 0.99]], ["-77-5-"]


@pytest.mark.parametrize(("repeats", "expected"), [(Repeats.KEEP, "bce"), (Repeats.FIRST, "be_"), ("first", "be_")])
def test_blank_filter_drawing(repeats, expected):
    frames = frames_of("abcdef", ctc_logits=logits_of(POSTERIORS, LABELS))
    kept = CTCBlankFilter(threshold=0.9, max_fraction=0.5, repeats=repeats)(frames)
    assert letters(kept) == [expected]
    assert kept.dropped.tolist() == [0]


def test_blank_filter_counts_what_finds_no_room():
    frames = frames_of("abcdef", ctc_logits=logits_of(POSTERIORS, LABELS))
    kept = CTCBlankFilter(threshold=0.9, max_fraction=0.3)(frames)
    assert letters(kept) == ["bc"]
    assert kept.dropped.tolist() == [1]
    assert letters(CTCBlankFilter(threshold=0.97, max_fraction=1.0)(frames)) == ["bcde__"]


@pytest.mark.parametrize("max_fraction", [0.3, 0.5, 1.0])
def test_padding_and_batch_change_nothing_of_the_blank_filter(max_fraction):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 9, 11)), jnp.float32)
    together = CTCBlankFilter(threshold=0.2, max_fraction=max_fraction)(
        frames_of("abcdef___", "ghijklmno", "p________", ctc_logits=logits)
    )
    for row, name in enumerate(["abcdef", "ghijklmno", "p"]):
        for padding in (0, 1, 5):
            garbage = jnp.pad(logits[row : row + 1, : len(name)], ((0, 0), (0, padding), (0, 0)), constant_values=7.0)
            frames = frames_of(name + "_" * padding, ctc_logits=garbage)
            alone = CTCBlankFilter(threshold=0.2, max_fraction=max_fraction)(frames)
            assert letters(alone)[0].rstrip("_") == letters(together)[row].rstrip("_")
            assert alone.dropped.tolist() == [together.dropped[row]]


def test_blank_filter_keeps_uncertain_blanks_of_one_run():
    frames = frames_of("abc", ctc_logits=logits_of([[0.8, 0.8, 0.1]], ["--7"]))
    assert letters(CTCBlankFilter(threshold=0.9, max_fraction=1.0, repeats=Repeats.FIRST)(frames)) == ["abc"]


def test_blank_filter_keeps_at_least_one_real_frame():
    posteriors = [[0.999, 0.99, 0.995, 0.1], [0.999, 0.99, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]
    frames = frames_of("abc_", "a___", "____", ctc_logits=logits_of(posteriors, ["---7", "--77", "7777"]))
    kept = CTCBlankFilter(threshold=0.5, max_fraction=0.5)(frames)
    assert letters(kept) == ["b_", "a_", "__"]


def test_run_mean_drawing():
    frames = frames_of("abcdef", ctc_logits=logits_of(POSTERIORS, LABELS))
    kept = CTCRunMean(max_fraction=0.5)(frames)
    np.testing.assert_allclose(kept.embeddings[0, :, 0], [2.5, 5, 0], atol=1e-6)
    np.testing.assert_allclose(
        np.exp(kept.ctc_logits[0, :2, [7, 5, 10]]), [[0.85, 0], [0, 0.7], [0.15, 0.3]], atol=1e-4
    )
    assert kept.mask.tolist() == [[True, True, False]] and kept.dropped.tolist() == [0]
    short = CTCRunMean(max_fraction=0.1)(frames)
    assert short.mask.tolist() == [[True]] and short.dropped.tolist() == [1]


def test_run_means_are_what_greedy_ctc_writes_whatever_the_padding():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 12, 4)), jnp.float32)
    frames = frames_of("abcdefghijkl", "abcdefgh____", "a___________", ctc_logits=logits)
    kept = CTCRunMean(max_fraction=1.0)(frames)
    tokens, lengths = ctc_greedy(logits, frames.mask)
    assert lengths[0] > 4
    for row in range(2):
        size = int(lengths[row])
        assert int(kept.mask[row].sum()) == size
        assert jnp.argmax(kept.ctc_logits[row, :size], axis=-1).tolist() == tokens[row, :size].tolist()
        real = int(frames.mask[row].sum())
        for padding in (0, 3):
            garbage = jnp.pad(logits[row : row + 1, :real], ((0, 0), (0, padding), (0, 0)), constant_values=7.0)
            alone = CTCRunMean(max_fraction=1.0)(frames_of("abcdefghijkl"[:real] + "_" * padding, ctc_logits=garbage))
            np.testing.assert_allclose(alone.embeddings[0, :size], kept.embeddings[row, :size], atol=1e-6)
            np.testing.assert_allclose(alone.ctc_logits[0, :size], kept.ctc_logits[row, :size], atol=1e-5)
            assert int(alone.mask.sum()) == size


def test_an_utterance_of_blanks_keeps_its_least_blank_run():
    frames = frames_of("abc_", "____", ctc_logits=logits_of([[0.9, 0.7, 0.9, 0.1], [0.1] * 4], ["---7", "7777"]))
    kept = CTCRunMean()(frames)
    assert kept.mask.tolist() == [[True, False], [False, False]]
    np.testing.assert_allclose(kept.embeddings[0, :, 0], [2, 0], atol=1e-6)


@pytest.mark.parametrize(
    "reducer", [KeepAll(), Stacking(factor=3), RandomDiscard(ratio=3), CTCBlankFilter(), CTCRunMean()]
)
@pytest.mark.parametrize("size", [1, 5, 6, 7])
def test_output_length_is_the_length(reducer, size):
    frames = frames_of("a" * size, ctc_logits=jnp.zeros((1, size, 3)))
    reduced = reducer.apply({}, frames) if isinstance(reducer, RandomDiscard) else reducer(frames)
    assert reduced.embeddings.shape[1] == reduced.mask.shape[1] == reducer.output_length(size)


def test_output_length_of_the_blank_filter_is_exact():
    assert CTCBlankFilter(max_fraction=0.07).output_length(100) == 7
    assert CTCBlankFilter(max_fraction=0.5).output_length(101) == 51


@pytest.mark.parametrize("reducer", [CTCBlankFilter(), CTCRunMean()])
def test_a_reducer_without_scores_says_what_to_do(reducer):
    with pytest.raises(ValueError, match="give the speech encoder a CTC head"):
        reducer(frames_of("abc"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CTCBlankFilter(threshold=0.0), "threshold"),
        (lambda: CTCBlankFilter(max_fraction=1.5), "max_fraction"),
        (lambda: CTCBlankFilter(repeats="last"), "not a valid Repeats"),
        (lambda: CTCRunMean(max_fraction=0.0), "CTCRunMean.max_fraction"),
        (lambda: Stacking(factor=0), "Stacking.factor"),
        (lambda: RandomDiscard(ratio=0).apply({}, frames_of("abc")), "RandomDiscard.ratio"),
    ],
)
def test_bad_fields_give_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
