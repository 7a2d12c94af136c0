"""Device and precision: what `auto` stands for, what is refused, what is measured."""

from __future__ import annotations

import platform

import pytest
import torch

from weft import device
from weft.errors import WeftError


def test_auto_takes_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, precision in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(device, "fast_bf16", lambda where, fast=fast: fast)
        machine = device.choose("cpu", "auto")
        assert (machine.device, machine.precision) == ("cpu", precision)
        assert machine.dtype == (torch.bfloat16 if fast else torch.float32)
        assert precision in machine.why


def test_what_is_asked_for_is_taken() -> None:
    assert device.choose("cpu", "fp32").precision == "fp32"
    assert device.choose("cpu", "bf16").dtype == torch.bfloat16


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(WeftError, match=r"device 'abacus' is not available here \(there is: cpu"):
        device.choose("abacus")


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(WeftError, match=r"device 'cuda:9' .* \(there is: cpu, cuda, cuda:0, cuda:1\)"):
        device.choose("cuda:9")


def test_a_device_that_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first product after float64's is spoilt, as a broken kernel would."""
    product = torch.Tensor.__matmul__

    def broken(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return product(a, b) if a.dtype == torch.float64 else product(a, b.T)

    device._check.cache_clear()
    monkeypatch.setattr(torch.Tensor, "__matmul__", broken)
    with pytest.raises(WeftError, match="computes bf16 wrongly"):
        device.choose("cpu", "bf16")
    monkeypatch.undo()
    device._check.cache_clear()
    assert device.choose("cpu", "bf16").precision == "bf16"


def test_threads_are_those_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        assert device.set_threads(2) == torch.get_num_threads() == 2
        assert 1 <= device.set_threads(None) <= max(device.available_cores(), 1)
    finally:
        torch.set_num_threads(before)


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    assert device.keep_memory() is (platform.libc_ver()[0] == "glibc")


def test_the_peak_is_that_of_a_product() -> None:
    """Twice the cube of the size over the best time: between a pocket calculator's and a data centre's."""
    assert 1e8 < device.measure_peak("cpu", "fp32") < 1e15


def test_the_machine_in_words() -> None:
    about = device.about()
    assert about["cores"] >= 1
    assert about["system"]
    assert about["processor"] is not None
