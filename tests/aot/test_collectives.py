"""What chips send to each other: kinds, axes, bytes and links, from texts and from compiled programs."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slm_jax.aot import collectives, hlo, topology
from slm_jax.aot.chips import CHIPS
from slm_jax.aot.network import Network
from slm_jax.training.partitioning import make_mesh

V5E = CHIPS["v5e"]


class FakeMesh:
    """Devices with coordinates, as libtpu describes them."""

    def __init__(self, places, shape, names=("data", "fsdp", "model")):
        devices = np.empty(len(places), object)
        for number, (coords, slice_index) in enumerate(places):
            devices[number] = types.SimpleNamespace(coords=coords, slice_index=slice_index)
        self.devices = devices.reshape(shape)
        self.axis_names = names
        self.shape = dict(zip(names, shape, strict=True))


def torus(rows, columns, shape, slices=1):
    places = [((x, y, 0), s) for s in range(slices) for x in range(rows) for y in range(columns)]
    return Network(FakeMesh(places, shape), V5E, (rows, columns))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("[4,2]<=[2,2,2]T(0,2,1)", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("{}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_read_in_every_form(text, groups):
    assert collectives.parse_groups(text, 4) == groups


def test_groups_of_another_form_are_an_error():
    with pytest.raises(ValueError, match="not known: round"):
        collectives.parse_groups("round the table", 4)


def test_an_axis_is_where_members_of_a_group_differ():
    network = torus(4, 4, (2, 2, 4))
    assert network.axes([[0, 1, 2, 3]]) == "model"
    assert network.axes([[0, 8]]) == "data"
    assert network.axes([[0, 4, 8, 12]]) == "data+fsdp"
    assert network.axes([[0], [1]]) == ""


@pytest.mark.parametrize(
    ("kind", "inside", "slices", "expected"),
    [
        ("all-gather", 4, 1, (300, 0)),
        ("all-reduce", 4, 1, (150, 0)),
        ("reduce-scatter", 4, 1, (75, 0)),
        ("all-to-all", 4, 1, (75, 0)),
        ("all-gather", 4, 2, (600, 100)),
        ("all-reduce", 4, 2, (150, 25)),
        ("reduce-scatter", 4, 2, (75, 12.5)),
        ("all-to-all", 4, 2, (37.5, 50)),
        ("all-reduce", 1, 2, (0, 100)),
    ],
)
def test_what_a_chip_sends(kind, inside, slices, expected):
    assert collectives.shares(kind, 100.0, inside=inside, slices=slices) == expected


def test_links_of_a_group():
    """A whole row of 16 is a ring, a part of it a line; interleaved groups share, dimensions add up."""
    link = V5E.link_bandwidth
    network = torus(16, 16, (16, 1, 16))
    row = list(range(16))
    assert network.ici_bandwidth(row) == 2 * link
    assert network.ici_bandwidth(row[:4]) == link
    assert network.ici_bandwidth(row[::4]) == link / 2
    assert network.ici_bandwidth(list(range(256))) == 4 * link
    small = torus(4, 4, (4, 1, 4))
    assert small.ici_bandwidth([0, 1, 2, 3]) == link  # too small for a ring
    assert network.ici_bandwidth([3]) == link


def test_three_dimensions_wrap_together():
    network = Network(FakeMesh([((0, 0, z), 0) for z in range(4)], (4, 1, 1)), CHIPS["v4"], (2, 2, 4))
    assert not network.wraps(2)
    cube = Network(FakeMesh([((0, 0, z), 0) for z in range(4)], (4, 1, 1)), CHIPS["v4"], (4, 4, 4))
    assert cube.wraps(2)


PROGRAM = """
HloModule step

%start (p: f32[8,4]) -> f32[8,16] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %g.1 = f32[8,16]{1,0} all-gather(%p), channel_id=7, replica_groups=[4,4]<=[16], dimensions={1}
}

%done (q: f32[8,4]) -> f32[8,16] {
  %q = f32[8,4]{1,0} parameter(0)
  ROOT %g.2 = f32[8,16]{1,0} all-gather(%q), channel_id=7, replica_groups=[4,4]<=[16], dimensions={1}
}

