"""Values that are computed instead of listed: generators (`range`, `linspace`, `logspace`) and random distributions.

Both give the same values on every machine and every Python. Steps are exact: a number of the file counts as the decimal
that stands there, is computed with as a fraction, and becomes the nearest float at the end, so that
`{"range": [0, 1, 0.1]}` holds 0.3 and not 0.30000000000000004. Logarithms are `decimal`'s, which are correctly rounded
(those of `math` are the C library's, and differ between machines in the last bit).

A draw depends on the seed, the key and the index of the sample alone: N = SHA-256 of the text `seed:index:key`, as a
256-bit integer. With u = (N >> 203) / 2**53, a float in [0, 1):

| distribution           | the value                                                                  |
|------------------------|----------------------------------------------------------------------------|
| `{"uniform": [a, b]}`     | a * (1 - u) + b * u, kept within [a, b]                                 |
| `{"log_uniform": [a, b]}` | exp(ln a + u * (ln b - ln a)) with 20 decimal digits, kept within [a, b] |
| `{"int": [a, b]}`         | a + (N * (b - a + 1) >> 256): an integer, a and b included          |
| `{"choice": [v, ...]}`    | v[N * len(v) >> 256]                                                    |

So another parameter, another order of them, or more samples leave the values already drawn as they are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Generic, TypeVar

from gpt_opt.sweep.json_file import Json, shown

MAX_VALUES = 1_000_000
"""Most values of one axis."""

_NUMBER = {"type": "number"}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_COUNT = {"type": "integer", "minimum": 2, "maximum": MAX_VALUES}
_LN = Context(prec=40)
_DRAW = Context(prec=20)


class BadValues(Exception):
    """Arguments that give no values: what must hold, and what to do."""

    def __init__(self, message: str, fix: str = "") -> None:
        """Keeps both parts for the report."""
        self.message = message
        self.fix = fix
        super().__init__(message)


Values = TypeVar("Values")
Draw = Callable[[int], Json]
"""From the 256-bit number of a draw to its value."""


@dataclass(frozen=True)
class Entry(Generic[Values]):
    """A generator or a distribution.

    Attributes:
        form: Its arguments, for messages: `[start, stop]`.
        doc: What it gives.
        schema: JSON Schema of the arguments.
        make: Arguments -> what they stand for; raises BadValues.
    """

    form: str
    doc: str
    schema: dict[str, Any]
    make: Callable[[Json], Values]


def draw_number(seed: int, key: str, index: int) -> int:
    """Returns the 256-bit integer that sample `index` of `key` is made from."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}:{key}".encode()).digest(), "big")


def is_whole(value: Json) -> bool:
    """Returns whether a JSON value is an integer; a boolean is not one."""
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(arguments: Json, form: str, lengths: Sequence[int]) -> list[int | float]:
    given = arguments if isinstance(arguments, list) else []
    numbers = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) not in lengths or len(numbers) != len(given):
        raise BadValues(f"must be {form}, all numbers, but got {shown(arguments)}")
    if any(is_whole(v) and abs(v) > 10**300 for v in numbers):
        raise BadValues("numbers must be below 1e300")
    return numbers


def _range(arguments: Json) -> tuple[Json, ...]:
    numbers = _numbers(arguments, "[start, stop] or [start, stop, step]", (2, 3))
    start, stop, step = [Fraction(str(v)) for v in [*numbers, 1][:3]]
    if step == 0:
        raise BadValues("step must not be 0", "leave it out for 1")
    size = math.ceil((stop - start) / step)
    if size < 1:
        fix = "put stop beyond start, in the direction of step"
        raise BadValues(f"must give a value, but {numbers} gives none: stop itself is left out", fix)
    if size > MAX_VALUES:
        raise BadValues(f"must give at most {MAX_VALUES} values, but gives {size}")
    values = (start + i * step for i in range(size))
    return tuple(int(v) for v in values) if all(map(is_whole, numbers)) else tuple(float(v) for v in values)


def _ends(arguments: Json) -> tuple[float, float, int]:
    low, high, size = _numbers(arguments, "[first, last, count]", (3,))
    if not isinstance(size, int) or not 2 <= size <= MAX_VALUES:
        raise BadValues(f"count must be an integer from 2 to {MAX_VALUES}, but got {size}")
    if low == high:
        raise BadValues(f"first and last must differ, but both are {low}", "list the one value instead")
    return low, high, size


