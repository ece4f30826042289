"""Time and memory of the quickstart from nothing: no dataset, no compiled program, no checkpoint.

    .venv/bin/python benchmarks/quickstart.py

Runs `python -m slm_jax.train --gin_file=experiments/quickstart.gin` in a new folder, samples the memory of its
processes, and prints the run's summary with `wall_seconds` and `peak_gigabytes` as JSON. The peak is the sum of the
proportional set sizes of all its processes, so that shared pages count once.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import psutil
from absl import app, flags

SAMPLING_SECONDS = 0.5

_FOLDER = flags.DEFINE_string("folder", None, "Where the run is kept; by default nowhere.")


def memory(process: psutil.Process) -> int:
    """Bytes of a process and all that it started."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile
            total += each.memory_full_info().pss
    return total


def measure(folder: pathlib.Path) -> dict[str, object]:
    """Runs the quickstart in an empty folder.

    Raises:
      subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "slm_jax.train", "--gin_file=experiments/quickstart.gin"]
    command += [f"--tfds_data_dir={folder / 'data'}", f"--gin.MODEL_DIR='{folder / 'run'}'"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    start, peak = time.monotonic(), 0
    with subprocess.Popen(command, env=environment) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, memory(watched))
            time.sleep(SAMPLING_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return summary | {"wall_seconds": round(time.monotonic() - start, 1), "peak_gigabytes": round(peak / 1e9, 2)}


def main(unused: Sequence[str]) -> None:
    """Prints the measurement as JSON."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(_FOLDER.value or stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            sys.exit(f"error: {folder} is not empty: a run there would go on instead of starting anew")
        print(json.dumps(measure(folder), indent=2))


if __name__ == "__main__":
    app.run(main)
