"""Device and precision: what a run computes on, and in what; measured, not assumed."""

from __future__ import annotations

import math
import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from weft.errors import WeftError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """Where a run computes, and in what precision."""

    device: str
    precision: str
    """`fp32`, or `bf16` over fp32 masters"""
    why: str
    """How `auto` was decided, said aloud."""

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in."""
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def choose(device: str = "auto", precision: str = "auto") -> Machine:
    """The device and precision that `auto` stands for here; bf16 only where the chip computes it fast.

    Raises WeftError when the device is not there or fails its self-check.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here = ["cpu", *["cuda"] * bool(cards), *cards, *["mps"] * torch.backends.mps.is_available()]
    if device not in here:
        raise WeftError(f"device {device!r} is not available here (there is: {', '.join(here)})")
    fast = fast_bf16(device)
    reason = "asked for"
    if precision == "auto":
        precision = "bf16" if fast else "fp32"
        reason = f"this {device} {'computes' if fast else 'does not compute'} bf16 fast"
    _check(device, precision)
    return Machine(device, precision, f"{precision} on {device}: {reason}")


def seed_draws(seed: int, device: str = "cpu") -> None:
    """Seed what is drawn without a generator of ours, such as dropout.

    `torch.manual_seed` asks for devices of every kind, up to a millisecond a time.
    """
    import torch

    seed_all = torch.default_generator.manual_seed if device == "cpu" else torch.manual_seed
    seed_all(seed)


@cache
def fast_bf16(device: str) -> bool:
    """Whether bf16 matrix products are faster than float32 ones here, by instruction set."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device == "cpu":
        # AVX-512 BF16 or AMX; elsewhere bf16 is emulated and slower than float32
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


@cache
def _check(device: str, precision: str) -> None:
    """A small network's output and gradient against float64 on the CPU: a device that computes wrongly is refused."""
    import torch

    if device == "cpu" and precision == "fp32":
        return
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(64, 64, generator=generator) for _ in range(2))
    found = []
    for place, dtype in (("cpu", torch.float64), (device, torch.bfloat16 if precision == "bf16" else torch.float32)):
        a, b = x.to(place, dtype).requires_grad_(), w.to(place, dtype).requires_grad_()
        out = torch.nn.functional.layer_norm(torch.tanh(a @ b / 8), (64,)).softmax(-1)
        (out.square().sum()).backward()
        assert b.grad is not None, "backward fills the gradient"
        found.append((out.detach().double().cpu(), b.grad.double().cpu()))
    error = max(
        float((mine - true).abs().max() / true.abs().max()) for mine, true in zip(found[1], found[0], strict=True)
    )
    limit = 0.1 if precision == "bf16" else 1e-3
    if not error < limit:
        raise WeftError(
            f"{device} computes {precision} wrongly: off by {error:.2g} of the largest value; use device=cpu"
        )


@cache
def peak_flops(device: str, precision: str) -> float:
    """`measure_peak`, once a process."""
    return measure_peak(device, precision)


def measure_peak(device: str, precision: str) -> float:
    """FLOPs a second of a large matrix product here and now: what a share of the peak is a share of."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(size, size, dtype=dtype, device=device)
    best, spent = float("inf"), 0.0
    for _ in range(50):
        start = time.perf_counter()
        a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > 0.3:
            break
    return 2 * size**3 / best


def measure_bandwidth() -> float:
    """Bytes a second that torch's threads read from memory here and now, of more than caches hold."""
    import torch

    numbers = torch.ones(2**26)
    best, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < 0.3:
        start = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


def set_threads(threads: int | None) -> int:
    """Use as many threads as given, or as there are physical cores that this process may use; returns the number."""
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), available_cores()))
    return torch.get_num_threads()


def keep_memory() -> bool:
    """Let the C library keep freed memory for the next tensor instead of giving it back; returns whether it could.

    glibc returns every large block to the system at once, and the next one of the same size is page-faulted in anew,
    zero by zero: a step that makes the same temporaries again and again pays for it each time, and large blocks most.
    What it costs are holes between the blocks that are kept (docs/log.md). Linux with glibc only.
    """
    import ctypes

    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    settings = {mmap_max: 0, trim_threshold: 2**31 - 1, top_pad: 2**26}
    return all(mallopt(option, value) for option, value in settings.items())


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about() -> dict[str, Any]:
    """The machine in words, for the manifest."""
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": memory,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()
