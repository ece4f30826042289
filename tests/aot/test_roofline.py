"""Least times by arithmetic."""

import pytest

from slm_jax.aot.chips import CHIPS
from slm_jax.aot.collectives import Collective
from slm_jax.aot.roofline import roofline, utilisation

V5E = CHIPS["v5e"]


def exchange(axes, ici, dcn):
    return Collective("all-reduce", axes, 4, 1, 0.0, 0.0, ici, dcn)


def test_the_slowest_part_is_the_bound():
    sent = [exchange("model", 0.5, 0.0), exchange("model", 0.25, 0.0), exchange("data", 0.1, 0.2)]
    line = roofline(flops=V5E.flops / 2, memory_bytes=V5E.hbm_bandwidth / 4, collectives=sent, chip=V5E)
    assert line.terms == pytest.approx(
        {"compute": 0.5, "memory": 0.25, "ici model": 0.75, "ici data": 0.1, "dcn data": 0.2}
    )
    assert (line.bound, line.limit) == (0.75, "ici model")
    assert line.without_overlap == pytest.approx(0.5 + 0.75 + 0.1 + 0.2)


def test_one_chip_is_bound_by_itself():
    line = roofline(flops=0.0, memory_bytes=V5E.hbm_bandwidth, collectives=[], chip=V5E)
    assert (line.bound, line.limit, line.without_overlap) == (1.0, "memory", 1.0)


def test_utilisation_is_of_what_has_to_be_computed():
    assert utilisation(8 * V5E.flops, seconds=4.0, num_chips=4, chip=V5E) == 0.5
