"""Numbers as people read them: 124.4 M, 2 min 05 s, 5,120 tokens/s."""

from __future__ import annotations

import math


def significant(value: float, digits: int = 3) -> str:
    """A number with that many significant digits: 1.93, 0.00124, 12,300; very small or large ones as 1.2e-5."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 <= power < 6:
        rounded = float(f"{mantissa}e{power}")
        return f"{rounded:,.{max(0, digits - 1 - power)}f}"
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{power}"


def plain(value: float, digits: int = 3) -> str:
    """A number without zeros that say nothing: 0.002 and 2e-5, where `significant` has 0.00200."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def count(value: float) -> str:
    """A quantity of things: in full below ten thousand, then 12.3 k, 124.4 M, 1.5 B."""
    if not math.isfinite(value):
        return significant(value)
    if abs(value) < 10_000:
        return f"{value:,.0f}" if value == int(value) else significant(value)
    return _scaled(value, ("k", "M", "B", "T"))


def size(amount: float) -> str:
    """A number of bytes in decimal units: 512 B, 20.0 kB, 1.2 GB."""
    return f"{amount:.0f} B" if abs(amount) < 1000 else _scaled(amount, ("kB", "MB", "GB", "TB"))


def duration(seconds: float) -> str:
    """A span of time in at most two units: 3.2 s, 2 min 05 s, 1 h 02 min, 2 d 03 h."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def rate(per_second: float, unit: str = "tokens") -> str:
    """A speed: 5,120 tokens/s, 1.2 M tokens/s, 0.5 steps/s."""
    shown = round(per_second) if math.isfinite(per_second) and per_second >= 100 else per_second
    return f"{count(shown)} {unit}/s"


def percent(share: float) -> str:
    """A share of one as a percentage with two significant digits: 0.3 %, 4.1 %, 41 %."""
    if not math.isfinite(share):
        return significant(share)
    value = abs(100 * share)
    decimals = 0 if value >= 9.95 else 1
    return f"{100 * share:.{decimals}f} %".replace("-", "−")


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        value /= 1000
        if abs(round(value, 1)) < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} {units[-1]}"
