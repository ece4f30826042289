"""Checkpoints that T5X wrote, in both of its formats and layouts: the same scores, and one clear error for bad ones.

The files in tests/golden hold checkpoints, inputs and T5X's own scores. With T5X on PYTHONPATH (docs/open_weights.md)
the same are made anew, in all combinations:

    SLM_JAX_UPDATE_GOLDEN=1 python -m pytest -m t5x tests/weights/test_t5x.py  # writes the files
"""

import itertools
import os
import pathlib
import shutil
import zipfile

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.layers.dense import OutputHead
from slm_jax.layers.feed_forward import Activation, FeedForward, GatedFeedForward
from slm_jax.models.t5 import T5
from slm_jax.models.t5_blocks import PositionTables
from slm_jax.weights import foundation, t5x
from slm_jax.weights.safetensors_io import WeightFileError

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
STEP, EXPECTED = "checkpoint_0", "expected.npz"
VOCAB, PREFIX, TARGETS = 16, 7, 5
SIZES = dict(
    vocab_size=VOCAB, width=8, num_heads=8, head_dim=2, ff_width=16, num_encoder_layers=2, num_decoder_layers=3
)
GATED = dict(feed_forward=GatedFeedForward, activation=Activation.GELU, output_head=OutputHead.UNTIED)
PLAIN = dict(feed_forward=FeedForward, activation=Activation.RELU, output_head=OutputHead.TIED)
# Golden file -> is it scanned, and what is special about the model.
FILES = {
    "t5x_legacy": (False, GATED),
    "t5x_orbax_scanned": (True, PLAIN | dict(position_tables=PositionTables.PER_LAYER)),
}


def make_checkpoint(folder, *, orbax, scanned, gated):
    """T5X trains nothing for no step and saves it; with the scores that its own model gives."""
    import seqio
    from t5x import adafactor, checkpoints, models, partitioning, utils
    from t5x.examples.scalable_t5 import network as scalable
    from t5x.examples.t5 import network as plain

    network = scalable if scanned else plain
    config = network.T5Config(
        vocab_size=VOCAB,
        dtype="float32",
        emb_dim=8,
        num_heads=8,  # T5X splits them over all devices
        num_encoder_layers=2,
        num_decoder_layers=3,
        head_dim=2,
        mlp_dim=16,
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        dropout_rate=0.0,
        logits_via_embedding=not gated,
        **(dict(remat_policy="none") if scanned else {}),
    )
    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(decay_rate=0.8, step_offset=0, logical_factor_rules=rules)
    vocabulary, module = seqio.PassThroughVocabulary(VOCAB), network.Transformer(config=config)
    model = models.EncoderDecoderModel(module, vocabulary, vocabulary, optimizer)
    lengths = dict(encoder_input_tokens=PREFIX, decoder_input_tokens=TARGETS, decoder_target_tokens=TARGETS)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    initializer = utils.TrainStateInitializer(
        optimizer, model.get_initial_variables, {name: (2, size) for name, size in lengths.items()}, partitioner
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    rng = np.random.default_rng(0)
    state = state.replace_params(
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5, jnp.float32), state.params)
    )
    if orbax:
        manager = checkpoints.OrbaxCheckpointManagerInterface(
            str(folder), initializer.global_train_state_shape, partitioner
        )
        manager.save(state)
        manager.close()
    else:
        checkpoints.Checkpointer(initializer.global_train_state_shape, partitioner, str(folder)).save(state)
    inputs = rng.integers(1, VOCAB, (2, PREFIX)) * (np.arange(PREFIX) < [[PREFIX], [4]])
    targets = rng.integers(1, VOCAB, (2, TARGETS))
    scores = module.apply({"params": state.params}, inputs, targets, targets, enable_dropout=False)
    np.savez(folder / EXPECTED, inputs=inputs, targets=targets, scores=scores)


def write_golden(folder, name):
    """Zips a checkpoint without its optimizer's arrays and its place in the data."""
    with zipfile.ZipFile(GOLDEN / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and "dataset" not in inside.parts and "state.param_states" not in str(inside):
                archive.write(path, inside)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in FILES}
    for name, folder in folders.items():
        with zipfile.ZipFile(GOLDEN / f"{name}.zip") as archive:
            archive.extractall(folder)
    return folders


def load(folder, **settings):
    model = T5(**SIZES | settings)
    prefix, mask = jnp.zeros((1, 1, model.width)), jnp.zeros((1, 1), bool)
    boxed = jax.eval_shape(model.init, jax.random.key(0), prefix, mask, jnp.zeros((1, 1), jnp.int32))
    shapes = nn.unbox(boxed)["params"]
    head = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, model.width)), method="logits"), jax.random.key(0))
    shapes |= nn.unbox(head)["params"]
    return model, foundation.load_component(t5x.Checkpoint(str(folder)), component="lm", shapes=shapes).parameters


