"""How processes find each other, as far as one process can tell; tests/test_several_hosts.py starts several."""

import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slm_jax.training import hosts, partitioning

ADDRESS = "10.0.0.1:1234"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(coordinator_address=ADDRESS, num_processes=2), "--process_id is missing"),
        (dict(process_id=0), "--coordinator_address and --num_processes is missing"),
        (dict(coordinator_address=ADDRESS, num_processes=2, process_id=2), "--process_id=2 .* give 0 to 1"),
        (dict(coordinator_address=ADDRESS, num_processes=2, process_id=-1), "--process_id=-1"),
        (dict(coordinator_address="10.0.0.1", num_processes=2, process_id=0), "not HOST:PORT"),
        (dict(multihost=True, num_processes=2), "--multihost asks the cluster for --num_processes"),
    ],
)
def test_flags_that_do_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.join(**arguments)


def test_one_process_is_alone():
    hosts.join()
    hosts.wait_for_all("nobody")
    assert not jax.distributed.is_initialized()
    assert hosts.is_first()
    assert [hosts.any_process(flag) for flag in (False, True)] == [False, True]


def test_what_is_put_on_a_mesh_is_gathered_again():
    mesh = partitioning.make_mesh(model=2)
    value = np.arange(16, dtype=np.float32).reshape(8, 2)
    split = hosts.put(value, NamedSharding(mesh, PartitionSpec("data", "model")))
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 1)}
    np.testing.assert_array_equal(hosts.gather(split), value)
    again = hosts.put(split, NamedSharding(mesh, PartitionSpec()))
    np.testing.assert_array_equal(hosts.gather(again), value)


def test_errors_are_raised_as_they_are_where_there_is_one_process():
    with pytest.raises(ValueError, match="mine"), hosts.leave_at_errors():
        raise ValueError("mine")


def test_waiting_ends_in_time():
    with hosts._at_most(0.2, waiting_for="nobody"):
        pass
    time.sleep(0.3)  # this process is still here
