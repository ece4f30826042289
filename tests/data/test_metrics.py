"""Metrics on small texts whose value can be counted by hand."""

import functools

import pytest
import seqio

from slm_jax.data import metrics


def test_word_error_rate_counts_all_edits_over_all_words() -> None:
    targets = ["the cat sat", "on a mat"]
    predictions = ["the cat sat down", "in a"]  # one insertion; one substitution, one deletion
    assert metrics.word_error_rate(targets, predictions) == {"wer": pytest.approx(100 * 3 / 6)}


def test_character_error_rate_counts_characters() -> None:
    assert metrics.character_error_rate(["abcd"], ["abxde"]) == {"cer": pytest.approx(100 * 2 / 4)}


def test_words_for_an_empty_reference_are_insertions() -> None:
    assert metrics.word_error_rate(["", "a b"], ["x y z", "a b"]) == {"wer": pytest.approx(150.0)}
    assert metrics.character_error_rate(["", "ab"], ["xyz", "ab"]) == {"cer": pytest.approx(150.0)}


def test_only_empty_references() -> None:
    assert metrics.word_error_rate([""], [""]) == {"wer": 0.0}
    assert metrics.word_error_rate([""], ["x y"]) == {"wer": 200.0}
    assert metrics.word_error_rate([], []) == {"wer": 0.0}


def test_an_empty_prediction_is_all_deletions() -> None:
    assert metrics.word_error_rate(["a b"], [""]) == {"wer": 100.0}


def test_bleu_and_chrf_of_a_perfect_translation_are_100() -> None:
    text = ["ein roter Ball liegt im Garten", "die Frau liest ein Buch"]
    assert metrics.bleu(text, text)["bleu"] == pytest.approx(100)
    assert metrics.chrf(text, text)["chrf"] == pytest.approx(100)
    assert metrics.bleu(text, text[::-1])["bleu"] < 10


def test_exact_match_is_a_percentage() -> None:
    assert metrics.exact_match(["a", "b", "c", "d"], ["a ", "b", "x", "D"]) == {"exact_match": 50.0}


@pytest.mark.parametrize(
    "metric", [metrics.word_error_rate, metrics.character_error_rate, metrics.bleu, metrics.chrf, metrics.exact_match]
)
def test_every_metric_takes_a_normalizer_and_refuses_unequal_lists(metric) -> None:
    target, prediction = ["It's a Red, round ball today."], ["it's  a red round ball TODAY"]
    assert metric(target, prediction) != metric(target, target)
    assert metric(target, prediction, normalizer=metrics.basic_normalizer) == metric(target, target)
    with pytest.raises(ValueError, match="2 references but 1 predictions"):
        metric(["a", "b"], ["a"])


def test_basic_normalizer() -> None:
    assert metrics.basic_normalizer("  Don’t -- 'quote' Ärger_1!\n") == "don't quote ärger 1"


def test_seqio_accepts_the_metrics() -> None:
    metric = functools.partial(metrics.word_error_rate, normalizer=metrics.basic_normalizer)
    wrapped = seqio.metrics.PassthroughLegacyMetric.from_metric_fn(metric)
    assert wrapped.model_output_type is seqio.metrics.ModelOutputType.PREDICTION
