"""Names of topologies, and what libtpu makes of them."""

import pytest

from slm_jax.aot import chips, topology
from slm_jax.training import partitioning


def test_a_name_is_a_generation_and_sizes():
    found = topology.parse("v4:4x4x8", num_slices=2)
    assert (found.chip.generation, found.shape, found.num_chips) == ("v4", (4, 4, 8), 256)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:4x4", "unknown topology 'v9:4x4': .*v4 with 3 sizes .*; v5e with 2 sizes .*v5p .*v6e"),
        ("v5e", "unknown topology 'v5e': "),
        ("v5e-256", "unknown topology"),
        ("v5e:4x4x4", "v5e with 2 sizes"),
        ("v5e:32x32", "1024 chips, but a slice of v5e has at most 256: .*--num_slices"),
        ("v4:4x4x3", None),
        ("v5e:3x4", "size 3 is not a multiple of 2"),
    ],
)
def test_other_names_are_refused(name, message):
    if message is None:
        assert topology.parse(name).num_chips == 48
        return
    with pytest.raises(ValueError, match=message):
        topology.parse(name)


def test_slices_are_counted_from_one():
    with pytest.raises(ValueError, match="num_slices must be at least 1, got 0"):
        topology.parse("v5e:4x4", num_slices=0)


@pytest.mark.tpu_aot
@pytest.mark.parametrize("name", ["v4:2x2x4", "v5e:4x4", "v5p:2x2x2", "v6e:4x4"])
def test_libtpu_knows_one_device_a_chip(name):
    found = topology.parse(name)
    assert len(found.devices()) == found.num_chips


@pytest.mark.tpu_aot
def test_slices_share_out_the_data_axis():
    devices = topology.parse("v5e:4x4", num_slices=2).devices()
    mesh = partitioning.make_mesh(data=4, model=8, devices=devices)
    slices = [[{d.slice_index for d in row.flat}] for row in mesh.devices]
    assert slices == [[{0}], [{0}], [{1}], [{1}]]
    with pytest.raises(ValueError, match="data=1 cannot be shared out over 2 slices"):
        partitioning.make_mesh(data=1, model=32, devices=devices)


def test_chips_are_told_apart():
    assert set(chips.CHIPS) == {"v4", "v5e", "v5p", "v6e"}
