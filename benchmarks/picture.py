"""Bars in one SVG that stands alone, light and dark: weft in blue, others in grey, the limit as an outline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from weft.report.markup import Markup, join, tag
from weft.report.svg import text_width

WIDTH, LABEL, BAR, GAP = 880, 250, 20, 8
_STYLE = """
text { font: 14px ui-sans-serif, system-ui, sans-serif; fill: #333; font-variant-numeric: tabular-nums }
.title { font-weight: 600; font-size: 15px; fill: #111 }
.unit { fill: #666; font-size: 13px }
.other { fill: #b9bec5 } .weft { fill: #0072b2 } .limit { fill: none; stroke: #8a9099; stroke-dasharray: 3 3 }
.range { stroke: #333; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .title { fill: #fff } .unit { fill: #aaa }
  .other { fill: #59616b } .weft { fill: #56b4e9 } .limit { stroke: #8a9099 } .range { stroke: #ddd }
}
"""


@dataclass(frozen=True)
class Bar:
    """One system: its value, how it is written, and its range."""

    name: str
    value: float
    text: str
    low: float
    high: float

    @property
    def kind(self) -> str:
        """What it is drawn as."""
        if "alone" in self.name:
            return "limit"
        return "weft" if self.name.startswith("weft") or "cores" in self.name else "other"


@dataclass(frozen=True)
class Panel:
    """Bars that share a scale, under what they show."""

    title: str
    unit: str
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel]) -> str:
    """The panels one below the other, as an SVG file."""
    parts, top = [tag("style", Markup(_STYLE))], 0.0
    for panel in panels:
        drawn, top = _panel(panel, top)
        parts.append(drawn)
    spoken = "; ".join(panel.title for panel in panels)
    picture = tag(
        "svg", join(parts, "\n"), xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {top:.0f}", width=WIDTH,
        height=round(top), role="img", aria_label=spoken,
    )  # fmt: skip
    return f"{picture}\n"


def _panel(panel: Panel, top: float) -> tuple[Markup, float]:
    """One panel that begins at `top`, and where it ends."""
    parts = []
    for line in wrap(panel.title, 96):
        top += 20
        parts.append(tag("text", line, x=0, y=top, class_="title"))
    top += 19
    parts.append(tag("text", panel.unit, x=0, y=top, class_="unit"))
    top += 12
    room = WIDTH - LABEL - 20 - max(text_width(bar.text) for bar in panel.bars)
    scale = room / max(max(bar.value, bar.high) for bar in panel.bars)  # from zero, as bars must
    for bar in panel.bars:
        middle = top + BAR / 2
        parts.append(tag("text", bar.name, x=LABEL - 10, y=middle + 5, text_anchor="end"))
        parts.append(tag("rect", x=LABEL, y=top, width=bar.value * scale, height=BAR, class_=bar.kind))
        low, high = (LABEL + value * scale for value in (bar.low, bar.high))
        parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="range"))
        end = LABEL + max(bar.value, bar.high) * scale
        parts.append(tag("text", bar.text, x=end + 8, y=middle + 5))
        top += BAR + GAP
    return join(parts, "\n"), top + 18
