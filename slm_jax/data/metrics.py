"""Metrics over decoded text, as SeqIO calls them: metric(targets, predictions) -> {name: value}.

All are percentages or, for BLEU and chrF, on sacrebleu's scale of 0 to 100. A `normalizer` is applied to both sides:
`functools.partial(word_error_rate, normalizer=basic_normalizer)`.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

import jiwer
import sacrebleu

Normalizer = Callable[[str], str]


def no_normalizer(text: str) -> str:
    """The text as it is."""
    return text


def basic_normalizer(text: str) -> str:
    """Lower case, without punctuation (apostrophes inside words stay), single spaces."""
    text = unicodedata.normalize("NFC", text).casefold().replace("’", "'")
    text = re.sub(r"(?<!\w)'|'(?!\w)|[^\w\s']|_", " ", text)
    return " ".join(text.split())


def word_error_rate(
    targets: Sequence[str], predictions: Sequence[str], *, normalizer: Normalizer = no_normalizer
) -> dict[str, float]:
    """100 x word edits / words of the references, summed over the corpus.

    Words predicted for an empty reference count as insertions. If all references are empty, edits are divided by 1.
    """
    pairs = _normalized(targets, predictions, normalizer)
    return {"wer": _error_rate(pairs, lambda t, p: jiwer.process_words(t, p), lambda text: len(text.split()))}


def character_error_rate(
    targets: Sequence[str], predictions: Sequence[str], *, normalizer: Normalizer = no_normalizer
) -> dict[str, float]:
    """100 x character edits / characters of the references; empty references as in `word_error_rate`."""
    pairs = _normalized(targets, predictions, normalizer)
    return {"cer": _error_rate(pairs, lambda t, p: jiwer.process_characters(t, p), lambda text: len(text.strip()))}


def bleu(
    targets: Sequence[str], predictions: Sequence[str], *, normalizer: Normalizer = no_normalizer
) -> dict[str, float]:
    """Corpus BLEU (sacrebleu, 13a tokens, exponential smoothing)."""
    references, hypotheses = _sides(_normalized(targets, predictions, normalizer))
    return {"bleu": float(sacrebleu.corpus_bleu(hypotheses, [references]).score) if references else 0.0}


def chrf(
    targets: Sequence[str], predictions: Sequence[str], *, normalizer: Normalizer = no_normalizer
) -> dict[str, float]:
    """Corpus chrF2 (sacrebleu)."""
    references, hypotheses = _sides(_normalized(targets, predictions, normalizer))
    return {"chrf": float(sacrebleu.corpus_chrf(hypotheses, [references]).score) if references else 0.0}


def exact_match(
    targets: Sequence[str], predictions: Sequence[str], *, normalizer: Normalizer = no_normalizer
) -> dict[str, float]:
    """Percentage of predictions equal to their reference, spaces at the ends aside."""
    pairs = _normalized(targets, predictions, normalizer)
    return {"exact_match": 100.0 * sum(t.strip() == p.strip() for t, p in pairs) / max(len(pairs), 1)}


def _normalized(targets: Sequence[str], predictions: Sequence[str], normalizer: Normalizer) -> list[tuple[str, str]]:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} references but {len(predictions)} predictions")
    return [
        (normalizer(target), normalizer(prediction)) for target, prediction in zip(targets, predictions, strict=True)
    ]


def _sides(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [target for target, _ in pairs], [prediction for _, prediction in pairs]


def _error_rate(
    pairs: list[tuple[str, str]],
    align: Callable[[list[str], list[str]], jiwer.WordOutput | jiwer.CharacterOutput],
    length: Callable[[str], int],
) -> float:
    """Empty references, which jiwer refuses, are counted here."""
    spoken = [pair for pair in pairs if length(pair[0]) > 0]
    insertions = sum(length(prediction) for target, prediction in pairs if length(target) == 0)
    edits, total = insertions, 0
    if spoken:
        found = align(*_sides(spoken))
        edits += found.substitutions + found.deletions + found.insertions
        total = found.hits + found.substitutions + found.deletions
    return 100.0 * edits / max(total, 1)
