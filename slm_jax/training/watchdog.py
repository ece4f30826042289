"""Ends a process that stands still, such as one whose partners are gone: what waits for ever is never restarted."""

import faulthandler
import os
import signal
import sys
import threading
import time
from typing import Any

EXIT_CODE = 128 + signal.SIGALRM
"""What a process ends with that stood still, as the shell tells of one whose alarm went off."""


class Watchdog:
    """Ends the process, with the stacks of all its threads on stderr, where nothing is heard of it for too long.

    Use it as a context manager; it watches from `restart` to `pause` or to the end of the context.

    Args:
      seconds: the longest silence; 0 for no watching.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._deadline: float | None = None
        self._closed = threading.Event()

    def __enter__(self) -> "Watchdog":
        self._closed.clear()
        if self.seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *unused: Any) -> None:
        self._closed.set()

    def restart(self) -> None:
        """Counts from now on."""
        self._deadline = time.monotonic() + self.seconds

    def pause(self) -> None:
        """Counts no more until the next `restart`."""
        self._deadline = None

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.seconds / 4)):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                print(f"error: no step was done in {self.seconds:g} s; this process ends", file=sys.stderr)
                faulthandler.dump_traceback()
                os._exit(EXIT_CODE)
