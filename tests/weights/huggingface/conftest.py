"""What tests of importers share: golden files of transformers, and the checkpoints that they hold."""

import contextlib
import json
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from slm_jax.weights import foundation
from slm_jax.weights.huggingface import components
from slm_jax.weights.huggingface.folder import CONFIG, PREPROCESSOR, SINGLE

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
STATES = "states/"


@pytest.fixture(scope="session")
def read_golden():
    """Reads a golden file: settings, weights by their names, inputs, outputs, and what goes between layers."""

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
def record_states():
    """Gives a context that notes what torch gives to each layer of a stack, and what the last layer makes of it.

    The context's value makes arrays of this, with NaN in place of what is behind the lengths of utterances or texts:
    "states/layers_0" is what layer 0 of our scope "layers" is given, "states/layers_1" what layer 1 is given, and so on
    to what comes out of the last.
    """

    @contextlib.contextmanager
    def record(scope, layers):
        states = [[] for _ in range(len(layers) + 1)]

        def before(number):
            return lambda _, inputs: states[number].append(inputs[0].clone())  # a clone, or what follows may change it

        def behind(_, inputs, output):
            states[-1].append((output[0] if isinstance(output, tuple) else output).clone())

        hooks = [layer.register_forward_pre_hook(before(number)) for number, layer in enumerate(layers)]
        hooks.append(layers[-1].register_forward_hook(behind))
        yield lambda lengths=None: {
            f"{STATES}{scope}_{number}": joined(batches, lengths) for number, batches in enumerate(states)
        }
        for hook in hooks:
            hook.remove()

    return record


def joined(batches, lengths=None):
    """One array of all rows of torch's batches, with NaN behind their lengths."""
    rows = [row.numpy() for batch in batches for row in batch]
    lengths = [len(row) for row in rows] if lengths is None else [int(length) for length in lengths]
    padded = np.full((len(rows), max(lengths), rows[0].shape[1]), np.nan, np.float32)
    for row, length, into in zip(rows, lengths, padded, strict=True):
        into[:length] = row[:length]
    return padded


@pytest.fixture(scope="session")
def assert_layers():
    """Compares what goes into the first layer and what each layer makes of what transformers gave to it: 1e-5.

    Every layer is given the reference's own input, so that differences do not add up over the depth; a decoder's layers
    attend to what our encoder's last layer makes of its. `compute(params)` runs a model of unrolled layers, which has
    `start` positions more than the golden file, in front.
    """

    def check(golden, compute, params, *, start=0):
        states = {name.removeprefix(STATES): value for name, value in golden.items() if name.startswith(STATES)}

        @jax.jit
        def run(params, states):
            found = {}
            with nn.intercept_methods(give_states(states, found, start)):
                compute(params)
            return found

        found = run(params, states)
        assert states and found.keys() == states.keys()
        for name, expected in states.items():
            real = ~np.isnan(expected).all(axis=-1)
            assert real.any(axis=1).all()
            ours = np.asarray(found[name])[:, : expected.shape[1]][real]
            np.testing.assert_allclose(ours, expected[real], atol=1e-5, rtol=0, equal_nan=False, err_msg=name)

    return check


def give_states(states, found, start):
    """An interceptor of Flax that gives layers their states, and puts what they make of them into `found`."""
    behind = {name: following for name in states if (following := next_state(name)) in states}

    def intercept(call, args, kwargs, context):
        name = "/".join(context.module.path)
        if name not in behind or context.method_name != "__call__":
            return call(*args, **kwargs)
        x, state = args[0], states[name]
        window = slice(start, start + state.shape[1])
        found.setdefault(name, x[:, start:])  # of the first layer: later ones are there already
        x = x.at[:, window].set(jnp.where(jnp.isnan(state), x[:, window], state))
        output = call(x, *args[1:], **kwargs)
        found[behind[name]] = output[0][:, start:]
        return output

    return intercept


def next_state(name):
    scope, _, number = name.rpartition("_")
    return f"{scope}_{int(number) + 1}"


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
