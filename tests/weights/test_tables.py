"""How tensors become parameters, and what happens where the two do not match."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from slm_jax.weights.huggingface.folder import Folder
from slm_jax.weights.safetensors_io import WeightFileError
from slm_jax.weights.tables import Filters, Flat, Kernel, Row, Same, WeightNorm, read_parameters

ROWS = [
    Row("layers/attention/kernel", "blocks.{layer}.attn.weight", Kernel()),
    Row("layers/attention/bias", "blocks.{layer}.attn.bias", Flat()),
    Row("norm/scale", "norm.weight"),
]
TENSORS = {
    **{f"blocks.{i}.attn.weight": np.arange(12, dtype=np.float32).reshape(6, 2) + 100 * i for i in range(3)},
    **{f"blocks.{i}.attn.bias": np.arange(6, dtype=np.float32) + 100 * i for i in range(3)},
    "norm.weight": np.arange(2, dtype=np.float16),
}
SHAPES = {"layers/attention/kernel": (3, 2, 3, 2), "layers/attention/bias": (3, 3, 2), "norm/scale": (2,)}


def read(tmp_path, tensors=TENSORS, rows=ROWS, shapes=SHAPES, dtype=np.float32, **options):
    (tmp_path / "config.json").write_text("{}")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    wanted = {path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes.items()}
    return dict(read_parameters(Folder(tmp_path), rows, shapes=wanted, **options))


@pytest.mark.parametrize(
    ("arrangement", "shape"),
    [
        (Same(), (2, 3)),
        (Flat(), (2, 3)),
        (Kernel(), (4, 2, 3)),
        (Kernel(2), (2, 3, 4)),
        (Filters(), (3, 2, 4)),
        (Filters(), (3, 5, 2, 4)),
    ],
)
def test_an_arrangement_brings_the_stored_shape_into_ours(arrangement, shape):
    stored = np.arange(np.prod(shape)).reshape(arrangement.stored(shape))
    assert arrangement(stored, shape).shape == shape


def test_a_kernel_maps_inputs_as_the_matrix_does():
    matrix, x = np.random.default_rng(0).normal(size=(6, 4)), np.arange(4.0)
    np.testing.assert_allclose(np.einsum("i,ihd->hd", x, Kernel()(matrix, (4, 3, 2))).ravel(), matrix @ x)
    heads = np.arange(4.0).reshape(2, 2)
    np.testing.assert_allclose(np.einsum("hd,hdo->o", heads, Kernel(2)(matrix, (2, 2, 6))), matrix @ heads.ravel())


def test_filters_turn_their_axes():
    ours = Filters()(np.arange(24).reshape(4, 2, 3), (3, 2, 4))
    assert ours[2, 1, 3] == np.arange(24).reshape(4, 2, 3)[3, 1, 2]


def test_stacks_are_filled_layer_by_layer(tmp_path):
    found = read(tmp_path)
    for i in range(3):
        np.testing.assert_array_equal(
            found["layers/attention/kernel"][i], TENSORS[f"blocks.{i}.attn.weight"].T.reshape(2, 3, 2)
        )
    np.testing.assert_array_equal(found["norm/scale"], [0, 1])


def test_unrolled_layers_have_a_tensor_each(tmp_path):
    shapes = {f"layers_{i}/attention/{name}": shape[1:] for i in range(3) for name, shape in
              (("kernel", (3, 2, 3, 2)), ("bias", (3, 3, 2)))} | {"norm/scale": (2,)}  # fmt: skip
    found = read(tmp_path, shapes=shapes)
    np.testing.assert_array_equal(found["layers_2/attention/bias"].ravel(), TENSORS["blocks.2.attn.bias"])


def test_parameters_are_cast(tmp_path):
    assert {leaf.dtype for leaf in read(tmp_path, dtype=np.float16).values()} == {np.dtype(np.float16)}


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path):
    tensors = TENSORS | {"extra": np.zeros(1, np.float32), "norm.weight": np.zeros(5, np.float32)}
    del tensors["blocks.1.attn.bias"]
    with pytest.raises(WeightFileError, match="does not fit") as failure:
        read(tmp_path, tensors)
    message = str(failure.value)
    assert "missing (1): blocks.1.attn.bias" in message and "unexpected (1): extra" in message
    assert "wrong shape (1): norm.weight is (5,), needs (2,)" in message


def test_a_layer_too_many_is_unexpected(tmp_path):
    more = {f"blocks.3.attn.{name}": TENSORS[f"blocks.2.attn.{name}"] for name in ("weight", "bias")}
    with pytest.raises(WeightFileError, match=r"unexpected \(2\): blocks\.3\.attn\.bias, blocks\.3\.attn\.weight"):
        read(tmp_path, TENSORS | more)


def test_some_tensors_may_stay_behind(tmp_path):
    found = read(tmp_path, TENSORS | {"cache.4": np.zeros(1, np.float32)}, unused=[r"cache\.\d+"])
    assert found.keys() == SHAPES.keys()


def test_a_parameter_without_a_row_is_an_error(tmp_path):
    with pytest.raises(WeightFileError, match="the table has no row for norm/scale"):
        read(tmp_path, rows=ROWS[:2])


def test_a_row_of_several_names_needs_something_that_takes_them():
    with pytest.raises(
        ValueError, match=r"the row of a has \('b', 'c'\) with Same\(\): a name goes with an Arrangement"
    ):
        Row("a", ("b", "c"))
    with pytest.raises(ValueError, match=r"the row of a has 'b' with WeightNorm\(\)"):
        Row("a", "b", WeightNorm())


NORMED = Row("layers/conv/kernel", ("conv.{layer}.g", "conv.{layer}.v"), WeightNorm())
NORMED_SHAPES = {"layers/conv/kernel": (2, 3, 4, 5)}
NORMED_TENSORS = {
    **{f"conv.{i}.g": np.arange(1, 4, dtype=np.float32).reshape(1, 1, 3) * (i + 1) for i in range(2)},
    **{f"conv.{i}.v": np.random.default_rng(i).normal(size=(5, 4, 3)).astype(np.float32) for i in range(2)},
}


def test_weight_norm_makes_filters_of_the_stored_magnitude(tmp_path):
    stacked = read(tmp_path, NORMED_TENSORS, [NORMED], NORMED_SHAPES)["layers/conv/kernel"]
    np.testing.assert_allclose(np.sqrt(np.square(stacked).sum((2, 3))), [[1, 2, 3], [2, 4, 6]], rtol=1e-6)
    directions = np.moveaxis(NORMED_TENSORS["conv.1.v"], (0, 1), (-1, -2))
    ratio = stacked[1] / directions
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-5)
    shapes = {f"layers_{i}/conv/kernel": (3, 4, 5) for i in range(2)}
    unrolled = read(tmp_path, NORMED_TENSORS, [NORMED], shapes)
    np.testing.assert_array_equal(unrolled["layers_1/conv/kernel"], stacked[1])


def test_each_of_several_tensors_is_missed_or_measured(tmp_path):
    tensors = NORMED_TENSORS | {"conv.1.v": np.zeros((5, 4, 2), np.float32)}
    del tensors["conv.0.g"]
    with pytest.raises(WeightFileError) as failure:
        read(tmp_path, tensors, [NORMED], NORMED_SHAPES)
    assert "missing (1): conv.0.g" in str(failure.value)
    assert "conv.1.v is (5, 4, 2), needs (5, 4, 3)" in str(failure.value)


CHOICE = [
    Row("layers/kernel", "{layer}.new"),
    Row("layers/kernel", "{layer}.old"),
    Row("layers/kernel", "{layer}.dead"),
]
CHOICE_SHAPES = {"layers/kernel": (2, 3)}


@pytest.mark.parametrize("name", ["new", "old", "dead"])
def test_of_several_rows_the_one_in_the_checkpoint_counts(tmp_path, name):
    tensors = {f"{i}.{name}": np.full(3, i, np.float32) for i in range(2)}
    found = read(tmp_path, tensors, CHOICE, CHOICE_SHAPES)
    np.testing.assert_array_equal(found["layers/kernel"], [[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.old"], r"missing \(1\): 1\.old$"),
        (["0.old", "1.old", "0.new", "1.new"], r"unexpected \(2\): 0\.old, 1\.old$"),
        ([], r"missing \(2\): 0\.new, 1\.new"),
    ],
)
def test_a_choice_of_rows_stays_strict(tmp_path, names, message):
    with pytest.raises(WeightFileError, match=message):
        read(
            tmp_path,
            {name: np.zeros(3, np.float32) for name in names} or {"else": np.zeros(1, np.float32)},
            CHOICE,
            CHOICE_SHAPES,
        )


def test_a_tensor_may_stand_under_several_names(tmp_path):
    rows = [*ROWS[:2], Row("norm/scale", "norm.weight", copies=("norm.gamma", "norm.scale"))]
    rest = {name: tensor for name, tensor in TENSORS.items() if name != "norm.weight"}
    for names in (("norm.weight", "norm.scale"), ("norm.gamma",)):
        found = read(tmp_path, rest | {name: np.array([3, 4], np.float32) for name in names}, rows)
        np.testing.assert_array_equal(found["norm/scale"], [3, 4])


def test_copies_have_to_be_equal_and_one_of_them_there(tmp_path):
    rows = [*ROWS[:2], Row("norm/scale", "norm.weight", copies=("norm.gamma",))]
    with pytest.raises(WeightFileError, match=r"norm\.gamma differs from norm\.weight"):
        read(tmp_path, TENSORS | {"norm.gamma": np.ones(2, np.float16)}, rows)
    with pytest.raises(WeightFileError, match=r"missing \(1\): norm\.weight"):
        read(tmp_path, {name: tensor for name, tensor in TENSORS.items() if name != "norm.weight"}, rows)


@dataclasses.dataclass(frozen=True)
class Quotient:
    """One tensor by another, a number."""

    def parts(self, shape):
        return shape, (1,)

    def combine(self, tensors, shape):
        dividend, divisor = tensors
        return dividend / divisor


QUOTIENT = [Row("layers/scale", ("blocks.{layer}.weight", "blocks.{layer}.size"), Quotient())]
PAIRS = {f"blocks.{i}.weight": np.full(2, 6, np.float32) for i in range(2)} | {
    f"blocks.{i}.size": np.full(1, i + 1, np.float32) for i in range(2)
}


def test_a_parameter_may_follow_from_several_tensors(tmp_path):
    found = read(tmp_path, PAIRS, QUOTIENT, {"layers/scale": (2, 2)})
    np.testing.assert_array_equal(found["layers/scale"], [[6, 6], [3, 3]])
    unrolled = read(tmp_path, PAIRS, QUOTIENT, {"layers_0/scale": (2,), "layers_1/scale": (2,)})
    np.testing.assert_array_equal(unrolled["layers_1/scale"], [3, 3])


def test_all_of_several_tensors_are_needed(tmp_path):
    tensors = {name: value for name, value in PAIRS.items() if name != "blocks.1.size"}
    tensors["blocks.0.size"] = np.ones(2, np.float32)
    with pytest.raises(WeightFileError, match="does not fit") as failure:
        read(tmp_path, tensors, QUOTIENT, {"layers/scale": (2, 2)})
    message = str(failure.value)
    assert "missing (1): blocks.1.size" in message and "wrong shape (1): blocks.0.size is (2,), needs (1,)" in message


def test_integers_may_stay_behind_and_are_no_weights(tmp_path):
    counter = {"steps": np.zeros((), np.int64)}
    assert read(tmp_path, TENSORS | counter, unused=["steps"]).keys() == SHAPES.keys()
    with pytest.raises(WeightFileError, match=r"integers where weights should be: norm\.weight"):
        read(tmp_path, TENSORS | {"norm.weight": np.zeros(2, np.int64)})
