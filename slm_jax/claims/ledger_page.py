"""The text of docs/ledger.md."""

from collections.abc import Iterable, Sequence

import numpy as np

from slm_jax.claims.records import Record, Summary, by_seeds
from slm_jax.training.run_log import format_seconds

_TIMED = (
    "Two runs at a time, on a core each, ahead of whatever else the machine did: steps/s are good to about a fifth."
)
_SHARED = "These runs shared their machine: times and steps/s tell an order of magnitude, and are not to be compared."
_ORDER = "Order, what is trained, and on what"
_ALONE = ("Study", "Reducers", "Adapters", _ORDER)
"""Groups whose runs had a core each."""
OPEN_WEIGHTS = "Open weights"
GROUPS = (
    ("Study", "study"),
    ("Reducers", "reducers/"),
    ("Adapters", "adapters/"),
    (_ORDER, ""),
    ("Speech encoder from a tenth of the labels", "scenes_"),
    (OPEN_WEIGHTS, "whisper_base"),
)
"""Titles, and how the names of their records begin; '' takes what is left."""

_HEAD = """# Ledger

Every number of [the claims](claims.md). `python -m slm_jax.claims.ledger` makes this page of the files in
[ledger/](ledger): each is a run or a measurement, with its command, seed and commit. Brackets hold 95% intervals
(bootstrap over the examples of the test set). All scores are of sentences and of a voice that training never had.
"""
_CLAIMS = """
## Claims

`python -m slm_jax.claims --bundle=MODEL_DIR` measured the seeds of experiments/claims/study.gin. Commit {commits}; the
first seed, which ships, took {minutes} minutes.

"""
_RUNS = """
Done by `python -m slm_jax.train --gin_file=FILE` (with `--gin.SEED=SEED`); times include evaluation.
{speed}

"""
_OPEN_WEIGHTS = """
Open-vocabulary English, 500 sentences of a voice that training never had; the headers of the gin files tell of the
data. "alone" is what Whisper itself writes, its decoder included (transformers, greedy). whisper_base_smollm2-2, which
ships, went on from whisper_base_smollm2-1 with more voices, and that from whisper_base_smollm2; the last score of both
is of beam search, the others are greedy.

![Word error rate over steps](images/open_weights.png)

"""
_SHORT = {
    "test/wer": "WER",
    "transcribe/wer": "WER",
    "translate_de/bleu": "German BLEU",
    "translate_es/bleu": "Spanish BLEU",
    "question/exact_match": "question",
    "reply/bleu": "reply BLEU",
    "text_translate_es/bleu": "Spanish BLEU, of transcripts",
    "text_question/exact_match": "question, of transcripts",
    "text_reply/bleu": "reply BLEU, of transcripts",
    "seen_voices/wer": "WER, voices of training",
    "unseen_voice/wer": "WER, unseen voice",
}


def members(records: Iterable[Record], prefix: str) -> list[Record]:
    """The records of a group of GROUPS."""
    prefixes = tuple(other for _, other in GROUPS if other)
    if prefix:
        return [record for record in records if record.name.startswith(prefix)]
    return [record for record in records if not record.name.startswith(prefixes)]


def ledger(claims: Sequence[Summary], records: Sequence[Record]) -> str:
    """The page."""
    parts = [_HEAD]
    if claims:
        minutes = round(claims[0]["seconds"] / 60)
        commits = ", ".join(sorted({summary["commit"] for summary in claims}))
        parts.append(_CLAIMS.format(commits=commits, minutes=minutes))
        parts.append(_claims_table(claims))
    for title, prefix in GROUPS:
        if found := members(records, prefix):
            speed = _TIMED if title in _ALONE else _SHARED
            parts += [f"\n## {title}\n", _RUNS.format(speed=speed), _runs_table(found)]
            parts += [_OPEN_WEIGHTS, *map(_score_lines, found)] if title == OPEN_WEIGHTS else []
    return "".join(parts)


def _score_lines(record: Record) -> str:
    """The scores of a run on its way, a line each."""
    curves = [(name, curve) for name, curve in record.score_curves.items() if name in _SHORT]
    told = {name: ", ".join(f"{score:.1f} at {step}" for step, score in curve) for name, curve in curves}
    return "".join(f"- {record.name}, {_SHORT[name]} over steps: {text}\n" for name, text in told.items())


def _claims_table(claims: Sequence[Summary]) -> str:
    first = claims[0]["claims"]
    names = [f"seed {summary['seed']}" for summary in claims]
    rows = []
    for key, claim in first.items():
        scores = [summary["claims"][key]["score"] for summary in claims]
        held = [summary["claims"][key]["holds"] for summary in claims]
        interval = "[{:.4g}, {:.4g}]".format(*claim["interval"]) if claim["interval"] else ""
        verdict = "" if held[0] is None else "yes" if all(held) else "no" if not any(held) else f"{sum(held)} seeds"
        mean = f"{np.mean(scores):.4g}"
        cells = [f"`{key}`", claim["label"].strip(), f"{scores[0]:.4g} {interval}", *(f"{s:.4g}" for s in scores[1:])]
        rows.append([*cells, mean, str(claim["n"] or ""), claim["bound"], verdict])
    return _table(["key", "number", *names, "mean", "n", "must be", "holds"], rows)


def _runs_table(records: Sequence[Record]) -> str:
    metrics = [name for name in _SHORT if any(name in record.scores for record in records)]
    speeds = {"vectors_per_second": "vectors a second of speech", "steps_per_second": "steps/s"}
    speeds = {key: label for key, label in speeds.items() if any(key in record.speeds for record in records)}
    rows = []
    for seeds in by_seeds(records):
        rows += [_row(record, metrics, tuple(speeds)) for record in seeds]
        rows += [_mean_row(seeds, metrics, tuple(speeds))] if len(seeds) > 1 else []
    columns = ["experiments/", "seed", "commit", "steps", "time", *(_SHORT[name] for name in metrics)]
    return _table([*columns, *speeds.values(), "parameters trained"], rows)


def _row(record: Record, metrics: Sequence[str], speeds: Sequence[str]) -> list[str]:
    numbers = [record.scores.get(name) for name in metrics]
    scores = [f"{n.score:.1f} [{n.low:.1f}, {n.high:.1f}]" if n else "" for n in numbers]
    rates = [f"{record.speeds[key]:.1f}" if key in record.speeds else "" for key in speeds]
    trained = f"{record.trained_parameters:,}" if record.trained_parameters else ""
    took = format_seconds(record.seconds)
    cells = [record.gin_file.removeprefix("experiments/"), str(record.seed), record.commit, str(record.steps), took]
    return [*cells, *scores, *rates, trained]


def _mean_row(seeds: Sequence[Record], metrics: Sequence[str], speeds: Sequence[str]) -> list[str]:
    """Means over seeds of what all of them have, and the lowest and the highest of each score."""
    cells = []
    for name in metrics:
        scores = [record.scores[name].score for record in seeds if name in record.scores]
        whole = len(scores) == len(seeds)
        cells.append(f"{np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})" if whole else "")
    rates = [[record.speeds[key] for record in seeds if key in record.speeds] for key in speeds]
    means = [f"{np.mean(found):.1f}" if len(found) == len(seeds) else "" for found in rates]
    return ["", "mean", "", "", "", *cells, *means, ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
