"""Word errors by kind of word: the drawing, agreement with the word error rate, bad input."""

import numpy as np
import pytest

from slm_jax.data.metrics import word_error_rate
from slm_jax.data.word_errors import error_rate, word_errors

NAMES = {"mirela", "tubifa"}
TARGETS = ["mirela slept well", "the cat saw tubifa", "", "we ran", "tubifa"]
PREDICTIONS = ["mila slept so well", "cat saw tubi fa", "a b", "we ran", ""]


def test_drawing():
    chosen, others = word_errors(TARGETS[:1], PREDICTIONS[:1], chosen=NAMES)
    assert chosen.tolist() == [[1, 1]] and others.tolist() == [[1, 2]]


def test_both_kinds_together_are_the_word_error_rate():
    chosen, others = word_errors(TARGETS, PREDICTIONS, chosen=NAMES)
    assert chosen[:, 1].tolist() == [1, 1, 0, 0, 1] and others[:, 1].tolist() == [2, 3, 0, 2, 0]
    expected = word_error_rate(TARGETS, PREDICTIONS)["wer"]
    np.testing.assert_allclose(error_rate(chosen + others), expected, rtol=1e-12)
    assert error_rate(chosen) == 100.0


def test_without_chosen_words_there_is_no_rate_of_them():
    chosen, others = word_errors(TARGETS, PREDICTIONS, chosen=())
    assert error_rate(chosen) == 0 and not chosen.any()
    np.testing.assert_allclose(error_rate(others), word_error_rate(TARGETS, PREDICTIONS)["wer"], rtol=1e-12)


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 references but 2 predictions"):
        word_errors(["a"], ["a", "b"], chosen=())
