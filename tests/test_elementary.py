"""exp, log, pow, tanh and the angles against sixty digits; one number and many take the same operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import elementary
from sim.elementary import exp_of, last_digits_free, log_of, power, tanh_of
from sim.price.step import whole_ps

Floats = npt.NDArray[np.float64]


def digits(function: Callable[[Decimal], Decimal], values: Iterable[float]) -> list[Decimal]:
    with localcontext() as context:
        context.prec = 60
        return [function(Decimal(value)) for value in values]


def tanh(x: Decimal) -> Decimal:
    square = (2 * x).exp()
    return (square - 1) / (square + 1)


def most_ulps(found: Iterable[float], exact: Iterable[Decimal]) -> float:
    """The largest distance in units of the last place."""
    return max(
        abs(float((Decimal(one) - wanted) / Decimal(math.ulp(float(wanted)))))
        for one, wanted in zip(found, exact, strict=True)
    )


RNG = np.random.default_rng(3)
EXPONENTS = np.concatenate(
    [RNG.uniform(-30, 30, 800), RNG.uniform(-700, 700, 400), RNG.normal(0, 1e-6, 200), [0.0, 1.0, -1.0]]
)
POSITIVE = np.concatenate(
    [
        np.exp(RNG.uniform(-300, 300, 600)),
        1 + RNG.normal(0, 1e-2, 800),
        1 + RNG.normal(0, 1e-9, 100),
        [5e-324],
    ]
)


def test_arrays_are_right_to_the_last_digit() -> None:
    assert most_ulps(exp_of(EXPONENTS).tolist(), digits(Decimal.exp, EXPONENTS)) < 0.51
    assert most_ulps(log_of(POSITIVE).tolist(), digits(Decimal.ln, POSITIVE)) < 0.7
    x = EXPONENTS[np.abs(EXPONENTS) < 19]
    nonzero = x[x != 0]
    assert most_ulps(tanh_of(nonzero).tolist(), digits(tanh, nonzero)) < 3
    bases = np.exp(RNG.uniform(-8, 8, 300))
    for y in (0.37, 3.0, -2.0, 7.5, 1 / 3):
        assert (
            most_ulps(power(bases, y).tolist(), digits(lambda b, y=y: (b.ln() * Decimal(y)).exp(), bases))
            < 0.6
        )


def test_numbers_are_rounded_once() -> None:
    exponents, positive = EXPONENTS[::5].tolist(), POSITIVE[::5].tolist()
    assert most_ulps(map(elementary.exp, exponents), digits(Decimal.exp, exponents)) <= 0.5
    assert most_ulps(map(elementary.log, positive), digits(Decimal.ln, positive)) <= 0.5
    above = [abs(one) + 1e-12 for one in exponents]
    assert most_ulps(map(elementary.log1p, above), digits(lambda x: (1 + x).ln(), above)) <= 0.5
    for x in RNG.uniform(-40, 40, 200).tolist():
        assert elementary.sin_cos(x) == pytest.approx((math.sin(x), math.cos(x)), rel=3e-16, abs=0)
        assert elementary.atan2(x, 1.7) == pytest.approx(math.atan2(x, 1.7), rel=3e-16, abs=0)
    assert (elementary.exp(-800.0), elementary.log(1.0), elementary.sin(0.0)) == (0.0, 0.0, 0.0)
    for function, value in ((elementary.exp, 710.0), (elementary.log, 0.0), (elementary.log, -1.0)):
        with pytest.raises((OverflowError, ValueError)):
            function(value)


def test_what_is_no_ordinary_number_is_as_in_numpy() -> None:
    odd = np.array([0.0, -1e9, 1e9, -np.inf, np.inf, np.nan, -720.0])
    with np.errstate(all="ignore"):
        assert np.array_equal(exp_of(odd), np.exp(odd), equal_nan=True)
        assert np.array_equal(log_of(odd), np.log(odd), equal_nan=True)
        assert np.array_equal(tanh_of(odd), np.tanh(odd), equal_nan=True)
        bases = np.array([0.0, np.inf, np.nan, 1.0])
        for y in (0.0, 0.5, -2.0):
            assert np.array_equal(power(bases, y), bases**y, equal_nan=True)
    assert exp_of(np.zeros((2, 0))).shape == (2, 0)
    assert exp_of(np.zeros((2, 3))).shape == (2, 3)


@given(st.floats(1e-100, 1e100), st.floats(-3, 3))
def test_one_number_takes_the_operations_of_many(base: float, y: float) -> None:
    many = np.full(100, base)
    assert power(many, y)[7] == power(np.array([base]), y)[0] == power(many, np.full(100, y))[3]
    assert log_of(many)[7] == log_of(np.array([base]))[0]
    assert exp_of(np.full(100, y))[7] == exp_of(np.array([y]))[0]


def test_long_arrays_are_the_chunks_put_together() -> None:
    x = RNG.normal(0, 5, 10_001)
    assert np.array_equal(exp_of(x)[5000:5100], exp_of(x[5000:5100]))


def test_a_price_in_the_middle_of_two_picoseconds_is_computed_again() -> None:
    """Last digits of the fast price do not reach the whole picoseconds."""

    def price_s(sizes: Floats) -> Floats:
        exact = sizes * 1e-12 + 0.5e-12
        return exact + (1e-24 if elementary.is_exact() else -1e-24)

    assert whole_ps(price_s, np.arange(1.0, 6.0)).tolist() == [2, 3, 4, 5, 6]
    with last_digits_free():
        assert not elementary.is_exact()
        assert np.array_equal(exp_of(EXPONENTS), np.exp(EXPONENTS))
    assert elementary.is_exact()
