"""From values to places: linear and logarithmic scales, round ticks, thinning a curve, keeping labels apart."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weft.report.formats import count

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high`, placed from 0 to 1; logarithmic where `log`."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`; on a log scale a value of zero or less is below everything."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        if value <= 0:
            return -math.inf
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[float]:
        """Round values inside the scale, about `most` of them."""
        return (self._log_ticks(most) if self.log else []) or self._linear_ticks(most)

    def _linear_ticks(self, most: int) -> list[float]:
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / max(1, most)))
        step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda size: abs(span / size - most))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{k * step:.12g}") for k in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, math.ceil((high - low) / max(1, most)))
        for mantissas in ((1,), (1, 3), (1, 2, 5)):
            ticks = [float(f"{m}e{k}") for k in range(low, high + 1, every) for m in mantissas]
            inside = [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]
            if len(inside) >= 3:
                return inside
        return inside if len(inside) == 2 else []


def fit(values: Iterable[float], *, log: bool = False, zero: bool = False, pad: float = 0.0) -> Scale:
    """The scale that holds all finite values, widened by `pad` of its span; `log` needs a positive value."""
    known = [value for value in values if math.isfinite(value)]
    if log and any(value > 0 for value in known):
        positive = [value for value in known if value > 0]
        low, high = min(positive), max(positive)
        room = max(math.log(high / low), 0.2) * pad if high > low else math.log(2.0)
        return Scale(low * math.exp(-room), high * math.exp(room), log=True)
    if zero:
        known.append(0.0)
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return Scale(low - room, high + room)
    room = (high - low) * pad
    # A scale that shows zero as its foot stands on it.
    return Scale(low - room if low or not zero else 0.0, high + room)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks in one notation: 0.5, 20 k, or powers of ten where decimals would be long."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    smallest = min((abs(tick) for tick in ticks if tick), default=1.0)
    if smallest < 1e-3 or largest >= 1e15:
        return [_power(tick) for tick in ticks]
    spread = largest / smallest > 100
    if largest >= 10_000:
        return [_compact(tick, abs(tick) if spread else largest) for tick in ticks]
    decimals = max((len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    return [(f"{tick:,g}" if spread else f"{tick:,.{decimals}f}").replace("-", "−") if tick else "0" for tick in ticks]


def _compact(tick: float, largest: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if largest >= unit:
            return f"{tick / unit:g} {name}".replace("-", "−") if tick else "0"
    return count(tick)


def _power(tick: float) -> str:
    if tick == 0:
        return "0"
    mantissa, exponent = f"{tick:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    ten = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return ten if mantissa == "1" else f"{mantissa}×{ten}"


def decimate(points: Sequence[Point], buckets: int) -> list[Point]:
    """At most two points a bucket, its lowest and its highest, so that spikes stay; both ends are kept."""
    if len(points) <= 2 * buckets:
        return list(points)
    kept = [points[0]]
    for i in range(buckets):
        start, end = i * len(points) // buckets, (i + 1) * len(points) // buckets
        inside = points[start:end]
        broken = [point for point in inside if not math.isfinite(point[1])]
        whole = [point for point in inside if math.isfinite(point[1])] or inside
        kept += sorted(dict.fromkeys([min(whole, key=_height), max(whole, key=_height), *broken[:1]]), key=_across)
    kept.append(points[-1])
    return [point for before, point in zip([None, *kept], kept, strict=False) if point != before]


def _across(point: Point) -> float:
    return point[0]


def _height(point: Point) -> float:
    return point[1]


def running_median(values: Sequence[float], window: int) -> list[float]:
    """The median of the finite ones of the `window` values around each; NaN where a value is not finite itself."""
    half = window // 2
    ordered: list[float] = []
    smooth: list[float] = []
    for i in range(-half, len(values)):
        if i + half < len(values) and math.isfinite(values[i + half]):
            bisect.insort(ordered, values[i + half])
        if i - half > 0 and math.isfinite(values[i - half - 1]):
            del ordered[bisect.bisect_left(ordered, values[i - half - 1])]
        if i >= 0:
            n = len(ordered)
            known = n and math.isfinite(values[i])
            smooth.append((ordered[n // 2] + ordered[(n - 1) // 2]) / 2 if known else math.nan)
    return smooth


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, as near to the wanted ones as least squares allows, kept within low..high.

    Where there is no room for all of them the gap shrinks evenly.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Less its rank times the gap, each place may be no lower than the one before: pool those that are (isotonic fit).
    pools: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        total, size = wanted[i] - rank * gap, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / size:
            total, size = total + pools[-1][0], size + pools[-1][1]
            pools.pop()
        pools.append((total, size))
    bases = [total / size for total, size in pools for _ in range(size)]
    top = high - (len(wanted) - 1) * gap
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = min(max(bases[rank], low), top) + rank * gap
    return placed
