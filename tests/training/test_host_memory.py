"""What malloc does with memory that is freed: a process of its own tells, since it cannot be undone."""

import subprocess
import sys

import pytest

from slm_jax.training import host_memory

COUNT_FAULTS = """
import resource, sys, threading
import numpy as np
from slm_jax.training import host_memory

if "keep" in sys.argv:
    print(host_memory.keep_freed_memory())

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.empty(16_000_000, np.float32).fill(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    faults()
    print(faults())

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def run(*arguments: str) -> list[str]:
    program = [sys.executable, "-c", COUNT_FAULTS, *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_pages_of_freed_arrays_are_not_asked_for_again():
    (without,) = run()
    told, kept = run("keep")
    assert told == "True"
    assert int(kept) < 10 < int(without)


def test_another_malloc_is_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: object())
    assert host_memory.keep_freed_memory() is False
