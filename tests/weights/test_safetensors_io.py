"""Files of weights: bit-exact round trips, and one clear error for each way a file can be wrong."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from slm_jax.weights import safetensors_io
from slm_jax.weights.safetensors_io import WeightFileError


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "adapter/mlp/kernel": rng.normal(size=(4, 6)).astype(np.float32),
        "adapter/mlp/bias": rng.normal(size=(6,)).astype(ml_dtypes.bfloat16),
        "adapter/scale": np.asarray(-0.0, np.float32),
        "adapter/empty": np.zeros((0, 3), np.float32),
    }


def test_round_trip_is_bit_exact(tensors, tmp_path):
    safetensors_io.save_tensors(tensors, path=tmp_path / "x.safetensors", metadata={"licence": "MIT"})
    loaded = safetensors_io.load_tensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        assert loaded[name].tobytes() == value.tobytes()
    assert safetensors_io.read_metadata(tmp_path / "x.safetensors") == {"licence": "MIT"}


def test_arrays_in_any_memory_order_and_of_jax_are_stored_by_value(tmp_path):
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    safetensors_io.save_tensors({"t": transposed, "j": jnp.ones((2,), jnp.bfloat16)}, path=tmp_path / "x.safetensors")
    loaded = safetensors_io.load_tensors(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(loaded["t"], transposed)
    assert loaded["j"].dtype == ml_dtypes.bfloat16


def test_layout_tells_shapes_without_reading_values(tensors, tmp_path):
    safetensors_io.save_tensors(tensors, path=tmp_path / "x.safetensors")
    layout = safetensors_io.read_layout(tmp_path / "x.safetensors")
    assert {name: (s.shape, s.dtype) for name, s in layout.items()} == {
        name: (value.shape, value.dtype) for name, value in tensors.items()
    }


def test_the_file_is_as_readable_as_any_other(tensors, tmp_path):
    (tmp_path / "plain").touch()
    safetensors_io.save_tensors(tensors, path=tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_saving_refuses_other_types_and_names_them(tmp_path):
    wrong = {"good": np.ones(2, np.float32), "counts": np.ones(2, np.int32), "half": np.ones(2, np.float16)}
    with pytest.raises(WeightFileError, match=r"counts \(int32\), half \(float16\)"):
        safetensors_io.save_tensors(wrong, path=tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_loading_refuses_other_types_and_names_them(tmp_path):
    safetensors.numpy.save_file({"half": np.ones(2, np.float16)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightFileError, match=r"half \(F16\)"):
        safetensors_io.load_tensors(tmp_path / "x.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        safetensors_io.load_tensors(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        safetensors_io.load_tensors(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:20], lambda b: b"", lambda b: b"# not weights\n"])
def test_a_damaged_file_is_refused(damage, tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors_io.save_tensors(tensors, path=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightFileError, match=r"x.safetensors is not a safetensors file, or was not written"):
        safetensors_io.load_tensors(path)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tensors, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    safetensors_io.save_tensors(tensors, path=path)
    before = path.read_bytes()

    def no_space(arrays, file, metadata):
        file.write_bytes(b"half of it")
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", no_space)
    with pytest.raises(OSError, match=r"cannot write .*x.safetensors: No space left"):
        safetensors_io.save_tensors({"other": np.ones(3, np.float32)}, path=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
