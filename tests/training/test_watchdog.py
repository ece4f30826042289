"""The watchdog: it ends what stands still, and nothing else."""

import subprocess
import sys

import pytest

from slm_jax.training import watchdog

PROGRAM = """
import time
from slm_jax.training.watchdog import Watchdog
with Watchdog({seconds}) as dog:
    dog.restart()
    {then}
    time.sleep(1.0)
time.sleep(0.3)
"""


@pytest.mark.parametrize(
    ("seconds", "then", "code"),
    [(0.2, "pass", watchdog.EXIT_CODE), (0.2, "dog.pause()", 0), (0, "pass", 0), (5, "pass", 0)],
)
def test_only_silence_ends_the_process(seconds, then, code):
    program = PROGRAM.format(seconds=seconds, then=then)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ('File "<string>", line 7' in done.stderr) == bool(code), "the stack of who stands still"