def assert_parity(folder, **settings):
    """The scores that T5X gives, whatever stands in the padding."""
    model, params = load(folder / STEP, **settings)
    with np.load(folder / EXPECTED) as file:
        expected = dict(file)
    variables, inputs = {"params": params}, jnp.asarray(expected["inputs"], jnp.int32)
    prefix = model.apply(variables, inputs, method="embed")
    targets = jnp.asarray(expected["targets"], jnp.int32)
    hidden = model.apply(variables, prefix, inputs > 0, targets)
    np.testing.assert_allclose(model.apply(variables, hidden, method="logits"), expected["scores"], atol=1e-4)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_model_out_of_a_checkpoint_scores_as_in_t5x(unpacked, name, scan_layers):
    assert_parity(unpacked[name], scan_layers=scan_layers, **FILES[name][1])


@pytest.mark.t5x
@pytest.mark.parametrize(("orbax", "scanned"), list(itertools.product([False, True], [False, True])))
def test_t5x_gives_the_same_today(tmp_path, orbax, scanned):
    for name, gated in (("gated", True), ("plain", False)):
        folder = tmp_path / name
        folder.mkdir()
        make_checkpoint(folder, orbax=orbax, scanned=scanned, gated=gated)
        tables = PositionTables.PER_LAYER if scanned else PositionTables.PER_STACK
        assert_parity(folder, position_tables=tables, **(GATED if gated else PLAIN))
        golden = f"t5x_{'orbax' if orbax else 'legacy'}{'_scanned' * scanned}"
        if (
            os.environ.get("SLM_JAX_UPDATE_GOLDEN")
            and golden in FILES
            and (FILES[golden][1].items() >= GATED.items()) == gated
        ):
            write_golden(folder, golden)


def test_a_checkpoint_of_another_model_is_refused(unpacked):
    with pytest.raises(WeightFileError, match=r"(?s)unexpected .*layers_2.*wrong shape .*token_embedder"):
        load(unpacked["t5x_legacy"] / STEP, **GATED | dict(vocab_size=12, num_decoder_layers=2))
    with pytest.raises(WeightFileError, match=r"(?s)missing .*encoder/relpos_bias/rel_embedding"):
        load(unpacked["t5x_orbax_scanned"] / STEP, **PLAIN)


def test_only_language_models_are_read(unpacked):
    source = t5x.Checkpoint(str(unpacked["t5x_legacy"] / STEP))
    with pytest.raises(ValueError, match="may hold the component 'lm', not 'speech_encoder'"):
        source.read("speech_encoder", shapes={})


def test_a_folder_of_steps_is_no_checkpoint(unpacked, tmp_path):
    with pytest.raises(FileNotFoundError, match="it has checkpoint_0: name one of them"):
        t5x.Folder(str(unpacked["t5x_legacy"]))
    with pytest.raises(FileNotFoundError, match=r"neither checkpoint nor state/_METADATA$"):
        t5x.Folder(str(tmp_path))


def test_damaged_checkpoints_are_refused(unpacked, tmp_path):
    legacy, orbax = tmp_path / "legacy", tmp_path / "orbax"
    shutil.copytree(unpacked["t5x_legacy"] / STEP, legacy)
    shutil.copytree(unpacked["t5x_orbax_scanned"] / STEP, orbax)
    shutil.rmtree(legacy / "target.token_embedder.embedding")
    with pytest.raises(WeightFileError, match=r"target\.token_embedder\.embedding is missing or damaged"):
        t5x.Folder(str(legacy))
    (legacy / "checkpoint").write_bytes((legacy / "checkpoint").read_bytes()[:100])
    with pytest.raises(WeightFileError, match="is damaged, or not written by T5X"):
        t5x.Folder(str(legacy))
    (orbax / "state" / "_METADATA").write_text("{")
    with pytest.raises(WeightFileError, match="is damaged, or not written by Orbax"):
        t5x.Folder(str(orbax))


def write_legacy(folder, params):
    (folder / "checkpoint").write_bytes(flax.serialization.to_bytes({"version": 3, "optimizer": {"target": params}}))


def test_arrays_may_stand_in_the_file_itself_but_not_elsewhere(tmp_path):
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    write_legacy(tmp_path, {"token_embedder": {"embedding": table}})
    np.testing.assert_array_equal(t5x.Folder(str(tmp_path)).read("token_embedder/embedding"), table)
    outside = {"driver": "zarr", "kvstore": {"driver": "file", "path": "../elsewhere"}}
    write_legacy(tmp_path, {"token_embedder": {"embedding": outside}})
    with pytest.raises(WeightFileError, match=r"'\.\./elsewhere', which is not a folder of the checkpoint"):
        t5x.Folder(str(tmp_path))


def test_what_is_no_model_of_t5x_is_refused(tmp_path):
    write_legacy(tmp_path, {"kernel": np.zeros(3)})
    with pytest.raises(WeightFileError, match="has no token_embedder, but kernel"):
        t5x.Folder(str(tmp_path))
