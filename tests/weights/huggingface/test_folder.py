"""What a folder has to be, whatever model it holds."""

import json

import numpy as np
import pytest
import safetensors.numpy

from slm_jax.weights.huggingface.folder import Folder
from slm_jax.weights.safetensors_io import WeightFileError

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "any"}')
    return tmp_path


@pytest.fixture
def sharded(folder):
    for name, tensor in TENSORS.items():
        safetensors.numpy.save_file({name: tensor}, folder / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in TENSORS}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def rewrite_index(folder, **weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_one_file_and_several_are_read_alike(sharded, tmp_path_factory):
    single = tmp_path_factory.mktemp("single")
    (single / "config.json").write_text("{}")
    safetensors.numpy.save_file(TENSORS, single / "model.safetensors")
    for found in (Folder(sharded), Folder(single)):
        assert {name: (leaf.shape, leaf.dtype) for name, leaf in found.layout.items()} == {
            name: (tensor.shape, tensor.dtype) for name, tensor in TENSORS.items()
        }
        for name, tensor in TENSORS.items():
            np.testing.assert_array_equal(found.read(name), tensor)
    assert Folder(sharded).config == {"model_type": "any"}


def test_a_folder_without_a_configuration_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a Hugging Face checkpoint: it has no config\.json"):
        Folder(tmp_path)


def test_a_damaged_configuration_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightFileError, match=r"config\.json is not JSON"):
        Folder(folder)


def test_pickles_are_never_opened(folder):
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin, which may run code when it is opened"):
        _ = Folder(folder).layout


def test_a_shard_may_not_lie_elsewhere(sharded):
    rewrite_index(sharded, a="../a.safetensors")
    with pytest.raises(WeightFileError, match=r"names '\.\./a\.safetensors', which is not a file of that folder"):
        _ = Folder(sharded).layout


def test_a_missing_shard_is_named(sharded):
    rewrite_index(sharded, a="c.safetensors")
    with pytest.raises(FileNotFoundError, match=r"names 'c\.safetensors', but the file is not there"):
        _ = Folder(sharded).layout


def test_a_truncated_shard_is_named(sharded):
    whole = (sharded / "a.safetensors").read_bytes()
    (sharded / "a.safetensors").write_bytes(whole[:-4])
    with pytest.raises(
        WeightFileError, match=r"a\.safetensors is not a safetensors file, or was not .* copied to its end"
    ):
        _ = Folder(sharded).layout


def test_promised_tensors_have_to_be_there(sharded):
    rewrite_index(sharded, a="a.safetensors", c="a.safetensors")
    with pytest.raises(WeightFileError, match="promises tensors that the files do not have: c"):
        _ = Folder(sharded).layout


def test_a_wrong_dtype_is_named(folder):
    safetensors.numpy.save_file({"quantized": np.zeros(3, np.int8)}, folder / "model.safetensors")
    with pytest.raises(WeightFileError, match=r"tensors that are not BF16 or F32 or F16 or I64: quantized \(I8\)"):
        _ = Folder(folder).layout


def test_settings_of_the_front_end_are_those_of_the_preprocessor_or_within_the_processor(folder):
    safetensors.numpy.save_file(TENSORS, folder / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"neither preprocessor_config\.json nor a feature_extractor in proc"):
        _ = Folder(folder).preprocessor
    (folder / "processor_config.json").write_text('{"feature_extractor": {"feature_size": 80}, "tokenizer": {}}')
    assert Folder(folder).preprocessor == {"feature_size": 80}
    (folder / "preprocessor_config.json").write_text('{"feature_size": 128}')
    assert Folder(folder).preprocessor == {"feature_size": 128}
