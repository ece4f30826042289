"""How tensors become parameters, and what happens where the two do not match."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from slm_jax.weights.huggingface.folder import Folder
from slm_jax.weights.huggingface.tables import Filters, Flat, Kernel, Row, Same, read_parameters
from slm_jax.weights.safetensors_io import WeightFileError

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


@dataclasses.dataclass(frozen=True)
class Quotient:
    """One tensor by another, a number."""

    def stored(self, shape):
        return shape, (1,)

    def __call__(self, dividend, divisor, shape):
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
