"""What a training run reached, as a small file that is kept: docs/ledger/NAME.json."""

import dataclasses
import json
import pathlib
import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from slm_jax.claims.measures import measured, metric
from slm_jax.evaluation import Prediction
from slm_jax.report import SUMMARY
from slm_jax.tasks.spoken_scenes.families import FAMILY
from slm_jax.training.bundle import FOLDER, MANIFEST, BundleManifest, load_bundle
from slm_jax.training.run_log import read_metrics

Summary = Mapping[str, Any]
"""What `python -m slm_jax.claims` wrote for one seed, and the commit."""

Curve = Sequence[Sequence[int | float]]
"""Pairs of a step and a loss."""

TEXT = "text_"
"""How the names of evaluations begin that have the transcript in the place of the speech."""

_FIRST_FILE = "model-info.txt"
"""What a run writes when it starts."""
_WARM_UP_ROWS = 5
"""Rows of metrics.jsonl at the start, in which programs are compiled."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A score of a test set, with its interval (95%, bootstrap)."""

    score: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
      name: of its gin file below experiments/claims or experiments, with the seed if it is not 0.
      gin_file, command: how it is done again.
      seed: of data order, dropout and initialisation.
      commit: the code it ran on.
      seconds: its wall time, evaluations included; of a run without a report, from its last start to its bundle.
      steps: updates.
      scores: by evaluation and metric, as 'transcribe/wer'.
      speeds: 'steps_per_second' after compilation, 'vectors_per_second' that speech becomes for the language model.
      curve: training loss at steps.
      held_out: losses a token with true, shuffled and no speech at steps.
      trained_parameters: how many, if the run says so.
      score_curves: scores of evaluations on the way at steps, as 'test/wer'.
    """

    name: str
    gin_file: str
    command: str
    seed: int
    commit: str
    seconds: float
    steps: int
    scores: Mapping[str, Number]
    speeds: Mapping[str, float]
    curve: Curve
    held_out: Mapping[str, Curve]
    trained_parameters: int | None = None
    score_curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """FOLDER/NAME.json."""
        path = folder / f"{self.name.replace('/', '-')}.json"
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: pathlib.Path) -> "Record":
        """The inverse of `save`."""
        values = json.loads(path.read_text())
        scores = {name: Number(**number) for name, number in values.pop("scores").items()}
        return cls(**values, scores=scores)


def load_kept(folder: pathlib.Path) -> tuple[list[Summary], list[Record]]:
    """Everything in docs/ledger: measured claims, in the order of their seeds, and runs, by name and seed."""
    claims = sorted(folder.glob("claims-*.json"))
    runs = sorted(set(folder.glob("*.json")) - set(claims))
    records = sorted(map(Record.load, runs), key=lambda run: (run.name.removesuffix(f"-{run.seed}"), run.seed))
    return [json.loads(path.read_text()) for path in claims], records


def by_seeds(records: Iterable[Record]) -> list[list[Record]]:
    """The runs whose commands differ in the seed alone, together; in the order of the first of each."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(re.sub(r" --gin\.SEED=\d+", "", record.command), []).append(record)
    return list(found.values())


def record_of(model_dir: pathlib.Path, *, commit: str) -> Record:
    """What the MODEL_DIR of a finished run tells.

    Raises:
      ValueError: the run was not configured by one gin file of experiments/.
      slm_jax.training.bundle.BundleError: it has no bundle yet.
    """
    manifest = load_bundle(model_dir).manifest
    gin_file = _gin_file(manifest)
    seed = seed_of(manifest)
    summary = model_dir / SUMMARY
    facts: dict[str, Any] = json.loads(summary.read_text()) if summary.is_file() else {}
    train, held_out = read_metrics(model_dir, "train"), read_metrics(model_dir, "eval")
    name = re.sub(r"^experiments/(claims/)?|\.gin$", "", gin_file)
    return Record(
        name=f"{name}-{seed}" if seed else name,
        gin_file=gin_file,
        command=f"python -m slm_jax.train --gin_file={gin_file}{''.join(_flags(manifest))}",
        seed=seed,
        commit=commit,
        seconds=_seconds(model_dir, facts),
        steps=manifest.step,
        scores=dict(_scores(model_dir, step=manifest.step)),
        speeds=_speeds(train),
        curve=[[row["step"], round(row["loss"], 4)] for row in train],
        held_out={
            kind: [[row["step"], round(row[key], 4)] for row in held_out if key in row]
            for kind in ("true", "shuffled", "no")
            if any((key := f"loss_{kind}_audio") in row for row in held_out)
        },
        trained_parameters=facts.get("trained_parameters"),
        score_curves=_score_curves(held_out),
    )


def _score_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int | float]]]:
    names = sorted({key for row in rows for key in row if "/" in key})
    return {name: [[row["step"], round(row[name], 2)] for row in rows if name in row] for name in names}


def _seconds(model_dir: pathlib.Path, facts: Mapping[str, Any]) -> float:
    if facts:
        return float(facts["seconds"])
    first, last = model_dir / _FIRST_FILE, model_dir / FOLDER / MANIFEST
    return round(last.stat().st_mtime - first.stat().st_mtime, 1)


def _gin_file(manifest: BundleManifest) -> str:
    found = [path[path.index("experiments/") :] for path in manifest.gin_files if "experiments/" in path]
    if len(found) != 1:
        raise ValueError(f"the run was configured by {', '.join(manifest.gin_files)}, not by one file of experiments/")
    return found[0]


def _flags(manifest: BundleManifest) -> Iterator[str]:
    for binding in manifest.gin_bindings:
        name, _, value = (part.strip() for part in binding.partition("="))
        if name != "MODEL_DIR":
            simple = "'" in value and not set(value) & set('"$`\\!')
            quoted = f'"{value}"' if simple else shlex.quote(value)
            yield f" --gin.{name}={quoted}"


def seed_of(manifest: BundleManifest) -> int:
    """What the command line set SEED to, or 0."""
    bindings = "\n".join(manifest.gin_bindings)
    found = re.search(r"^SEED\s*=\s*(\d+)$", bindings, re.MULTILINE)
    return int(found[1]) if found else 0


def _scores(model_dir: pathlib.Path, *, step: int) -> list[tuple[str, Number]]:
    scores = []
    for path in sorted((model_dir / "predictions").glob(f"*-{step}.jsonl")):
        evaluation = path.stem.removesuffix(f"-{step}")
        answers = [Prediction(**json.loads(line)) for line in path.read_text().splitlines()]
        family = evaluation.removeprefix(TEXT)
        name, score = metric(answers, family if family in FAMILY else "transcribe")
        claim = measured(evaluation, evaluation, score, n=len(answers))
        low, high = (round(bound, 4) for bound in (claim.low or 0.0, claim.high or 0.0))
        scores.append((f"{evaluation}/{name}", Number(round(claim.score, 4), low, high, claim.n)))
    return scores


def _speeds(train: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    warm = train[_WARM_UP_ROWS:] or train

    def typical(key: str) -> float:
        return statistics.median(row[key] for row in warm)

    speeds = {"steps_per_second": typical("steps_per_second")}
    # Runs on cached features do not know how long their speech is.
    if all("speech_vectors" in row and "audio_seconds_per_second" in row for row in warm):
        seconds = typical("audio_seconds_per_second") / typical("examples_per_second")
        speeds["vectors_per_second"] = typical("speech_vectors") / seconds
    return {name: round(value, 3) for name, value in speeds.items()}
