"""The ledger: `python -m slm_jax.claims.ledger [--run=MODEL_DIR ...] [--claims=FOLDER ...]`, in a checkout of slm_jax.

Keeps what runs and measurements of claims reached in docs/ledger/, and writes docs/ledger.md and its pictures from all
that is kept there.
"""

import json
import pathlib
import subprocess
from collections.abc import Sequence

from absl import flags

from slm_jax import gin_utils
from slm_jax.claims import ledger_page, plots
from slm_jax.claims.records import Record, Summary, load_kept, record_of

FLAGS = flags.FLAGS

flags.DEFINE_multi_string("run", [], "MODEL_DIR of a run that finished; again for more.")
flags.DEFINE_multi_string(
    "claims", [], "What `python -m slm_jax.claims` wrote for a seed of the study; again for more."
)
flags.DEFINE_string("docs", "docs", "The folder that holds ledger/, ledger.md and images/.")


def head() -> str:
    """The commit that is checked out."""
    command = ["git", "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def keep_claims(folder: pathlib.Path, kept: pathlib.Path, *, commit: str) -> None:
    """Copies summary.json of one seed, with the commit, to claims-SEED.json."""
    summary = json.loads((folder / "summary.json").read_text())
    text = json.dumps({"commit": commit, **summary}, indent=1) + "\n"
    (kept / f"claims-{summary['seed']}.json").write_text(text)


def draw(claims: Sequence[Summary], records: Sequence[Record], images: pathlib.Path) -> None:
    """All pictures for which there are numbers."""
    groups = {title: ledger_page.members(records, prefix) for title, prefix in ledger_page.GROUPS}
    if claims:
        plots.plot_biasing(claims, images / "biasing.png")
        plots.plot_families(claims, images / "families.png")
    if reducers := groups["Reducers"]:
        plots.plot_reducers(reducers, images / "reducers.png")
    if adapters := groups["Adapters"]:
        plots.plot_curves(adapters, images / "adapter_curves.png")
    if open_weights := groups[ledger_page.OPEN_WEIGHTS]:
        plots.plot_score_curves(open_weights, images / "open_weights.png")


def main(arguments: Sequence[str]) -> None:
    """Keeps, then writes."""
    if arguments:
        raise ValueError(f"{' '.join(arguments)!r} is no flag: give --run or --claims again before each further folder")
    docs = pathlib.Path(FLAGS.docs)
    kept = docs / "ledger"
    kept.mkdir(parents=True, exist_ok=True)
    commit = head()
    for folder in FLAGS.run:
        record_of(pathlib.Path(folder), commit=commit).save(kept)
    for folder in FLAGS.claims:
        keep_claims(pathlib.Path(folder), kept, commit=commit)
    claims, records = load_kept(kept)
    (docs / "ledger.md").write_text(ledger_page.ledger(claims, records))
    draw(claims, records, docs / "images")


if __name__ == "__main__":
    gin_utils.run(main, join=gin_utils.stay_alone)
