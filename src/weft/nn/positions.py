"""Where order enters. A scheme overrides the hook where it acts: `embed` (into x), `rotate` (q and k), `bias` (scores).

What turns queries and keys is in `rotary.py`. P counts angles: half of the stack's width.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from weft.errors import WeftError
from weft.nn.initialization import Normal
from weft.nn.linear import Embedding
from weft.nn.module import Dims, Module
from weft.nn.part import Equations, ModelPart, size, tex
from weft.nn.sides import Sides


class Positions(ModelPart, slot="positions", default="none"):
    """How a position tells where it stands.

    Equations tell what is added to x_i, how R_i turns queries and keys, or which b_{hij} is added to scores.
    """

    def build(self, dims: Dims) -> PositionScheme:
        """The scheme for a stack of width d_model."""
        raise NotImplementedError


class PositionScheme(Module):
    """No positions; the hooks that a scheme overrides."""

    limit: int | None
    """The longest sequence that the scheme can number, or None."""
    cached_limit: int | None
    """The longest text that may be computed in pieces, through a cache; None: any that can be numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = None
        self.cached_limit = None

    @classmethod
    def acts(cls) -> frozenset[str]:
        """Which of the hooks `embed`, `rotate` and `bias` do something."""
        return frozenset(
            name for name in ("embed", "rotate", "bias") if getattr(cls, name) is not getattr(PositionScheme, name)
        )

    def embed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """x with what the scheme adds to it at the entrance of a stack."""
        return x_BTD

    def prepare(self, positions_BT: Tensor, width: int, documents_BT: Tensor | None = None) -> Any:
        """What `rotate` needs, computed once a forward for heads of `width` channels."""
        return None

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """Queries and keys, turned."""
        return q_BHTK, k_BGTK

    def bias(self, sides: Sides, n_heads: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to scaled scores in `dtype`, (B or 1) x H x T x S, or None."""
        return None


class NoPositions(Positions, kind="none"):
    """No positions: a causal mask still tells a little about order (Haviv et al. 2022)."""

    def build(self, dims: Dims) -> PositionScheme:
        return PositionScheme()


class Learned(Positions, kind="learned"):
    """One learned vector a position, added to the embedding (Gehring et al. 2017); ends at max_length."""

    offset: NonNegativeInt = 0
    """rows of the table before that of the first position: RoBERTa and OPT have 2, which no text reads"""

    def equations(self, dims: Dims) -> Equations:
        row = rf"i + {self.offset}" if self.offset else "i"
        table = size(self.offset + dims.max_length, dims.d_model)
        return (rf"x_i &\leftarrow x_i + P_{{{row}}}, \quad P \in {table}",)

    def words(self, dims: Dims) -> str:
        return f"{self.offset + dims.max_length:,} x {dims.d_model:,}"

    def build(self, dims: Dims) -> LearnedPositions:
        return LearnedPositions(self, dims)


class LearnedPositions(PositionScheme):
    """x_BTD + table.weight[offset + positions_BT]."""

    def __init__(self, options: Learned, dims: Dims) -> None:
        super().__init__()
        self.limit = dims.max_length
        self.offset = options.offset
        self.table = Embedding(options.offset + dims.max_length, dims.d_model, Normal(dims.init_std))

    def embed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        return x_BTD + self.table(positions_BT + self.offset).to(x_BTD.dtype)


class Sinusoidal(Positions, kind="sinusoidal"):
    """Sines and cosines of fixed wavelengths, added to the embedding: nothing is learned, and no length is too long.

    Vaswani et al. 2017, section 3.5: channel 2i holds sin(place / theta^(2i/d_model)), channel 2i + 1 its cosine.
    """

    theta: PositiveFloat = 10_000.0
    """base of the wavelengths 2 pi theta^(2i/d_model)"""

    def equations(self, dims: Dims) -> Equations:
        angle = rf"\frac{{i}}{{{tex(self.theta)}^{{2k/{dims.d_model}}}}}"
        return (
            r"x_i &\leftarrow x_i + p_i",
            rf"p_{{i,2k}} &= \sin {angle}, \quad p_{{i,2k+1}} = \cos {angle}",
        )

    def build(self, dims: Dims) -> SinusoidalPositions:
        return SinusoidalPositions(self)


class SinusoidalPositions(PositionScheme):
    """x_BTD + (sin, cos, sin, cos, ...) of each position's angles."""

    def __init__(self, options: Sinusoidal) -> None:
        super().__init__()
        self.options = options

    def embed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        d_model, places_BT = x_BTD.shape[-1], positions_BT.to(wave_dtype(positions_BT.device))
        angles_BTP = places_BT[..., None] * frequencies(self.options.theta, d_model, positions_BT.device)
        waves_BTD = torch.stack([angles_BTP.sin(), angles_BTP.cos()], dim=-1).flatten(-2)
        return x_BTD + waves_BTD[..., :d_model].to(x_BTD.dtype)


class Alibi(Positions, kind="alibi"):
    """Attention with linear biases: each head's scores fall with the distance, each head's at a slope of its own.

    Press et al. 2022, section 3 (arXiv 2108.12409). With n heads, a power of two, head h = 1 ... n has the slope
    2^(-8h/n); other numbers of heads take those of the next lower power, then every second one of the next higher.
    In a stack that sees both ways the distance counts on both sides.
    """

    def equations(self, dims: Dims) -> Equations:
        return alibi_equations(dims)

    def build(self, dims: Dims) -> AlibiPositions:
        return AlibiPositions()


class AlibiPositions(PositionScheme):
    """-slope_H |i - j| is added to the score of query i and key j, unscaled."""

    def bias(self, sides: Sides, n_heads: int, dtype: torch.dtype) -> Tensor:
        # at least float32: in bf16 the distance 257 would be 256; whoever adds it may round the product
        dtype = torch.promote_types(dtype, torch.float32)
        slopes_H = torch.tensor(alibi_slopes(n_heads), dtype=dtype, device=sides.q_index_BT.device)
        distance_BTS = (sides.q_index_BT[:, :, None] - sides.k_index_BS[:, None, :]).abs()
        return -slopes_H[:, None, None] * distance_BTS[:, None].to(dtype)


def alibi_equations(dims: Dims) -> Equations:
    """The biases, and each head's slope: in the simple form where all numbers of heads are powers of two."""
    slopes = r"2^{-8h/H}"
    if not dims.heads or any(heads & (heads - 1) for heads in dims.heads):
        cases = r"2^{-8h/N} & h \le N \\ 2^{-4 (2 (h - N) - 1)/N} & h > N"
        slopes = rf"\begin{{cases}} {cases} \end{{cases}}, \quad N = 2^{{\lfloor \log_2 H \rfloor}}"
    return r"b_{hij} &= -m_h \, |i - j|", rf"m_h &= {slopes}"


def alibi_slopes(n_heads: int) -> list[float]:
    """Each head's slope (Press et al. 2022, section 3)."""
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2.0 ** (-8 * head / (2 * power)) for head in range(1, 2 * power + 1, 2)]
    return slopes + between[: n_heads - power]


