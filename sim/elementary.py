"""exp, log, pow, tanh and the angles from operations whose result IEEE 754 fixes, in a fixed order.

libm and NumPy compute these functions differently from one processor, SIMD level and release to the next, so
that the last digit of a result depends on the machine. Here numbers are computed in whole numbers to far more
digits than a float has and rounded once; arrays by table, splitting and a short polynomial from +, -, x,
comparisons and exact scaling, to within 0.7 units in the last place (exp 0.51, tanh 3).
No FMA can slip in: NumPy rounds between two operations on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from math import frexp, inf, isqrt, ldexp
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # this module is also imported by what must start fast
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

    FloatOrFloats = TypeVar("FloatOrFloats", float, Floats)

# --- numbers, in fixed point ----------------------------------------------------------------------

_BITS = 192
_ONE = 1 << _BITS


def exp(x: float) -> float:
    """e to the x; OverflowError where that is above the largest float."""
    if x < -746:
        return 0.0
    mantissa, power_of_two = _exp_fixed(_fixed(x))
    if power_of_two > 1100:
        raise OverflowError("math range error")
    return (mantissa << max(0, power_of_two)) / (_ONE << max(0, -power_of_two))


def log(x: float) -> float:
    """The natural logarithm; ValueError at 0 and below."""
    return log_ratio(*x.as_integer_ratio())


def log1p(x: float) -> float:
    """log(1 + x), also where 1 + x is no float."""
    numerator, denominator = x.as_integer_ratio()
    return log_ratio(numerator + denominator, denominator)


def log_ratio(numerator: int, denominator: int) -> float:
    """The logarithm of a ratio of whole numbers."""
    if numerator <= 0:
        raise ValueError("math domain error")
    return _log_fixed(numerator, denominator) / _ONE


def sin(x: float) -> float:
    """The sine."""
    return sin_cos(x)[0]


def sin_cos(x: float) -> tuple[float, float]:
    """Sine and cosine."""
    sine, cosine = _sin_cos_fixed(_fixed(x))
    return sine / _ONE, cosine / _ONE


def atan2(y: float, x: float) -> float:
    """The angle of (x, y), for x above 0."""
    if not x > 0:
        raise ValueError("atan2 is for x above 0")
    above, below = y.as_integer_ratio(), x.as_integer_ratio()
    ratio = (above[0] * below[1] << _BITS) // (above[1] * below[0])
    halvings = 5
    for _ in range(halvings):  # atan t = 2 atan(t / (1 + sqrt(1 + t^2)))
        ratio = (ratio << _BITS) // (_ONE + isqrt((_ONE << _BITS) + ratio * ratio))
    return (_odd_series(ratio, -1) << halvings) / _ONE


def _fixed(x: float) -> int:
    numerator, denominator = x.as_integer_ratio()
    return (numerator << _BITS) // denominator


def _odd_series(t: int, sign: int) -> int:
    """t + sign t^3/3 + t^5/5 + ...: atan for -1, atanh for +1."""
    square = sign * (t * t >> _BITS)
    total, power, k = 0, t, 1
    while power not in (0, -1):
        total += power // k
        power = power * square >> _BITS
        k += 2
    return total


@cache
def _ln2() -> int:
    return 2 * _odd_series(_ONE // 3, 1)


@cache
def _pi() -> int:
    """Machin's formula."""
    return 4 * (4 * _odd_series(_ONE // 5, -1) - _odd_series(_ONE // 239, -1))


def _exp_fixed(x: int) -> tuple[int, int]:
    """(m, k): e^x = m 2^k, with m from 1 to 2."""
    power_of_two, rest = divmod(x, _ln2())
    halvings = 8
    rest >>= halvings
    total = term = _ONE
    k = 1
    while term:
        term = (term * rest >> _BITS) // k
        total += term
        k += 1
    for _ in range(halvings):
        total = total * total >> _BITS
    return total, power_of_two


def _log_fixed(numerator: int, denominator: int) -> int:
    shift = numerator.bit_length() - denominator.bit_length()
    mantissa = (numerator << _BITS - min(0, shift)) // (denominator << max(0, shift))
    if mantissa > _ONE + _ONE // 3:  # from about 2/3 to 4/3: a logarithm near 0 keeps its digits
        mantissa, shift = mantissa >> 1, shift + 1
    roots = 4
    for _ in range(roots):
        mantissa = isqrt(mantissa << _BITS)
    return (_odd_series((mantissa - _ONE << _BITS) // (mantissa + _ONE), 1) << roots + 1) + shift * _ln2()


def _sin_cos_fixed(x: int) -> tuple[int, int]:
    """By whole quarters of a turn, a multiple of 1/64 whose values are kept, and a short series."""
    quarter = _pi() >> 1
    turns, rest = divmod(x + (quarter >> 1), quarter)
    rest -= quarter >> 1
    step = (rest >> _BITS - 7) + 1 >> 1
    (sine, cosine), (small_sine, small_cosine) = _at_step(step), _sin_cos_series(rest - (step << _BITS - 6))
    sine, cosine = (
        sine * small_cosine + cosine * small_sine >> _BITS,
        cosine * small_cosine - sine * small_sine >> _BITS,
    )
    return [(sine, cosine), (cosine, -sine), (-sine, -cosine), (-cosine, sine)][turns % 4]


@cache
def _at_step(step: int) -> tuple[int, int]:
    return _sin_cos_series(step << _BITS - 6)


def _sin_cos_series(x: int) -> tuple[int, int]:
    """For |x| below 1."""
    minus_square = -(x * x >> _BITS)
    sine, cosine, odd, even, k = x, _ONE, x, _ONE, 1
    while even not in (0, -1):
        even = (even * minus_square >> _BITS) // (k * (k + 1))
        odd = (odd * minus_square >> _BITS) // ((k + 1) * (k + 2))
        cosine += even
        sine += odd
        k += 2
    return sine, cosine


# --- arrays, by table and polynomial --------------------------------------------------------------

_CHUNK = 4096  # a dozen such arrays stay in the caches
_FEW = 8
_TANH_STEPS, _TANH_END = 256, 20
_STEPS = 128  # entries of both tables
_GRID_BITS = 40  # high parts are multiples of 2^-40: whole multiples of them are exact
_SPLITTER = 2.0**27 + 1


_IS_EXACT: ContextVar[bool] = ContextVar("_IS_EXACT", default=True)


@contextmanager
def last_digits_free() -> Iterator[None]:
    """Within, arrays are computed by NumPy: ten times as fast, with last digits that depend on the machine.

    For callers that round the result, and compute it exactly where a last digit could change the rounding.
    """
    token = _IS_EXACT.set(False)
    try:
        yield
    finally:
        _IS_EXACT.reset(token)


def is_exact() -> bool:
    """Whether last digits matter here: not within ``last_digits_free``."""
    return _IS_EXACT.get()


def exp_of(x: Floats) -> Floats:
    """e to each element; 0 and infinity where that is out of range."""
    import numpy as np

    if not is_exact():
        return np.asarray(np.exp(x))
    return _by_chunk(_exp_chunk, _exp_number, x)


def log_of(x: Floats) -> Floats:
    """The natural logarithm of each element: -infinity at 0, NaN below."""
    import numpy as np

    if not is_exact():
        return np.asarray(np.log(x))
    return _by_chunk(_log_checked, lambda one: sum(_log_number(one)), x)


def tanh_of(x: Floats) -> Floats:
    """The hyperbolic tangent of each element."""
    return _by_chunk(_tanh_chunk, None, x)


def power(base: Floats | float, exponent: Floats | float) -> Floats:
    """``base ** exponent`` of each pair; bases are 0 or more."""
    import numpy as np

    if not is_exact():
        return np.asarray(np.power(base, exponent))
    if isinstance(exponent, np.ndarray) and exponent.ndim:
        wide = np.broadcast_arrays(base, exponent)
        return _power_chunk(*(np.asarray(one, dtype=np.float64) for one in wide))
    y = float(exponent)
    return _by_chunk(lambda part: _power_chunk(part, y), lambda one: _power_number(one, y), base)


def _by_chunk(
    of_chunk: Callable[[Floats], Floats], of_number: Callable[[float], float] | None, x: Floats | float
) -> Floats:
    """The function of all elements, in chunks small enough that temporaries stay in the caches.

    A handful of elements goes one by one through the same operations, because NumPy's calls take longer.
    """
    import numpy as np

    x = np.asarray(x, dtype=np.float64)
    flat = x.ravel()
    if of_number is not None and flat.size <= _FEW and np.all((flat > 1e-300) & (flat < 1e300)):
        return np.array([of_number(one) for one in flat.tolist()]).reshape(x.shape)
    if flat.size <= _CHUNK:
        return of_chunk(flat).reshape(x.shape)
    parts = [of_chunk(flat[at : at + _CHUNK]) for at in range(0, flat.size, _CHUNK)]
    return np.concatenate(parts).reshape(x.shape)


def _except_odd(
    found: Floats, is_odd: npt.NDArray[np.bool_], function: Callable[..., Floats], *x: Floats | float
) -> Floats:
    """``found``, but NumPy's result where that is exact by definition: at 0, infinity, NaN."""
    if is_odd.any():
        found[is_odd] = function(*x)[is_odd]
    return found


@cache
def _exp_table() -> tuple[Floats, Floats, float, float]:
    """2^(j/128) in a high and a low part, and ln 2 / 128 in two, of which k times the first is exact."""
    import numpy as np

    exact = [_exp_fixed(_ln2() * j // _STEPS)[0] for j in range(_STEPS)]
    high = [value / _ONE for value in exact]
    low = [(value - _fixed(near)) / _ONE for value, near in zip(exact, high, strict=True)]
    step = _ln2() // _STEPS
    step_high = round(step / _ONE * 2.0**_GRID_BITS) / 2.0**_GRID_BITS
    return np.array(high), np.array(low), step_high, (step - _fixed(step_high)) / _ONE


def _reduced(x: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """(k, r): x = k ln 2 / 128 + r, with r as small as can be."""
    import numpy as np

    _, _, step_high, step_low = _exp_table()
    k = x * (1 / step_high)
    np.rint(k, out=k)
    whole = k.astype(np.int64)
    r = k * step_high
    np.subtract(x, r, out=r)
    k *= step_low
    r -= k
    return whole, r


def _expm1_polynomial(r: FloatOrFloats) -> FloatOrFloats:
    """e^r - 1 for |r| <= ln 2 / 256."""
    series = r * (1 / 120)
    for coefficient in (1 / 24, 1 / 6, 0.5):
        series += coefficient
        series *= r
    series *= r
    series += r
    return series


def _exp_chunk(x: Floats, tail: Floats | None = None) -> Floats:
    """e^(x + tail)."""
    import numpy as np

    high, low, _, _ = _exp_table()
    is_normal = x.size > 0 and np.minimum.reduce(x) > -700.0 and np.maximum.reduce(x) < 700.0
    if not is_normal:
        x = np.minimum(np.maximum(x, -800.0), 800.0)
    k, r = _reduced(x)
    if tail is not None:
        r += tail
    at = k & _STEPS - 1
    found = high.take(at)
    part = _expm1_polynomial(r)
    part *= found
    part += low.take(at)
    part += found
    if not is_normal:
        return np.asarray(np.ldexp(part, k >> 7))
    k >>= 7
    k <<= 52
    bits = part.view(np.int64)
    bits += k  # as ldexp would, in a third of the time
    return part


@cache
def _tanh_table() -> Floats:
    """tanh(j/256) from j = -5120 on."""
    import numpy as np

    step, _ = _exp_fixed((2 << _BITS) // _TANH_STEPS)
    square, above = _ONE, [0.0]
    for _ in range(_TANH_STEPS * _TANH_END):
        square = square * step >> _BITS  # e^(2j/256)
        above.append((square - _ONE) / (square + _ONE))
    return np.array([*(-value for value in reversed(above[1:])), *above])


def _tanh_chunk(x: Floats) -> Floats:
    """By x = j/256 + r and the sum formula; beyond 20 it is 1 to the last digit."""
    import numpy as np

    end = float(_TANH_END)
    if not (x.size and np.minimum.reduce(x) > -end and np.maximum.reduce(x) < end):
        x = np.minimum(np.maximum(x, -end), end)
    j = x * _TANH_STEPS
    np.rint(j, out=j)
    square = j * (1 / _TANH_STEPS)
    x = x - square
    np.multiply(x, x, out=square)
    part = square * (2 / 15)
    part += -1 / 3
    part *= square
    part *= x
    part += x  # tanh r
    j += _TANH_STEPS * _TANH_END
    found = _tanh_table().take(j.astype(np.int64), mode="clip", out=x)
    np.multiply(found, part, out=square)
    square += 1.0
    part += found
    part /= square
    return part


def _exp_number(x: float, tail: float = 0.0) -> float:
    """``_exp_chunk`` of one number: the same operations."""
    high, low, step_high, step_low = _exp_lists()
    x = min(max(x, -800.0), 800.0)
    k = round(x * (1 / step_high))
    part = _expm1_polynomial(((x - k * step_high) - k * step_low) + tail)
    found = high[k & _STEPS - 1]
    return _scaled(part * found + low[k & _STEPS - 1] + found, k >> 7)


def _scaled(x: float, power_of_two: int) -> float:
    return inf if power_of_two > 1023 else ldexp(x, power_of_two)


@cache
def _exp_lists() -> tuple[list[float], list[float], float, float]:
    high, low, step_high, step_low = _exp_table()
    return high.tolist(), low.tolist(), step_high, step_low


@cache
def _log_lists() -> tuple[list[float], list[float], list[float], float, float]:
    inverse, high, low, ln2_high, ln2_low = _log_table()
    return inverse.tolist(), high.tolist(), low.tolist(), ln2_high, ln2_low


@cache
def _log_table() -> tuple[Floats, Floats, Floats, float, float]:
    """By j = m x 128: c near 1/m in 12 bits, -log c in a high and a low part; and ln 2 in two such parts."""
    import numpy as np

    def split(value: int) -> tuple[float, float]:
        high = round(value / _ONE * 2.0**_GRID_BITS) / 2.0**_GRID_BITS
        return high, (value - _fixed(high)) / _ONE

    inverse = [round(2048 * _STEPS / j) if j else 2048 for j in range(2 * _STEPS)]
    logs = [split(-_log_fixed(c, 2048)) for c in inverse]
    return (
        np.array(inverse) / 2048,
        np.array([high for high, _ in logs]),
        np.array([low for _, low in logs]),
        *split(_ln2()),
    )


def _log_chunk(x: Floats) -> tuple[Floats, Floats]:
    """log x as the sum of a float and a small rest.

    With x = 2^e m and m c = 1 + r it is e ln 2 - log c + log1p r.
    """
    import numpy as np

    inverse, high, low, ln2_high, ln2_low = _log_table()
    m, e = np.frexp(x)
    is_small = m < 0.7071
    m = np.where(is_small, m + m, m)
    e = (e - is_small).astype(np.float64)
    at = np.rint(m * _STEPS).astype(np.int64)
    c = inverse.take(at)
    m_high = np.rint(m * 2.0**30) * 2.0**-30  # times 12 bits: exact
    r = (m_high * c - 1.0) + (m - m_high) * c
    first = e * ln2_high + high[at]
    total = first + r
    return total, ((first - total) + r) + ((e * ln2_low + low[at]) + _log_series(r))


def _log_series(r: FloatOrFloats) -> FloatOrFloats:
    """log(1 + r) - r for a small r."""
    series = r * (-1 / 8)
    for coefficient in (1 / 7, -1 / 6, 1 / 5, -1 / 4, 1 / 3, -0.5):
        series += coefficient
        series *= r
    series *= r
    return series


def _log_checked(x: Floats) -> Floats:
    import numpy as np

    is_odd = ~((x > 0) & (x < np.inf))
    total, rest = _log_chunk(np.where(is_odd, 1.0, x))
    return _except_odd(total + rest, is_odd, np.log, x)


def _log_number(x: float) -> tuple[float, float]:
    """``_log_chunk`` of one number: the same operations."""
    inverse, high, low, ln2_high, ln2_low = _log_lists()
    m, e = frexp(x)
    if m < 0.7071:
        m, e = m + m, e - 1
    at = round(m * _STEPS)
    c = inverse[at]
    m_high = round(m * 2.0**30) * 2.0**-30
    r = (m_high * c - 1.0) + (m - m_high) * c
    first = e * ln2_high + high[at]
    total = first + r
    return total, ((first - total) + r) + ((e * ln2_low + low[at]) + _log_series(r))


def _power_number(base: float, exponent: float) -> float:
    total, rest = _log_number(base)
    high = total + rest
    product, error = _exact_product(high, exponent)
    return _exp_number(product, ((total - high) + rest) * exponent + error)


def _power_chunk(base: Floats, exponent: Floats | float) -> Floats:
    import numpy as np

    is_odd = (base == 0) | ~np.isfinite(base)
    total, rest = _log_chunk(np.where(is_odd, 1.0, base))
    high = total + rest
    product, error = _exact_product(high, exponent)
    found = _exp_chunk(product, ((total - high) + rest) * exponent + error)
    return _except_odd(found, is_odd, np.power, base, exponent)


def _exact_product(x: FloatOrFloats, y: FloatOrFloats | float) -> tuple[FloatOrFloats, FloatOrFloats]:
    """x y rounded, and what the rounding took (Dekker 1971)."""
    x_wide, y_wide = x * _SPLITTER, y * _SPLITTER
    x_high, y_high = x_wide - (x_wide - x), y_wide - (y_wide - y)
    x_low, y_low = x - x_high, y - y_high
    product = x * y
    return product, x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)
