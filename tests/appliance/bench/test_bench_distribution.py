"""Percentiles, against values that numpy.percentile gives."""

import pytest

from appliance.bench.distribution import distribution, percentile


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 99, 7.0),
        ([1.0, 2.0], 50, 1.5),
        ([1.0, 2.0, 3.0, 4.0], 25, 1.75),
        ([1.0, 2.0, 3.0, 4.0], 95, 3.85),
        ([float(n) for n in range(101)], 99, 99.0),
        ([1.0, 10.0], 0, 1.0),
        ([1.0, 10.0], 100, 10.0),
    ],
)
def test_percentile(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == pytest.approx(expected)


def test_distribution_of_unsorted_values() -> None:
    found = distribution([3, 1, 2])
    assert found is not None
    assert (found.count, found.mean, found.min, found.p50, found.max) == (3, 2, 1, 2, 3)
    assert found.p95 == pytest.approx(2.9)
    assert found.p99 == pytest.approx(2.98)


def test_no_values_have_no_distribution() -> None:
    assert distribution([]) is None
