"""What tests of importers share: golden files of transformers, and the checkpoints that they hold."""

import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from slm_jax.weights import foundation
from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.folder import CONFIG, PREPROCESSOR, SINGLE

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"


@pytest.fixture(scope="session")
def read_golden():
    """Reads a golden file: settings, weights by their names, inputs and outputs."""

    def read(name):
        with np.load(GOLDEN / f"hf_{name}.npz", allow_pickle=False) as golden:
            return dict(golden)

    return read


@pytest.fixture(scope="session")
def keep_golden():
    """Gives what a golden file holds, and writes the file where SLM_JAX_UPDATE_GOLDEN asks for that."""

    def keep(name, *, weights, arrays, **settings):
        golden = {f"weights/{tensor}": np.asarray(value) for tensor, value in weights.items()}
        golden |= {key: np.asarray(value) for key, value in arrays.items()}
        for key, fields in settings.items():
            golden[key] = np.array(json.dumps(fields, sort_keys=True, default=np.ndarray.tolist))
        if os.environ.get("SLM_JAX_UPDATE_GOLDEN"):
            np.savez_compressed(GOLDEN / f"hf_{name}.npz", **golden)
        return golden

    return keep


@pytest.fixture(scope="session")
def write_folder():
    """Writes a golden file's checkpoint, as save_pretrained would; a change of None takes a field away."""

    def write(golden, folder, *, preprocessor=None, **changes):
        prefix = "weights/"
        weights = {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}
        safetensors.numpy.save_file(weights, folder / SINGLE)
        for key, file, changed in (("config", CONFIG, changes), ("preprocessor", PREPROCESSOR, preprocessor or {})):
            if key in golden:
                fields = json.loads(str(golden[key])) | changed
                for name in [name for name, value in changed.items() if value is None]:
                    del fields[name]
                (folder / file).write_text(json.dumps(fields))
        return folder

    return write


def load(model, folder, component):
    source, shapes = components.Checkpoint(str(folder)), components.parameter_shapes(model)
    return model, foundation.load_component(source, component=component, shapes=shapes).parameters


@pytest.fixture(scope="session")
def load_language_model():
    """Gives the language model of a folder, and its parameters as a run reads them."""
    return lambda folder, **settings: load(components.language_model(folder, **settings), folder, "lm")


@pytest.fixture(scope="session")
def load_encoder():
    """Gives the speech encoder of a folder, and its parameters as a run reads them."""
    return lambda folder, **settings: load(components.speech_encoder(folder, **settings), folder, "speech_encoder")


@pytest.fixture(scope="session")
def pad_with_garbage():
    """Makes waveforms a batch with garbage beyond their ends, and gives their lengths too."""

    def pad(waveforms):
        lengths = [len(waveform) for waveform in waveforms]
        size = max(lengths) + 700
        batch = [np.pad(waveform, (0, size - len(waveform)), constant_values=7.0) for waveform in waveforms]
        return jnp.asarray(np.stack(batch)), jnp.array(lengths)

    return pad


@pytest.fixture(scope="session")
def fill_at_random():
    """Gives a model of torch values that let what is heard through to the end.

    Scales are near 1, and maps keep the size of what they map.
    """

    def draw(name, tensor):
        import torch

        noise = torch.randn(tensor.shape)
        if "running_var" in name:
            return noise.abs() + 0.5
        if tensor.ndim > 1:
            return 1.5 * noise / tensor[0].numel() ** 0.5
        return 0.3 * noise + ("norm" in name and name.endswith("weight"))

    def fill(model):
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(draw(name, tensor))

    return fill
