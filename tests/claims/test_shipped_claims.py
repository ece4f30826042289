"""The shipped adapter, and the ledger that says what it reaches."""

import json
import pathlib
import subprocess
import sys

import pytest

from slm_jax.claims import ledger_page
from slm_jax.claims.records import load_kept
from slm_jax.training.bundle import SHIPPED, SHIPPED_FOLDER, load_bundle
from slm_jax.weights import foundation

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
CLAIMS, RECORDS = load_kept(DOCS / "ledger")
MEASURED = CLAIMS[0]


def test_the_shipped_adapter_is_small_and_was_trained_on_the_shipped_parts():
    manifest = load_bundle(SHIPPED).manifest
    components = foundation.read_manifest(foundation.SHIPPED_FOLDER)["components"]
    for name, entry in components.items():
        assert manifest.fingerprints[name] == entry["fingerprint"]
    assert manifest.gin_files == ("experiments/claims/study.gin",)
    assert sum(path.stat().st_size for path in SHIPPED_FOLDER.iterdir()) < 3_000_000


def test_the_ledger_says_what_is_kept_and_what_ships():
    assert (DOCS / "ledger.md").read_text() == ledger_page.ledger(CLAIMS, RECORDS)
    assert MEASURED["parameters_fingerprint"] == load_bundle(SHIPPED).manifest.parameters_fingerprint


@pytest.mark.slow
def test_measured_again_the_numbers_are_those_of_the_ledger(tmp_path):
    subprocess.run([sys.executable, "-m", "slm_jax.claims", f"--output={tmp_path}"], check=True)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["parameters_fingerprint"] == MEASURED["parameters_fingerprint"]
    assert found["claims"].keys() == MEASURED["claims"].keys()
    for key, claim in found["claims"].items():
        kept = MEASURED["claims"][key]
        assert (claim["n"], claim["bound"]) == (kept["n"], kept["bound"]), key
        low, high = kept["interval"] or (0.98 * kept["score"], 1.02 * kept["score"])
        assert low - 1e-9 <= claim["score"] <= high + 1e-9, key