ENTRY %main (a: f32[8,4], b: bf16[32]) -> f32[8,16] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[32]{0} parameter(1)
  %sum = bf16[32]{0} all-reduce(%b), channel_id=1, replica_groups=[4,4]<=[4,4]T(1,0), to_apply=%add
  %next = f32[8,4]{1,0} collective-permute(%a), channel_id=2, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %gather.1 = f32[8,16]{1,0} fusion(%a), kind=kCustom, calls=%start
  ROOT %gather.2 = f32[8,16]{1,0} fusion(%a), kind=kCustom, calls=%done
}
"""


def test_a_collective_that_several_fusions_hold_counts_once():
    found = collectives.find(hlo.parse(PROGRAM), torus(4, 4, (4, 1, 4)))
    assert [(c.kind, c.axes, c.group, c.ici_bytes) for c in found] == [
        ("all-reduce", "data", 4, 2 * 64 * 3 / 4),
        ("collective-permute", "model", 2, 128),
        ("all-gather", "model", 4, 3 * 128),
    ]
    assert found[0].seconds_ici == found[0].ici_bytes / V5E.link_bandwidth
    assert all(c.dcn_bytes == 0 for c in found)


def test_between_slices_the_slow_network_counts():
    network = torus(2, 4, (4, 1, 4), slices=2)
    (found, *_) = collectives.find(hlo.parse(PROGRAM), network)
    assert (found.axes, found.ici_bytes, found.dcn_bytes) == ("data", 2 * 64 / 2, 2 * 32 / 2)
    assert found.seconds_dcn == found.dcn_bytes / V5E.dcn_bandwidth


# What libtpu 0.0.42 makes of a sum over data=2, fsdp=4 whose result is split over fsdp, two slices of 2x2.
BETWEEN_SLICES = """HloModule jit_f, is_scheduled=true

ENTRY %main (p: f32[128,1024]) -> f32[128,1024] {
  %p = f32[128,1024]{1,0} parameter(0)
  %bitcast.1 = f32[128,8,128]{2,1,0:T(8,128)} bitcast(%p)
  %after-all = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.1_0"}
  %send = (f32[128,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%bitcast.1, %after-all), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="TYPE"}
  %recv = (f32[128,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%after-all), channel_id=1, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_transfer_type="TYPE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %recv-done = (f32[128,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %result = f32[128,1024]{1,0} get-tuple-element(%recv-done), index=0
}
"""


@pytest.mark.parametrize(
    ("transfer", "kind", "slices", "sent"),
    [
        ("ALL_REDUCE", "all-reduce", 2, 1.0),
        ("ALL_REDUCE", "all-reduce", 4, 1.5),
        ("ALL_GATHER", "all-gather", 4, 3.0),
        ("ONE_TO_ONE", "collective-permute", 2, 1.0),
    ],
)
def test_what_hosts_send_for_the_chips_is_what_passes_between_slices(transfer, kind, slices, sent):
    program = hlo.parse(BETWEEN_SLICES.replace("TYPE", transfer))
    (found,) = collectives.find(program, torus(2, 2, (slices, 4, 1), slices=slices))
    assert (found.kind, found.axes, found.group, found.ici_bytes) == (kind, "data", slices, 0)
    assert found.dcn_bytes == pytest.approx(sent * 4 * 128 * 1024)
    assert found.seconds_dcn == pytest.approx(found.dcn_bytes / V5E.dcn_bandwidth)


@pytest.mark.tpu_aot
def test_libtpu_tells_what_passes_between_slices():
    """The gradient of a matrix that is split over fsdp: each chip sends its quarter to its partner."""
    slices = topology.parse("v5e:2x2", num_slices=2)
    mesh = make_mesh(data=2, fsdp=4, devices=slices.devices())
    split, rows = (NamedSharding(mesh, PartitionSpec(axes)) for axes in ("fsdp", ("data", "fsdp")))
    matrix = jax.ShapeDtypeStruct((512, 1024), np.float32, sharding=split)
    batch = jax.ShapeDtypeStruct((256, 512), np.float32, sharding=rows)
    gradient = jax.jit(jax.grad(lambda matrix, batch: ((batch @ matrix) ** 2).mean()), out_shardings=split)
    program = hlo.parse(gradient.lower(matrix, batch).compile().as_text())
    found = collectives.find(program, Network(mesh, slices.chip, slices.shape))
    assert [(c.kind, c.axes, c.dcn_bytes) for c in found if c.dcn_bytes] == [("all-reduce", "data", 4 * 512 * 1024 / 4)]
    assert all(c.axes == "fsdp" for c in found if c.ici_bytes)


def test_collectives_of_a_compiled_program():
    """A sharded product: its sum over the model axis, once a layer."""
    mesh = jax.make_mesh((4, 1, 2), ("data", "fsdp", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 3)

    def spec(*axes):
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    def layers(x, w):
        return jax.lax.scan(lambda x, w: (jax.lax.with_sharding_constraint(x @ w @ w.T, spec("data")), None), x, w)[0]

    x = jax.ShapeDtypeStruct((16, 32), np.float32, sharding=spec("data"))
    w = jax.ShapeDtypeStruct((5, 32, 64), np.float32, sharding=spec(None, None, "model"))
    with jax.set_mesh(mesh):
        program = hlo.parse(jax.jit(layers).lower(x, w).compile().as_text())
    (found,) = [c for c in collectives.find(program, Network(mesh, V5E, (2, 4))) if c.axes == "model"]
    assert (found.kind, found.times, found.ici_bytes) == ("all-reduce", 5, 5 * 4 * 32 * 4)
