"""A job of several processes: how they find each other, what each has, and what they do together.

Every process runs the same program over a mesh of all their devices. What a run writes once is written by the first
process alone; checkpoints and everything that is computed over the mesh need all of them, in the same order.
"""

import atexit
import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from orbax.checkpoint import multihost

from slm_jax.typing import Array

JOIN_SECONDS = 300
_SPARE_SECONDS = 60
_LONGEST_WAIT_MS = 24 * 3600 * 1000
_barriers = itertools.count()  # a name may be waited at once


def join(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    multihost: bool = False,
    timeout: int = JOIN_SECONDS,
) -> None:
    """Joins the processes of a job, through jax.distributed; without arguments this process is alone.

    Call it before anything asks JAX for a device. Where not all processes come, the process ends with code 1.

    Args:
      coordinator_address: host:port at which the first process is reached.
      num_processes: how many there are.
      process_id: the number of this one, from 0.
      multihost: ask the cluster for these three (TPU pods, SLURM and others that JAX knows).
      timeout: seconds to wait for the others.

    Raises:
      ValueError: the arguments do not go together, or the cluster is not one that JAX knows.
    """
    given: dict[str, Any] = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and not multihost:
        return
    if multihost:
        _check_nothing_given(given)
    else:
        _check_places(missing, coordinator_address or "", num_processes or 0, process_id or 0)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    told = f"the coordinator at {coordinator_address}, process {process_id} of {num_processes}"
    with _at_most(timeout, waiting_for="the cluster's coordinator" if multihost else told):
        jax.distributed.initialize(**given, initialization_timeout=timeout + _SPARE_SECONDS)


@contextlib.contextmanager
def _at_most(seconds: float, *, waiting_for: str) -> Iterator[None]:
    """Ends the process if the block takes longer. JAX's own timeout aborts it too, but with a stack and no address."""
    message = (
        f"error: after {seconds} s not all processes have come to {waiting_for}. Is process 0 running, is its"
        " address reachable from here, and were all processes started?"
    )
    timer = threading.Timer(seconds, _leave, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_nothing_given(given: dict[str, Any]) -> None:
    known = [f"--{name}" for name, value in given.items() if value is not None]
    if known:
        raise ValueError(f"--multihost asks the cluster for {', '.join(known)}: give one or the other")


def _check_places(missing: list[str], address: str, num_processes: int, process_id: int) -> None:
    if missing:
        absent = " and ".join(f"--{name}" for name in missing)
        raise ValueError(
            f"{absent} is missing: several processes need --coordinator_address, --num_processes and --process_id"
        )
    if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator_address={address} is not HOST:PORT")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} is not one of {num_processes} processes, which are counted from 0:"
            f" give 0 to {num_processes - 1}"
        )


@contextlib.contextmanager
def leave_at_errors() -> Iterator[None]:
    """An error ends this process of a job without waiting for the others: they may be waiting for this one."""
    try:
        yield
    except Exception:
        if jax.distributed.is_initialized():
            atexit.register(_leave)  # what is registered last runs first: before jax.distributed, which waits
        raise


def _leave(message: str = "") -> None:
    print(message, file=sys.stderr, end="\n" if message else "")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def is_first() -> bool:
    """Whether this process writes what belongs to the run as a whole."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block, then all others do: what it wrote to a shared disk is there for them."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def wait_for_all() -> None:
    """Goes on when all processes have come here. They wait without their devices: Gloo gives up after 30 s.

    Raises:
      jax.errors.JaxRuntimeError: a process has died, or did not come in a day.
    """
    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f"slm_jax_{next(_barriers)}", timeout_ms=_LONGEST_WAIT_MS)


def any_process(flag: bool) -> bool:
    """Whether the flag is true on any process; all of them have to ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def from_first(value: int) -> int:
    """The number that the first process gives; all of them have to ask."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def put(value: Array | np.ndarray, sharding: Sharding) -> jax.Array:
    """Lays out an array that every process has; each takes the parts of its own devices, and nothing is sent.

    An array that is split over processes already is laid out anew.
    """
    split = isinstance(value, jax.Array) and not value.is_fully_addressable
    if split or sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    on_host = np.asarray(value)
    return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])


def put_shards(value: np.ndarray, sharding: Sharding, *, shards: Sequence[int], data_shards: int) -> jax.Array:
    """Lays out an array whose rows are shared out over shards, of which this process has those of its own devices.

    Args:
      value: the rows of `shards`, one shard after the other.
      sharding: of the whole array; its leading axis may be split.
      shards: numbers of the shards, ascending.
      data_shards: how many there are in all, equally large.
    """
    rows = len(value) // len(shards)
    shape = (rows * data_shards, *value.shape[1:])

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        first = shards.index(start // rows) * rows + start % rows
        return value[(slice(first, first + stop - start), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, part)


def gather(value: Array | np.ndarray) -> Array | np.ndarray:
    """An array of which this process has all; one that is split over processes is sent to all, so all have to ask."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        return multihost_utils.process_allgather(value, tiled=True)
    return value
