"""How processes find each other, as far as one process can tell; tests/test_several_hosts.py starts several."""

import json
import os
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slm_jax.training import hosts, partitioning

ADDRESS = "10.0.0.1:1234"
STEP_OF_TWO = """
import json, sys
import jax, numpy as np
from slm_jax.training import hosts, partitioning
number, address = int(sys.argv[1]), sys.argv[2]
hosts.join(coordinator_address=address, num_processes=2, process_id=number, timeout=100)
split = partitioning.Partitioner(partitioning.make_mesh(model=int(sys.argv[3])))
x, weights = np.arange(24, dtype=np.float32).reshape(8, 3), np.arange(12, dtype=np.float32).reshape(3, 4)
by_model = jax.sharding.NamedSharding(split.mesh, jax.sharding.PartitionSpec(None, "model"))
with split.context(), hosts.first_goes_first():
    pass
step = jax.jit(jax.value_and_grad(lambda w, x: ((x @ w) ** 2).mean()), out_shardings=(None, by_model))
loss, gradient = step(hosts.put(weights, by_model), split.shard_batch({"x": x})["x"])
agreed = [hosts.any_process(number == 1), hosts.any_process(False)], hosts.from_first(7 + number)
print(json.dumps([hosts.is_first(), float(loss), np.asarray(hosts.gather(gradient)).tolist(), *agreed]))
"""


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
    hosts.wait_for_all()
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


def test_waiting_that_ended_in_time_ends_nothing():
    with hosts._at_most(60.0, waiting_for="nobody"):
        timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert timers
    assert all(timer.finished.is_set() for timer in timers)


@pytest.mark.parametrize(
    ("devices", "model"), [(2, 2), (1, 2)], ids=["model within a process", "model across processes"]
)
def test_two_processes_compute_what_one_does(devices, model):
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{connection.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    arguments = [[sys.executable, "-c", STEP_OF_TWO, str(number), address, str(model)] for number in range(2)]
    job = [subprocess.Popen(each, stdout=subprocess.PIPE, env=environment, text=True) for each in arguments]
    told = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in job]
    x, weights = np.arange(24.0).reshape(8, 3), np.arange(12.0).reshape(3, 4)
    for number, (first, loss, gradient, agreed, from_first) in enumerate(told):
        assert (first, agreed, from_first) == (number == 0, [True, False], 7)
        assert loss == pytest.approx(((x @ weights) ** 2).mean(), rel=1e-5)
        np.testing.assert_allclose(gradient, 2 * x.T @ (x @ weights) / 32, rtol=1e-5)