def _linspace(arguments: Json) -> tuple[Json, ...]:
    first, last, size = _ends(arguments)
    low, high = Fraction(str(first)), Fraction(str(last))
    return tuple(float(low + (high - low) * i / (size - 1)) for i in range(size))


def _logspace(arguments: Json) -> tuple[Json, ...]:
    first, last, size = _ends(arguments)
    if first <= 0 or last <= 0:
        raise BadValues(f"first and last must be above 0, but got {first} and {last}", "they are values, not exponents")
    low = _LN.ln(Decimal(str(first)))
    step = _LN.divide(_LN.subtract(_LN.ln(Decimal(str(last))), low), Decimal(size - 1))
    middle = (float(_LN.exp(_LN.fma(step, Decimal(i), low))) for i in range(1, size - 1))
    return (float(first), *middle, float(last))


def _bounds(arguments: Json) -> tuple[int | float, int | float]:
    low, high = _numbers(arguments, "[low, high]", (2,))
    if low >= high:
        raise BadValues(f"low must be below high, but got {low} and {high}", "swap them, or use base for one value")
    return low, high


def _uniform(arguments: Json) -> Draw:
    low, high = map(float, _bounds(arguments))

    def draw(number: int) -> Json:
        u = (number >> 203) * 2.0**-53
        return min(max(low * (1.0 - u) + high * u, low), high)

    return draw


def _log_uniform(arguments: Json) -> Draw:
    bounds = _bounds(arguments)
    if bounds[0] <= 0:
        raise BadValues(f"low must be above 0, but got {bounds[0]}", "use uniform for a range that holds 0")
    low, high = map(float, bounds)
    start = _LN.ln(Decimal(str(low)))
    width = _LN.multiply(_LN.subtract(_LN.ln(Decimal(str(high))), start), Decimal(2) ** -53)

    def draw(number: int) -> Json:
        value = float(_DRAW.exp(_DRAW.fma(Decimal(number >> 203), width, start)))
        return min(max(value, low), high)

    return draw


def _int(arguments: Json) -> Draw:
    low, high = _bounds(arguments)
    if not isinstance(low, int) or not isinstance(high, int):
        raise BadValues(f"low and high must be integers, but got {low} and {high}", "use uniform for others")
    size = high - low + 1
    return lambda number: low + (number * size >> 256)


def _choice(arguments: Json) -> Draw:
    if not isinstance(arguments, list) or not arguments:
        raise BadValues(f"must be a list with at least one value, but got {shown(arguments)}")
    values = arguments
    return lambda number: values[number * len(values) >> 256]


def _array(*items: dict[str, Any], optional: int = 0) -> dict[str, Any]:
    shape: dict[str, Any] = {"type": "array", "prefixItems": list(items)}
    return {**shape, "minItems": len(items) - optional, "maxItems": len(items)}


GENERATORS: dict[str, Entry[tuple[Json, ...]]] = {
    "range": Entry(
        "[start, stop] or [start, stop, step]",
        "start, start + step, ... before stop, which is left out; integers if all three are; step 1 if not given",
        _array(_NUMBER, _NUMBER, _NUMBER, optional=1),
        _range,
    ),
    "linspace": Entry(
        "[first, last, count]",
        "count floats in equal steps, first and last included",
        _array(_NUMBER, _NUMBER, _COUNT),
        _linspace,
    ),
    "logspace": Entry(
        "[first, last, count]",
        "count floats in equal ratios, first and last included; they are the values themselves, not exponents",
        _array(_POSITIVE, _POSITIVE, _COUNT),
        _logspace,
    ),
}

DISTRIBUTIONS: dict[str, Entry[Draw]] = {
    "uniform": Entry("[low, high]", "a float between low and high", _array(_NUMBER, _NUMBER), _uniform),
    "log_uniform": Entry(
        "[low, high]",
        "a float between low and high, both above 0, equally likely in every decade",
        _array(_POSITIVE, _POSITIVE),
        _log_uniform,
    ),
    "int": Entry(
        "[low, high]",
        "an integer from low to high, both included",
        _array({"type": "integer"}, {"type": "integer"}),
        _int,
    ),
    "choice": Entry("[value, ...]", "one of the values", {"type": "array", "minItems": 1}, _choice),
}
