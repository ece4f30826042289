"""Parameters go where they stay one by one, so that the host never holds a whole model."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy

from slm_jax import trees
from slm_jax.weights import foundation
from slm_jax.weights.huggingface import components
from slm_jax.weights.safetensors_io import WeightFileError

WIDTH, LAYERS, VOCAB = 64, 24, 128
CONFIG = dict(
    model_type="llama",
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=2 * WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    hidden_act="silu",
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
)
SHARDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model in bfloat16-sized pieces over several files."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    layer = {
        **{f"self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"},
        **{f"mlp.{name}_proj.weight": (2 * WIDTH, WIDTH) for name in ("gate", "up")},
        "mlp.down_proj.weight": (WIDTH, 2 * WIDTH),
        **{f"{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")},
    }
    shapes = {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    index = {name: f"model-{i % SHARDS}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(index.values()):
        safetensors.numpy.save_file({name: tensors[name] for name in index if index[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_the_host_holds_one_parameter_at_a_time(folder):
    model = components.language_model(folder)
    shapes = components.parameter_shapes(model)
    sizes = [leaf.size * 4 for leaf in jax.tree.leaves(shapes)]
    seen = []

    def place(path, value):
        seen.append(path)
        return np.zeros((), np.float32)

    tracemalloc.start()
    foundation.load_component(components.Checkpoint(str(folder)), component="lm", shapes=shapes, place=place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(seen) == sorted(trees.flatten(shapes))
    assert sum(sizes) > 4 * max(sizes)
    assert peak < 1.5 * max(sizes) + 200_000


def test_what_is_placed_is_what_is_loaded(folder):
    shapes = components.parameter_shapes(components.language_model(folder))
    source = components.Checkpoint(str(folder))
    plain = foundation.load_component(source, component="lm", shapes=shapes)
    placed = foundation.load_component(
        source, component="lm", shapes=shapes, place=lambda path, value: jax.device_put(value)
    )
    jax.tree.map(np.testing.assert_array_equal, placed.parameters, plain.parameters)
    assert placed.fingerprint == plain.fingerprint
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(placed.parameters))


def test_a_shard_that_was_cut_is_named(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damaged = tmp_path / "model-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    shapes = components.parameter_shapes(components.language_model(tmp_path))
    with pytest.raises(WeightFileError, match=r"model-1\.safetensors"):
        foundation.load_component(components.Checkpoint(str(tmp_path)), component="lm", shapes=shapes)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a Hugging Face checkpoint: it has no config\.json"):
        components.language_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = components.language_model(tmp_path)  # described, though its weights are not there
    shapes = components.parameter_shapes(model)
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor"):
        foundation.load_component(components.Checkpoint(str(tmp_path)), component="lm", shapes=shapes)
