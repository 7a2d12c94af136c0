"""One drawing for each slot, made by computing the part itself: the same bytes every time.

Sizes here are small, so that one sees single tokens and channels; a page's figures are those of the default model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from atlas_drawing import TOKENS, Drawing, by_lot, every, number, picture, started
from atlas_parts import N_HEADS, default_model, dims, example, made, places, selected, variants
from torch import Tensor, nn

from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.models.drawing import draw_block, draw_entrance
from weft.nn import (
    Attention,
    BlockPart,
    Causal,
    Dims,
    Embeddings,
    Everything,
    FeedForward,
    Gate,
    Head,
    MaskPart,
    Norm,
    Positions,
    PositionScheme,
    RotaryScaling,
    Score,
    Sides,
    StochasticDepth,
    listen,
)
from weft.nn.part import ModelPart
from weft.nn.scaling import NoScaling, Turning
from weft.report.figure import Panel, bars, cells, level, lines
from weft.report.formats import plain, significant
from weft.report.markup import Markup, join, tag
from weft.report.svg import PALETTE, Chart, Series


def drawings(kind: type[ModelPart]) -> list[Drawing]:
    """What one would rather look at than read; nothing where there is nothing to see."""
    found = next((draw for base, draw in BY_SLOT.items() if issubclass(kind, base)), None)
    return [] if found is None else list(found(kind))


# --- one for each slot ---


def _block(kind: type[ModelPart]) -> Iterator[Drawing]:
    config = selected(example(kind), places()["block"][0])
    title = f"{kind.kind}: how norms and residuals are wired"
    yield Drawing(draw_block(config, title), title)


def _embedding(kind: type[ModelPart]) -> Iterator[Drawing]:
    config = selected(example(kind), places()["embedding"][0])
    title = f"{kind.kind}: from tokens to vectors"
    yield Drawing(draw_entrance(config, title), title)


def _attention(kind: type[ModelPart]) -> Iterator[Drawing]:
    part = example(kind, small=True)
    if part.kind == "none":
        return
    block = {"attention": {**part.dump(), "kernel": "reference"}}
    sizes = {"d_model": 64, "max_length": TOKENS, "vocab_size": 32, "init_std": 0.14}
    config = ModelConfig.load({**sizes, "decoder": {"n_layers": 1, "block": block}})
    model = started(config.build()).double()
    seen: list[Tensor] = []
    with listen(model, "decoder.blocks.0.attention.weights", lambda path, x: seen.append(x)), torch.no_grad():
        model(torch.arange(TOKENS)[None])
    weights_HTS = seen[0][0]
    names = [str(i) for i in range(TOKENS)]
    panels = []
    for head, weights_TS in enumerate(weights_HTS.tolist(), start=1):
        rows = [[level(w) if j <= i else None for j, w in enumerate(row)] for i, row in enumerate(weights_TS)]
        panels.append(cells(rows, 17.0, f"head {head}", names=names, columns=every(TOKENS)))
    title = f"Each of {len(panels)} heads weighs the tokens before it in its own way"
    said = "rows: the token that asks; columns: whom it reads; from weight 0 to 1, matrices and tokens by lot"
    yield picture(title, said, panels)


def _positions(kind: type[ModelPart]) -> Iterator[Drawing]:
    scheme: PositionScheme = started(made(example(kind), replace(dims(), max_length=160), "cpu")[0])
    acts, learned = scheme.acts(), any(True for _ in scheme.parameters())
    if "embed" in acts and not learned:
        yield _waves(kind, scheme)
    if "rotate" in acts:
        yield _turns(kind, scheme)
    if "bias" in acts:
        yield _biases(kind, scheme, learned)


def _waves(kind: type[ModelPart], scheme: PositionScheme) -> Drawing:
    """What is added to vectors: a row a position, a column a channel."""
    length, width = 24, 32
    x_1TD = torch.zeros(1, length, width, dtype=torch.float64)
    values = scheme.embed(x_1TD, torch.arange(length)[None])[0]
    largest = float(values.abs().max())
    rows = [[f"d{min(10, int((v / largest + 1) / 2 * 11))}" for v in row] for row in values.tolist()]
    panel = cells(
        rows, 11.0, names=[str(i) if i % 4 == 0 else "" for i in range(length)], columns=every(width, 8), gap=0
    )
    title = f"{kind.kind}: left channels change with every position, right ones slowly"
    said = f"rows: positions; columns: {width} channels; added: {number(-largest)} (blue) to {number(largest)} (orange)"
    return picture(title, said, [panel])


def _turns(kind: type[ModelPart], scheme: PositionScheme) -> Drawing:
    """Where a pair of channels points at each position, on dials."""
    width, places, panels = 64, 8, []
    prepared = scheme.prepare(torch.arange(places)[None], width)
    for pair in (0, 4, 8, 12):
        q_11TK = torch.zeros(1, 1, places, width, dtype=torch.float64)
        q_11TK[..., pair] = 1
        turned_TK = scheme.rotate(q_11TK, q_11TK, prepared)[0][0, 0]
        other = int(turned_TK[:, [k for k in range(width) if k != pair]].abs().sum(0).argmax())
        other += other >= pair
        hands = [(float(x), float(y)) for x, y in turned_TK[:, [pair, other]].tolist()]
        angle = math.degrees(math.atan2(hands[1][1], hands[1][0]))
        panels.append(_dial(f"{pair} and {other}: {plain(angle)}°", hands))
    title = f"{kind.kind}: each step turns a pair of channels by the same angle, each pair by its own"
    said = f"pairs of a head of {width} channels at positions 0 to {places - 1}, and how far a step turns them"
    return picture(title, said, panels, "turns")


def _dial(caption: str, hands: Sequence[tuple[float, float]]) -> Panel:
    radius, middle = 58.0, 75.0
    parts: list[Markup] = [tag("circle", cx=middle, cy=middle, r=radius, class_="dial")]
    for i, (x, y) in enumerate(hands):
        share = 0.3 + 0.7 * i / (len(hands) - 1)
        end = middle + radius * x, middle - radius * y
        line = tag("line", x1=middle, y1=middle, x2=end[0], y2=end[1], class_="hand", opacity=round(share, 2))
        parts.append(tag("g", line, class_="c-blue"))
        if i in (0, len(hands) - 1):
            at = middle + (radius + 10) * x, middle - (radius + 10) * y + 4
            parts.append(tag("text", str(i), x=at[0], y=at[1], class_="small middle"))
    return Panel(caption, 150, 150, join(parts))


def _biases(kind: type[ModelPart], scheme: PositionScheme, learned: bool) -> Drawing:
    """What is added to a score, by how far the key lies back; of learned ones one head, at the start."""
    length = 160
    index_1T = torch.arange(length)[None]
    with torch.no_grad():
        bias_1HTS = scheme.bias(Sides(index_1T, index_1T), N_HEADS, torch.float64)
    assert bias_1HTS is not None, "a scheme that acts on scores has biases"
    back_HS = bias_1HTS[0, :, -1].flip(-1).tolist()
    shown = back_HS[:1] if learned else back_HS
    series = [
        Series(f"head {h}", list(enumerate(map(float, row))), PALETTE[h - 1]) for h, row in enumerate(shown, start=1)
    ]
    steps = len(set(back_HS[0]))
    title = f"{kind.kind} adds to each score what depends on the distance alone: {steps} values for {length} distances"
    said = "of one head, by lot as at a start: which distances share a value is fixed" if learned else ""
    chart = Chart(title, series, "distance of the key, tokens", "added to the score", show=number)
    return picture(title, said, [lines(chart, height=300)], "bias" if scheme.acts() & {"rotate", "embed"} else "")


def _norm(kind: type[ModelPart]) -> Iterator[Drawing]:
    width = 16
    found = made(example(kind), replace(dims(), d_model=width), "cpu")
    if not found:
        return
    norm: nn.Module = started(found[0]).double()
    x = torch.tensor([1 + 1.5 * lot for lot in by_lot(width)], dtype=torch.float64)
    with torch.no_grad():
        out = norm(x[None])[0]
    panels, said = [], []
    for name, values, color in (("before", x, "muted"), ("after", out, "blue")):
        mean, root = float(values.mean()), float(values.square().mean().sqrt())
        panels.append(bars(values.tolist(), 40.0, color, name, {"mean": mean}))
        said.append(f"{name}: mean {number(round(mean, 2))}, root mean square {number(round(root, 2))}")
    yield picture(f"{kind.kind}: one vector of {width} channels, at the same scale", "; ".join(said), panels)


def _feedforward(kind: type[ModelPart]) -> Iterator[Drawing]:
    part = example(kind)
    narrow = {name: value for name, value in {"width": 1, "bias": False}.items() if name in kind.model_fields}
    layer: Any = next(iter(made(part.model_copy(update=narrow), replace(dims(), d_model=2), "cpu")), None)
    if not hasattr(layer, "up") or not hasattr(layer, "inner"):
        return
    gated = hasattr(layer, "gate")
    _let_through(layer.gate if gated else layer.up, 0)
    if gated:
        _let_through(layer.up, 1)
        series = [
            Series(f"times {number(other)}", _curve(layer, other), color)
            for other, color in ((1.0, "blue"), (0.5, "green"), (-1.0, "vermillion"))
        ]
        said = "z is what the gate's matrix gives; it is bent, and multiplied with what the other matrix gives"
    else:
        series = [Series("value", _curve(layer, 1.0)), Series("its slope", _slope(layer), "vermillion", "dashed")]
        said = "z is what the first matrix gives in an inner channel"
    first = dict(series[0].points)
    title = f"{kind.kind}: −2 becomes {number(first[-2.0])}, 2 becomes {number(first[2.0])}"
    yield picture(title, said, [lines(Chart(title, series, "z", "what the last matrix gets", show=number))])


def _let_through(linear: Any, channel: int) -> None:
    """Make the matrix hand on one channel as it is."""
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0, channel] = 1


def _curve(layer: Any, opened: float) -> list[tuple[float, float]]:
    z = torch.linspace(-4, 4, 81, dtype=torch.float64)
    with torch.no_grad():
        inner = layer.inner(torch.stack([z, torch.full_like(z, opened)], -1))[:, 0]
    return list(zip([round(v, 6) for v in z.tolist()], inner.tolist(), strict=True))


def _slope(layer: Any) -> list[tuple[float, float]]:
    z = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer.inner(torch.stack([z, z.detach()], -1)).sum(), z)
    return list(zip([round(v, 6) for v in z.tolist()], slope.tolist(), strict=True))


def _score(kind: type[ModelPart]) -> Iterator[Drawing]:
    width, keys = 64, 8
    series = []
    for (name, part), color in zip(variants(kind), PALETTE, strict=False):
        weighting = part.build(width, 1)  # type: ignore[attr-defined]
        if isinstance(weighting, nn.Module):
            started(weighting)
        products = torch.linspace(-40, 80, 121, dtype=torch.float64)
        products_1HTS = torch.zeros(1, 1, len(products), keys, dtype=torch.float64)
        products_1HTS[0, 0, :, 0] = products
        with torch.no_grad():
            scores = weighting.scores(products_1HTS)
            weights = weighting.weights(scores, torch.ones_like(scores, dtype=torch.bool))[0, 0, :, 0]
        series.append(Series(name, list(zip(products.tolist(), weights.tolist(), strict=True)), color))
    title = f"{kind.kind}: how much of {keys} keys one gets as its product with the query grows"
    said = f"the other {keys - 1} products are 0; heads of {width} channels"
    chart = Chart(title, series, "product q·k", "weight of the key", show=number)
    yield picture(title, said, [lines(chart)])


def _mask(kind: type[ModelPart]) -> Iterator[Drawing]:
    part = example(kind, small=True)
    index_1T = torch.arange(TOKENS)[None]
    prefix_1T = index_1T < 4
    sides = Sides(index_1T, index_1T, q_prefix_BT=prefix_1T, k_prefix_BS=prefix_1T)
    panels, counts = [], []
    for name, order in (("in a decoder", Causal()), ("in an encoder", Everything())):
        try:
            mask = part.build(replace(dims(), causal=isinstance(order, Causal)), order)  # type: ignore[attr-defined]
        except WeftError:
            continue
        seen = mask.allowed(sides).expand(1, TOKENS, TOKENS)[0]
        rows = [["yes" if allowed else "no" for allowed in row] for row in seen.tolist()]
        panels.append(cells(rows, 17.0, name, names=[str(i) for i in range(TOKENS)], columns=every(TOKENS)))
        counts.append(f"{int(seen.sum())} {name}")
    options = part.words(dims()) or kind.kind
    options = options if kind.kind in options else f"{kind.kind}, {options}"
    prefix = "; the first 4 tokens are the prefix" if getattr(part, "reads", ()) else ""
    title = f"{options}: of {TOKENS * TOKENS} pairs of tokens, {' and '.join(counts)} are seen"
    yield picture(title, f"rows: the token that asks; columns: whom it sees{prefix}", panels)


def _scaling(kind: type[ModelPart]) -> Iterator[Drawing]:
    theta, width, trained = 10_000.0, 64, 8192
    part = example(kind)

    def waves(of: RotaryScaling, length: int) -> list[tuple[float, float]]:
        turning = Turning(theta, width, trained, torch.arange(length)[None])
        f = of.frequencies(turning)
        return [(float(k), 2 * math.pi / v) for k, v in enumerate((f if f.dim() == 1 else f[0, -1]).tolist())]

    assert isinstance(part, RotaryScaling), "the slot holds scalings"
    plainly = waves(NoScaling(), 1)
    series = [Series("unscaled", plainly, "muted", "dashed")]
    found: list[tuple[str, list[tuple[float, float]]]] = [(kind.kind, waves(part, trained))]
    if waves(part, 4 * trained) != found[0][1]:
        found = [(f"{kind.kind}, {n:,} tokens", waves(part, n)) for n in (trained, 2 * trained, 4 * trained)]
    if kind.kind != "none":
        series += [Series(name, points, color) for (name, points), color in zip(found, PALETTE, strict=False)]
    else:
        series = [Series(name, points) for name, points in found]
    fastest, slowest = (_tokens(found[-1][1][k][1]) for k in (0, -1))
    title = f"{kind.kind}: the fastest pair makes a turn in {fastest} tokens, the slowest in {slowest}"
    said = f"a head of {width} channels, theta {theta:,.0f}, trained on {trained:,} tokens"
    chart = Chart(title, series, "pair of channels", "tokens a turn", y_log=True, show=_tokens)
    yield picture(title, said, [lines(chart, height=400)])


def _tokens(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else plain(value)


def _gate(kind: type[ModelPart]) -> Iterator[Drawing]:
    width, channels = 64, 64 // N_HEADS
    sizes = replace(dims(), d_model=width, init_std=0.15)
    found = made(example(kind), sizes, "cpu")
    if not found:
        return
    gate = started(found[0]).double()
    x_11D = torch.tensor(by_lot(width), dtype=torch.float64)[None, None]
    with torch.no_grad():
        shares_HK = gate(x_11D, torch.ones(1, N_HEADS, 1, channels, dtype=torch.float64))[0, :, 0]
    rows = [[level(v) for v in row] for row in shares_HK.tolist()]
    panel = cells(rows, 22.0, names=[f"head {h}" for h in range(1, N_HEADS + 1)], columns=every(channels, 4))
    different = len(set(shares_HK[0].tolist()))
    one = "one share for all its channels" if different == 1 else f"a share for each of its {channels} channels"
    title = f"{kind.kind}: each head hands on {one}"
    said = (
        f"columns: channels; from {significant(float(shares_HK.min()), 2)} to {significant(float(shares_HK.max()), 2)}"
        " of what was found, for one token, with a matrix by lot"
    )
    yield picture(title, said, [panel])


def _head(kind: type[ModelPart]) -> Iterator[Drawing]:
    width = 16
    sizes = Dims(width, TOKENS, 32)
    panels: list[Panel] = []
    for name, part in variants(kind):
        if name != kind.kind and not name.startswith("pooling="):
            continue
        embedding = started(default_model().embedding.build(sizes))
        head = started(part.build(sizes, embedding)).double()  # type: ignore[attr-defined]
        x_1TD = torch.tensor([by_lot(TOKENS * width)], dtype=torch.float64).view(1, TOKENS, width).requires_grad_()
        out = head(x_1TD)
        # one row for each thing that is told, of each token or of the text
        rows = out[0].flatten(1) if out.dim() > 1 and out.shape[1] == TOKENS else out.reshape(1, -1)
        weights = torch.tensor(by_lot(rows.shape[1], seed=1), dtype=torch.float64)
        grads = [torch.autograd.grad((row * weights).sum(), x_1TD, retain_graph=True)[0][0] for row in rows]
        names = [str(i) for i in range(TOKENS)] if len(grads) > 1 else ["text"]
        caption = name if name != kind.kind else f"pooling={part.pooling}" if hasattr(part, "pooling") else ""
        grid = [["yes" if float(v.abs().sum()) > 1e-12 else "no" for v in grad] for grad in grads]
        panels.append(cells(grid, 15.0, caption, names=names, columns=every(TOKENS)))
    told = "an answer for each token, from its own vector" if len(names) > 1 else "one answer for a whole text"
    said = "rows: answers; columns: the tokens whose last vectors they depend on"
    yield picture(f"{kind.kind}: {told}", said, panels)


def _stochastic_depth(kind: type[ModelPart]) -> Iterator[Drawing]:
    part, n_layers = example(kind), 12
    assert isinstance(part, StochasticDepth), "the slot holds these"
    points = [(float(depth), part.at(depth, n_layers)) for depth in range(1, n_layers + 1)]
    if not any(share for _, share in points):
        return
    kept = sum(1 - share for _, share in points)
    title = f"{kind.kind}: of {n_layers} layers a row passes through {plain(kept, 3)} on average"
    chart = Chart(title, [Series("share", points, "blue", "dots")], "layer", "share of rows that skip", y_zero=True)
    yield picture(title, f"with {part.words(dims()) or 'share ' + plain(points[-1][1])}", [lines(chart, height=240)])


BY_SLOT: dict[type[ModelPart], Callable[[type[ModelPart]], Iterator[Drawing]]] = {
    BlockPart: _block, Embeddings: _embedding, Attention: _attention, Positions: _positions, Norm: _norm,
    FeedForward: _feedforward, Score: _score, MaskPart: _mask, RotaryScaling: _scaling, Gate: _gate, Head: _head,
    StochasticDepth: _stochastic_depth,
}  # fmt: skip
