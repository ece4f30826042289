"""A compiled step goes through a file and does the same."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from slm_jax.aot import serialised


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


NEW = time.time_ns() % 1_000_000
"""XLA cannot write again what it took from its cache for CPUs, so this step is another one each time."""


def step(state, unused, batch, key):
    noise = jax.random.uniform(key, (8,))
    return {"w": state["w"] + batch["x"].T @ batch["x"] + noise, "n": state["n"] + NEW}, batch["x"].sum()


def test_a_step_that_was_saved_gives_the_same(mesh, tmp_path):
    def put(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    rng = np.random.default_rng(0)
    state = {"w": put(rng.normal(size=(8, 8)).astype(np.float32), None, "model"), "n": put(jnp.int32(3))}
    batch = {"x": put(rng.normal(size=(16, 8)).astype(np.float32), "data")}
    arguments = state, put(jnp.zeros(5)), batch, put(jax.random.key(1))
    lowered = jax.jit(step).lower(*arguments)
    compiled = lowered.compile()
    path = tmp_path / "step.safetensors"
    assert serialised.save(compiled, results=lowered.out_info, path=path, about={"topology": "cpu"}) > 0
    loaded = serialised.load(path, mesh=mesh)
    expected = jax.tree.leaves(compiled(*arguments))
    for found, wanted in zip(loaded(*arguments), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.sharding.is_equivalent_to(wanted.sharding, found.ndim)


def test_other_files_are_refused(mesh, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds no compiled step"):
        serialised.load(path, mesh=mesh)


def test_other_versions_are_refused(mesh, tmp_path, monkeypatch):
    arguments = (jax.device_put(jnp.zeros(4), NamedSharding(mesh, PartitionSpec())),)
    path = tmp_path / "step.safetensors"
    lowered = jax.jit(lambda x: x + 1).lower(*arguments)
    serialised.save(lowered.compile(), results=lowered.out_info, path=path, about={})
    monkeypatch.setattr(serialised.importlib.metadata, "version", lambda name: "0.0")
    with pytest.raises(ValueError, match=r"compiled by jaxlib .*, here is 0\.0"):
        serialised.load(path, mesh=mesh)