class T5(Positions, kind="t5"):
    """T5's relative positions: heads learn what to add to scores at each bucket of distances.

    Raffel et al. 2020, section 2.1 (arXiv 1910.10683). Of n buckets n/2 hold one distance each; the others widen by
    equal ratios up to `max_distance`, and the last holds all beyond. A stack that sees both ways has half of its
    buckets for what comes after. One table serves all layers, so it belongs to the stack.
    """

    trials = {"num_buckets": (4, 8), "max_distance": (20,)}  # beyond the buckets of one distance each

    num_buckets: int = Field(32, ge=2)
    """rows of the table"""
    max_distance: PositiveInt = 128
    """distance from which on all share the last bucket"""

    def equations(self, dims: Dims) -> Equations:
        count = self.num_buckets if dims.causal else self.num_buckets // 2
        exact, far = count // 2, count - count // 2
        ratio = rf"\frac{{\ln(d/{exact})}}{{\ln({tex(self.max_distance)}/{exact})}}"
        beyond = rf"\min\left({count - 1}, {exact} + \left\lfloor {far} \, {ratio} \right\rfloor\right)"
        bucket = r"\beta(\max(i - j, 0))" if dims.causal else rf"\beta(|i - j|) + {count} \, [j > i]"
        return (
            rf"b_{{hij}} &= B_{{{bucket}, h}}, \quad B \in \mathbb{{R}}^{{{self.num_buckets} \times H}}",
            rf"\beta(d) &= \begin{{cases}} d & d < {exact} \\ {beyond} & d \ge {exact} \end{{cases}}",
        )

    def words(self, dims: Dims) -> str:
        return f"{self.num_buckets} buckets up to {self.max_distance}"

    def build(self, dims: Dims) -> T5Positions:
        return T5Positions(self, dims)


