"""Which frozen parts a MODEL_DIR of T5X's was trained on: no checkpoint of T5X's says it."""

import json
import os
from collections.abc import Mapping

from etils import epath

from slm_jax.training import bundle, hosts

FILE = "frozen_parts.json"
"""In MODEL_DIR: the fingerprints of what was frozen at the first start, by name."""


def check(folder: str | os.PathLike[str], fingerprints: Mapping[str, str]) -> bool:
    """Refuses frozen parts other than those that were there at the first start; whether the folder names any.

    Raises:
      slm_jax.training.bundle.IncompatibleBundleError: any part differs; all are listed, with what to do.
    """
    path = epath.Path(folder) / FILE
    if not path.is_file():
        return False
    bundle.check_compatible(bundle.BundleManifest(json.loads(path.read_text()), ()), fingerprints)
    return True


def check_or_keep(model_dir: str | os.PathLike[str], fingerprints: Mapping[str, str]) -> None:
    """Writes the fingerprints to a new MODEL_DIR; refuses, in one that has them, other frozen parts.

    Raises:
      slm_jax.training.bundle.IncompatibleBundleError: see `check`.
    """
    if not check(model_dir, fingerprints) and hosts.is_first():
        folder = epath.Path(model_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(dict(fingerprints), indent=2) + "\n")
