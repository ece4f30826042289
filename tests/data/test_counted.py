"""Metrics from counts are the metrics over texts, of any examples."""

import functools

import numpy as np
import pytest

from slm_jax.data import metrics
from slm_jax.data.counted import COUNTED

TARGETS = ["Mirela slept well.", "we ran", "der hund läuft schnell nach hause", "no", "the old man reads a book"]
PREDICTIONS = ["mirela slept", "we ran ", "der hund läuft nach hause", "", "the old man reads two books"]
METRICS = {
    "wer": functools.partial(metrics.word_error_rate, normalizer=metrics.basic_normalizer),
    "bleu": metrics.bleu,
    "exact_match": metrics.exact_match,
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("numbers", [range(5), [0, 0, 2, 4], [3], [2, 2]])
def test_counts_give_the_metric_of_the_texts(name, numbers):
    counted = COUNTED[name](TARGETS, PREDICTIONS)
    over_texts = METRICS[name]([TARGETS[i] for i in numbers], [PREDICTIONS[i] for i in numbers])
    assert counted(np.array(numbers)) == pytest.approx(over_texts[name])


@pytest.mark.parametrize("name", COUNTED)
def test_sides_that_do_not_pair_are_refused(name):
    with pytest.raises(ValueError):
        COUNTED[name](TARGETS, PREDICTIONS[:-1])
