"""Throughput: rates from counts; and what devices can do at best."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.devices.flops import get_available_flops
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, PossibleUserWarning
from leyden.utilities import Throughput
from leyden.utilities.throughput import Throughput as SameThroughput


def test_counts_come_at_once_and_rates_once_the_window_is_full() -> None:
    throughput = Throughput(window_size=3)
    assert throughput.compute() == {}
    throughput.update(time=1.0, batches=1, samples=4)
    throughput.update(time=3.0, batches=2, samples=8)
    assert throughput.compute() == {"time": 3.0, "batches": 2, "samples": 8}
    throughput.update(time=5.0, batches=4, samples=16)
    rates = {"device/batches_per_sec": 0.75, "device/samples_per_sec": 3.0}
    assert throughput.compute() == {"time": 5.0, "batches": 4, "samples": 16, **rates}
    throughput.update(time=6.0, batches=5, samples=20)  # the window moves
    assert throughput.compute()["device/samples_per_sec"] == 4.0
    throughput.reset()
    assert throughput.compute() == {}
    assert SameThroughput is Throughput


def test_items_operations_and_several_devices() -> None:
    throughput = Throughput(available_flops=100, world_size=2, window_size=2, separator=".")
    for number in (1, 2):
        throughput.update(time=number * 0.5, batches=number, samples=4 * number, lengths=12 * number, flops=10)
    assert throughput.compute() == {
        "time": 1.0,
        "batches": 2,
        "samples": 8,
        "lengths": 24,
        "device.batches_per_sec": 2.0,
        "batches_per_sec": 4.0,
        "device.samples_per_sec": 8.0,
        "samples_per_sec": 16.0,
        "device.items_per_sec": 24.0,
        "items_per_sec": 48.0,
        "device.flops_per_sec": 20.0,
        "flops_per_sec": 40.0,
        "device.mfu": 0.2,
    }


@pytest.mark.parametrize(
    ("update", "error", "text"),
    [
        ({"time": 1.0}, ValueError, r"time=1\.0 cannot be used: expected a value above 1\.0"),
        ({"batches": 1}, ValueError, "batches=1 cannot be used: expected a value above 1"),
        ({"samples": 4}, ValueError, "samples=4 cannot be used: expected a value above 4"),
        ({"batches": 9}, InvalidOption, r"samples=8 cannot be used: expected at least as many as batches \(9\)"),
        ({"lengths": 7}, InvalidOption, r"lengths=7 cannot be used: expected at least as many as samples \(8\)"),
        ({"lengths": 9}, RuntimeError, "lengths= was passed to some updates and not to others"),
        ({"flops": 9}, ConflictingOptions, "flops= was passed to some updates"),
    ],
)
def test_counts_that_do_not_fit(update: dict[str, Any], error: type[Exception], text: str) -> None:
    throughput = Throughput()
    throughput.update(time=1.0, batches=1, samples=4)
    with pytest.raises(error, match=text):
        throughput.update(**{"time": 2.0, "batches": 2, "samples": 8, **update})
    assert throughput.compute() == {"time": 1.0, "batches": 1, "samples": 4}


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"window_size": 1}, InvalidOption, "window_size=1"),
        ({"world_size": 0}, InvalidOption, "world_size=0"),
        ({"available_flops": "many"}, InvalidType, "available_flops='many'"),
        ({"window": 3}, TypeError, "Did you mean 'window_size'"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Throughput(**given)


# -- what a device can do at best
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("NVIDIA H100 80GB HBM3", (66.9e12, 989.4e12)),
        ("NVIDIA H100 PCIe", (51.2e12, 756e12)),
        ("NVIDIA H100 NVL", (60e12, 835.5e12)),
        ("NVIDIA H200", (67e12, 989.4e12)),
        ("NVIDIA A100-SXM4-40GB", (19.5e12, 312e12)),
        ("NVIDIA A100 80GB PCIe", (19.5e12, 312e12)),
        ("NVIDIA A10G", (31.2e12, 125e12)),
        ("NVIDIA L4", (30.3e12, 121e12)),
        ("NVIDIA GeForce RTX 3090 Ti", (40e12, 80e12)),
        ("NVIDIA GeForce RTX 4090", (82.6e12, 165.2e12)),
    ],
)
def test_rates_of_gpus(name: str, rates: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    single = 67e12 if "H100 80GB" in name else rates[0]
    assert (get_available_flops(CUDA, torch.float32), get_available_flops(CUDA, torch.bfloat16)) == (single, rates[1])
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert (get_available_flops(CUDA, torch.float32) or 0) >= single


def test_tf32_counts_where_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert get_available_flops(CUDA, torch.float32) == 156e12
    assert get_available_flops(CUDA, torch.float64) == 9.7e12


def test_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_available_flops(torch.device("cpu"), torch.float32) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert get_available_flops(CUDA, torch.float16) == 65e12
    with pytest.warns(PossibleUserWarning, match=r"'Tesla T4' can do in torch.bfloat16 is not known here"):
        assert get_available_flops(CUDA, torch.bfloat16) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Voodoo 2")
    with pytest.warns(PossibleUserWarning, match=r"'Voodoo 2' can do at best is not known .* available_flops="):
        assert get_available_flops(CUDA, torch.float32) is None
