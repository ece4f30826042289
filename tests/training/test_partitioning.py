"""Layouts over a mesh of eight devices, and that they change nothing but where numbers are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from slm_jax import trees
from slm_jax.layers.dense import Dense
from slm_jax.training import optimizers, partitioning
from slm_jax.training.cross_entropy import chunked_cross_entropy
from slm_jax.training.partitioning import FrozenLayout, Partitioner, make_mesh


class Block(nn.Module):
    """A feed-forward layer between constraints."""

    mlp: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        hidden = Dense((self.mlp,), ("embed", "mlp"), use_bias=True, name="wi")(x)
        hidden = nn.with_logical_constraint(nn.relu(hidden), ("batch", "length", "mlp"))
        return x + Dense((x.shape[-1],), ("mlp", "embed"), name="wo")(hidden)


class Model(nn.Module):
    """A trained part and a frozen part, like the real one."""

    def setup(self):
        self.adapter = Block()
        self.lm = Block()

    def __call__(self, x):
        return self.lm(self.adapter(x))


@pytest.fixture(scope="module")
def boxed():
    return jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((8, 3, 4)))["params"]


@pytest.fixture(scope="module")
def partitioner():
    return Partitioner(mesh=make_mesh(data=2, fsdp=2, model=2))


def specs(shardings):
    return {path: sharding.spec for path, sharding in trees.flatten(shardings).items()}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (8, 1, 1)),
        ({"model": 2}, (4, 1, 2)),
        ({"data": 2, "fsdp": -1, "model": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": 1, "model": 8}, (1, 1, 8)),
    ],
)
def test_mesh_sizes(sizes, expected):
    assert tuple(make_mesh(**sizes).shape.items()) == tuple(zip(("data", "fsdp", "model"), expected, strict=True))


def test_a_mesh_of_some_devices():
    assert make_mesh(devices=jax.devices()[:2]).shape["data"] == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"model": 3}, "model=3 does not fit 8 devices: .* is 3"),
        ({"data": 2, "fsdp": 1, "model": 2}, "does not fit 8 devices: .* is 4"),
        ({"data": 4, "fsdp": 4, "model": 1}, "does not fit 8 devices: .* is 16"),
        ({"data": -1, "fsdp": -1}, "one of them may be -1"),
        ({"model": 0}, "at least 1"),
        ({"model": -2}, "at least 1"),
    ],
)
def test_impossible_meshes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


def test_trainable_parameters_follow_fsdp_and_frozen_ones_do_not(boxed, partitioner):
    assert specs(partitioner.shardings(boxed)) == {
        "adapter/wi/kernel": P("fsdp", "model"),
        "adapter/wi/bias": P("model"),
        "adapter/wo/kernel": P("model", "fsdp"),
        "lm/wi/kernel": P(None, "model"),
        "lm/wi/bias": P("model"),
        "lm/wo/kernel": P("model", None),
    }


@pytest.mark.parametrize("frozen", ["split", FrozenLayout.SPLIT])
def test_frozen_parameters_may_follow_fsdp_too(boxed, frozen):
    split = specs(Partitioner(mesh=make_mesh(data=2, fsdp=2, model=2), frozen=frozen).shardings(boxed))
    assert split["lm/wi/kernel"] == split["adapter/wi/kernel"] == P("fsdp", "model")
    with pytest.raises(ValueError, match="'melted'"):
        Partitioner(mesh=make_mesh(), frozen="melted").shardings(boxed)


def test_patterns_and_rules_are_data(boxed):
    mesh = make_mesh(data=2, fsdp=2, model=2)
    other = Partitioner(mesh=mesh, trainable=("lm/.*",), rules=(("embed", "data"), ("mlp", None)))
    assert specs(other.shardings(boxed))["lm/wi/kernel"] == P("fsdp", "model")
    assert specs(other.shardings(boxed))["adapter/wi/kernel"] == P("data", None)
    swapped = Partitioner(mesh=mesh, trainable_rules=(("embed", None), ("mlp", "fsdp")))
    assert specs(swapped.shardings(boxed))["adapter/wi/kernel"] == P(None, "fsdp")


def shape(names, *sizes):
    return {"lm": {"w": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(sizes, jnp.float32), names)}}


def test_few_key_heads_are_replicated_and_other_misfits_refused():
    mesh = make_mesh(model=4)
    keys = shape(("embed", "kv_heads", "kv"), 8, 2, 4)
    assert specs(Partitioner(mesh=mesh).shardings(keys)) == {"lm/w": P(None, None, None)}
    heads = shape(("embed", "heads", "kv"), 8, 6, 4)
    with pytest.raises(ValueError, match="'heads' of 'lm/w' has size 6, .* multiple of the 4 devices .* 'model'"):
        Partitioner(mesh=mesh).shardings(heads)
    allowed = Partitioner(mesh=mesh, may_replicate=("heads",))
    assert specs(allowed.shardings(heads)) == {"lm/w": P(None, None, None)}
    with pytest.raises(ValueError, match="'kv_heads'"):
        allowed.shardings(keys)


@pytest.mark.parametrize("names", [("embed", "width"), ("embed", "embed")])
def test_unknown_and_repeated_axis_names_are_refused(partitioner, names):
    with pytest.raises(ValueError, match="'lm/w' must be different names with a rule"):
        partitioner.shardings(shape(names, 4, 4))


def test_parameters_without_names_are_replicated(partitioner):
    bare = {"lm": {"w": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}
    assert partitioner.shardings(bare)["lm"]["w"].is_fully_replicated
    assert partitioner.shardings(shape((None, "mlp"), 3, 4))["lm"]["w"].spec == P(None, "model")


def test_every_axis_of_the_vocabulary_has_a_rule():
    names = (
        "batch length embed mlp heads kv_heads kv joined_kv vocab layers relpos_buckets frames mels conv_window adapter"
    )
    assert {name for name, _ in partitioning.RULES} == set(names.split())


def trainable_shapes(boxed):
    return nn.unbox({"adapter": boxed["adapter"]})


def test_moments_follow_their_parameters(boxed, partitioner):
    shardings = {"adapter": partitioner.shardings(boxed)["adapter"]}
    optimizer = optimizers.per_component(
        optimizers={".*/bias": optax.sgd(0.1, momentum=0.9), "adapter/.*": optimizers.adamw(learning_rate=0.1)},
        clip_norm=1.0,
    )
    layouts = partitioner.optimizer_shardings(optimizer, trainable_shapes(boxed), shardings)
    state = jax.eval_shape(optimizer.init, trainable_shapes(boxed))
    assert jax.tree.structure(layouts) == jax.tree.structure(state)
    by_shape = {
        (leaf.shape, str(layout.spec)) for leaf, layout in zip(*map(jax.tree.leaves, (state, layouts)), strict=True)
    }
    assert by_shape == {
        ((4, 8), str(P("fsdp", "model"))),
        ((8, 4), str(P("model", "fsdp"))),
        ((8,), str(P("model"))),
        ((), str(P())),
    }


def is_factored(part):
    return hasattr(part, "v_row")


def test_factored_moments_are_replicated(boxed, partitioner):
    optimizer = optimizers.adafactor(learning_rate=0.1, min_dim_size_to_factor=2)
    shardings = {"adapter": partitioner.shardings(boxed)["adapter"]}
    layouts = partitioner.optimizer_shardings(optimizer, trainable_shapes(boxed), shardings)
    (factored,) = (part for part in jax.tree.leaves(layouts, is_leaf=is_factored) if is_factored(part))
    assert all(layout.is_fully_replicated for layout in jax.tree.leaves((factored.v_row, factored.v_col)))
    assert factored.v["adapter"]["wi"]["bias"].spec == P("model")


def test_batches_are_split_over_data_and_fsdp(partitioner):
    batch = {"speech": np.arange(24, dtype=np.float32).reshape(8, 3), "speech_length": np.arange(8, dtype=np.int32)}
    split = partitioner.shard_batch(batch)
    assert {shard.data.shape for shard in split["speech"].addressable_shards} == {(2, 3)}
    for name, value in batch.items():
        np.testing.assert_array_equal(split[name], value)


@pytest.mark.parametrize("data_shards", [1, 2, 8])
def test_shards_of_a_process_that_has_all_devices(partitioner, data_shards):
    assert partitioner.held_shards(data_shards) == tuple(range(data_shards))
    batch = {"speech": np.arange(24, dtype=np.float32).reshape(8, 3), "speech_length": np.arange(8, dtype=np.int32)}
    split = partitioner.shard_batch(batch, data_shards=data_shards)
    for name, value in batch.items():
        assert split[name].sharding == partitioner.batch
        np.testing.assert_array_equal(split[name], value)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": np.ones((6, 2))}, "6 examples .* over the 4 parts"),
        ({"x": np.ones((8, 2)), "y": np.ones(4)}, "leading sizes"),
        ({"x": np.ones(())}, "leading sizes"),
        ({}, "leading sizes"),
    ],
)
def test_uneven_batches_are_refused(partitioner, batch, message):
    with pytest.raises(ValueError, match=message):
        partitioner.shard_batch(batch)


def test_constraints_of_modules_mean_the_mesh_inside_the_context(partitioner):
    def constrain(x):
        return nn.with_logical_constraint(x, ("batch", "length", "mlp"))

    x = jnp.ones((8, 3, 4))
    with partitioner.context():
        inside = jax.jit(constrain)(x)
    assert inside.sharding.spec == P(("data", "fsdp"), None, "model")
    assert len(jax.jit(lambda x: constrain(x))(x).sharding.device_set) == 1


def update(optimizer):
    """One step on the adapter of `Model`, with its output as logits."""

    def step(trainable, opt_state, frozen, batch):
        def loss(trainable):
            hidden = Model().apply({"params": trees.combine(trainable, frozen)}, batch["speech"])
            loss, sums = chunked_cross_entropy(
                lambda _, x: x, (), hidden, batch["targets"], jnp.ones(batch["targets"].shape), chunk_tokens=2
            )
            return loss / sums.weight

        value, gradients = jax.value_and_grad(loss)(trainable)
        updates, opt_state = optimizer.update(gradients, opt_state, trainable)
        return optax.apply_updates(trainable, updates), opt_state, value

    return step


def test_a_step_on_eight_devices_equals_a_step_on_one(boxed, partitioner):
    optimizer = optimizers.adamw(learning_rate=0.1, eps=1e-3, clip_norm=1.0)
    x = np.random.default_rng(0).normal(size=(8, 3, 4)).astype(np.float32)
    batch = {"speech": x, "targets": np.arange(24, dtype=np.int32).reshape(8, 3) % 4}

    def init(key):
        trainable, frozen = trees.partition(
            nn.unbox(Model().init(key, jnp.asarray(batch["speech"]))["params"]), ("adapter/.*",)
        )
        return trainable, optimizer.init(trainable), frozen

    expected = jax.jit(update(optimizer))(*jax.jit(init)(jax.random.key(0)), batch)

    trainable, frozen = trees.partition(partitioner.shardings(boxed), partitioner.trainable)
    moments = partitioner.optimizer_shardings(optimizer, trainable_shapes(boxed), trainable)
    state = jax.jit(init, out_shardings=(trainable, moments, frozen))(jax.random.key(0))
    with partitioner.context():
        step = jax.jit(
            update(optimizer), donate_argnums=(0, 1), out_shardings=(trainable, moments, partitioner.replicated)
        )
        actual = step(*state, partitioner.shard_batch(batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected)
    assert actual[0]["adapter"]["wi"]["kernel"].addressable_shards[0].data.shape == (2, 4)