class T5Positions(PositionScheme):
    """table.weight[bucket(j - i), h] is added to the score of query i and key j in head h, unscaled."""

    def __init__(self, options: T5, dims: Dims) -> None:
        super().__init__()
        self.both_ways = not dims.causal
        one_way = options.num_buckets // (2 if self.both_ways else 1)
        if self.both_ways and (options.num_buckets % 2 or one_way < 2):
            raise WeftError(
                f"positions.num_buckets = {options.num_buckets}: half of the buckets are for what comes before, half"
                " for what comes after, so it should be even and at least 4"
            )
        if options.max_distance <= one_way // 2:
            raise WeftError(
                f"positions.max_distance = {options.max_distance}: the distances below {one_way // 2} have a bucket"
                " each, and it should be beyond them; or have fewer num_buckets"
            )
        if len(dims.heads) != 1:
            found = " and ".join(map(str, sorted(dims.heads))) or "none"
            raise WeftError(
                "positions: t5 learns one bias a head for all layers that share it, which should have one number of"
                f" heads (found: {found}); give them the same n_heads, or attention.positions of their own"
            )
        (n_heads,) = dims.heads
        self.starts = bucket_starts(one_way, options.max_distance)
        self.table = Embedding(options.num_buckets, n_heads, Normal(dims.init_std))

    def bias(self, sides: Sides, n_heads: int, dtype: torch.dtype) -> Tensor:
        bucket_BTS = self.bucket(sides.q_index_BT[:, :, None] - sides.k_index_BS[:, None, :])
        bias_BTSH: Tensor = self.table(bucket_BTS)
        return bias_BTSH.permute(0, 3, 1, 2).to(torch.promote_types(dtype, torch.float32))

    def bucket(self, distance: Tensor) -> Tensor:
        """The row of the table for each distance i - j."""
        starts_N = torch.tensor(self.starts, device=distance.device)
        far = distance.abs() if self.both_ways else distance.clamp(min=0)
        bucket = torch.bucketize(far, starts_N, right=True) - 1
        return bucket + len(self.starts) * (distance < 0) if self.both_ways else bucket


def bucket_starts(count: int, reach: int) -> list[int]:
    """Each bucket's smallest distance: 0, 1, ... up to h = count/2, then h (reach/h)^(k/(count - h)), rounded up."""
    exact = count // 2
    wide = count - exact
    starts = list(range(exact))
    for step in range(wide):
        # in whole numbers, which are exact where a start is one: distance^wide >= least
        least = reach**step * exact ** (wide - step)
        distance = round(exact * (reach / exact) ** (step / wide))
        starts.append(next(near for near in range(distance - 1, distance + 2) if near**wide >= least))
    return starts


def wave_dtype(device: torch.device) -> torch.dtype:
    """Of angles: float64 where the device has it. At position 100,000 a float32 angle is already off by 0.004."""
    return torch.float32 if device.type == "mps" else torch.float64


def frequencies(theta: float | Tensor, width: int, device: torch.device) -> Tensor:
    """theta^(-2i/width) for i = 0 ... (width - 1) // 2, in radians a place: P, or ... x P for several bases."""
    exponents_P = torch.arange(0, width, 2, dtype=wave_dtype(device), device=device) / width
    powers_P: Tensor = (theta[..., None] if isinstance(theta, Tensor) else theta) ** -exponents_P
    return powers_P
