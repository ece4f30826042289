"""Memory that a process of this machine has freed, and will want again in the next step."""

import ctypes

# malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Has malloc keep what is freed, where that is glibc's; elsewhere nothing happens.

    XLA allocates a program's temporary arrays anew in every run. glibc asks the system for each large one and hands it
    back, so that every page is cleared and mapped again: a fifth of the CPU time of a training step was that
    (docs/log.md). The process stays as large as it has ever been.

    Returns:
      Whether malloc was told so.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Only the one heap that grows by brk can hold large arrays; a threshold of -1 is none.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])
