"""Intervals of scores."""

import numpy as np
import pytest

from slm_jax.data.bootstrap import bootstrap


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrap(lambda numbers: float(values[numbers].mean()), size=400, resamples=2000)
    reach = 1.96 * values.std() / 20
    assert found.score == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.03)


def test_a_ratio_over_the_same_examples_is_paired():
    """Sums that are proportional have one ratio, however much they vary."""
    values = np.random.default_rng(0).uniform(0.1, 10, 50)
    found = bootstrap(lambda numbers: 0.9 * values[numbers].sum() / values[numbers].sum(), size=50)
    assert found == pytest.approx((0.9, 0.9, 0.9))


def test_the_seed_the_level_and_the_number_of_resamples_matter():
    values = np.random.default_rng(0).exponential(size=60)

    def interval(**options):
        return bootstrap(lambda numbers: float(values[numbers].mean()), size=60, **options)

    assert interval() == interval()
    assert interval(seed=1) != interval()
    assert interval(resamples=50) != interval()
    assert interval(level=0.5).high - interval(level=0.5).low < interval().high - interval().low


def test_one_example_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        bootstrap(lambda numbers: 0.0, size=1)
