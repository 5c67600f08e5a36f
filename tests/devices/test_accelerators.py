"""Which device a run uses, and what is said where there is none."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from leyden.devices.accelerators import (
    Accelerator,
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    accelerator_of,
    choose_device,
    find_usable_cuda_devices,
    parse_gpus,
)
from leyden.errors import DeviceUnavailable, InvalidOption, InvalidType, MissingPackage, Unsupported


class Machine:
    """A machine with as many GPUs as a test says. Only counting is pretended; nothing runs on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda = 0
        self.mps = False
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: self.mps)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def chosen(accelerator: Any, devices: Any) -> tuple[str, list[str]]:
    kind, found = choose_device(accelerator, devices)
    return kind.name(), [str(device) for device in found]


def test_auto_takes_cuda_then_mps_then_the_cpu(machine: Machine) -> None:
    assert chosen("auto", "auto") == ("cpu", ["cpu"])
    machine.mps = True
    assert chosen("auto", "auto") == ("mps", ["mps:0"])
    machine.cuda = 4
    assert chosen("auto", "auto") == ("cuda", ["cuda:0"])
    assert chosen(None, None) == ("cuda", ["cuda:0"])


def test_gpu_means_the_kind_of_gpu_there_is(machine: Machine) -> None:
    machine.mps = True
    assert chosen("gpu", 1) == ("mps", ["mps:0"])
    machine.cuda = 1
    assert chosen("GPU", 1) == ("cuda", ["cuda:0"])


@pytest.mark.parametrize(
    ("devices", "index"), [(1, 0), ("1", 0), ([2], 2), ((1,), 1), ("3,", 3), ("auto", 0), (None, 0), ("0,", 0)]
)
def test_a_gpu_is_chosen_by_number_or_index(machine: Machine, devices: Any, index: int) -> None:
    machine.cuda = 4
    assert chosen("cuda", devices) == ("cuda", [f"cuda:{index}"])


@pytest.mark.parametrize("devices", [-1, "-1"])
def test_minus_one_takes_all(machine: Machine, devices: Any) -> None:
    machine.cuda = 1
    assert chosen("gpu", devices) == ("cuda", ["cuda:0"])
    machine.cuda = 3
    assert CUDAAccelerator.parse_devices(devices) == [0, 1, 2]


@pytest.mark.parametrize("devices", [2, "2", "0,1", "0, 1", [0, 1], -1])
def test_several_devices_are_refused_for_now(machine: Machine, devices: Any) -> None:
    machine.cuda = 2
    with pytest.raises(Unsupported, match=r"asks for 2 devices, and training on several is not offered yet. Use devices=1"):
        choose_device("gpu", devices)


@pytest.mark.parametrize("devices", [1, "auto", "1", None])
def test_the_cpu_counts_processes(devices: Any) -> None:
    assert chosen("cpu", devices) == ("cpu", ["cpu"])


def test_several_processes_on_the_cpu_are_refused_for_now() -> None:
    with pytest.raises(Unsupported, match="devices=2"):
        choose_device("cpu", 2)


@pytest.mark.parametrize(
    ("devices", "error"),
    [
        (0, InvalidOption),
        (-1, InvalidOption),
        ("abc", InvalidType),
        ("--1", InvalidType),
        (1.0, InvalidType),
        ([0], InvalidType),
        ("", InvalidType),
    ],
)
def test_what_the_cpu_cannot_count(devices: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected a number of processes >= 1") as caught:
        choose_device("cpu", devices)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("devices", "error"),
    [
        (0, InvalidOption),
        (-2, InvalidOption),
        ([], InvalidOption),
        ([0, 0], InvalidOption),
        ([-1], InvalidOption),
        ("", InvalidOption),
        ("a,b", InvalidOption),
        ("--1", InvalidOption),
        ("²", InvalidOption),
        ([True], InvalidType),
        (["0"], InvalidType),
        (1.5, InvalidType),
        (True, InvalidType),
        ({}, InvalidType),
    ],
)
def test_what_names_no_gpu(machine: Machine, devices: Any, error: type[Exception]) -> None:
    machine.cuda = 2
    with pytest.raises(error, match="expected a number of devices >= 1, -1 for all, a list of indices"):
        choose_device("gpu", devices)


def test_gpus_that_are_not_there(machine: Machine) -> None:
    machine.cuda = 2
    with pytest.raises(DeviceUnavailable, match=r"devices=3 asks for 3 CUDA GPUs, but this machine has 2. Use at most devices=2"):
        choose_device("gpu", 3)
    with pytest.raises(DeviceUnavailable, match=r"devices=\[0, 5\] asks for CUDA GPUs \[5\], but this machine has 2: \[0, 1\]"):
        choose_device("gpu", [0, 5])


@pytest.mark.parametrize(
    ("accelerator", "wanted"), [("gpu", "a GPU"), ("cuda", "a CUDA GPU"), ("mps", "an MPS device"), ("CUDA", "a CUDA GPU")]
)
def test_a_machine_without_gpus(machine: Machine, accelerator: str, wanted: str) -> None:
    with pytest.raises(
        DeviceUnavailable, match=f"accelerator='{accelerator}' asks for {wanted}.*it has the CPU. Use accelerator='cpu'"
    ):
        choose_device(accelerator, 1)


def test_the_error_says_what_there_is_instead(machine: Machine) -> None:
    machine.mps = True
    with pytest.raises(DeviceUnavailable, match="it has 1 MPS device, the CPU"):
        choose_device("cuda", 1)


def test_unknown_accelerators() -> None:
    with pytest.raises(InvalidOption, match=r"accelerator='cpuu' .*one of 'auto', 'cpu'.* Did you mean 'cpu'\?"):
        choose_device("cpuu", 1)
    with pytest.raises(InvalidType, match="accelerator=3"):
        choose_device(3, 1)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("name", ["tpu", "hpu", "TPU"])
def test_kinds_that_are_not_offered(name: str) -> None:
    with pytest.raises(Unsupported, match=f"accelerator='{name}' is not offered. Use accelerator='auto', 'gpu' or 'cpu'"):
        choose_device(name, 1)


class OneChip(Accelerator):
    """A kind of device that a user brings; its tensors live on the CPU."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("cpu")] * devices

    def setup_device(self, device: torch.device) -> None:
        pass


def test_a_kind_of_the_users_own() -> None:
    mine = OneChip()
    kind, found = choose_device(mine, 1)
    assert kind is mine
    assert found == [torch.device("cpu")]
    assert (mine.name(), mine.get_device_stats("cpu"), repr(mine)) == ("", {}, "OneChip()")
    mine.teardown()


def test_the_kind_of_a_device() -> None:
    assert isinstance(accelerator_of(torch.device("mps")), MPSAccelerator)
    with pytest.raises(Unsupported, match="No accelerator is built in for device 'meta'"):
        accelerator_of(torch.device("meta"))


@pytest.mark.parametrize("kind", [CPUAccelerator, CUDAAccelerator, MPSAccelerator])
def test_a_kind_refuses_another_kinds_device(kind: type[Accelerator]) -> None:
    with pytest.raises(InvalidOption, match="device="):
        kind().setup_device(torch.device("meta"))


@pytest.mark.parametrize("gpus", [None, 0, "", [], ()])
def test_gpus_of_2020_that_mean_the_cpu(gpus: Any) -> None:
    assert parse_gpus(gpus) == {"accelerator": "cpu", "devices": 1}


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [(1, 1), (-1, -1), ("-1", -1), ([0], [0]), ([1, 4], [1, 4]), ("0", [0]), ("1", [1]), ("0, 1", [0, 1]), ("2,", [2])],
)
def test_gpus_of_2020(machine: Machine, gpus: Any, devices: Any) -> None:
    machine.cuda = 8
    assert parse_gpus(gpus) == {"accelerator": "gpu", "devices": devices}


@pytest.mark.parametrize("gpus", [1, -1, "0", [0]])
def test_gpus_of_2020_on_a_machine_without(machine: Machine, gpus: Any) -> None:
    with pytest.raises(DeviceUnavailable, match=r"gpus=.* asks for GPUs, but this machine has none.*Use gpus=0 for the CPU"):
        parse_gpus(gpus)


@pytest.mark.parametrize("gpus", [-2, "a", True, 0.5, ["0"], [-1], [True], {"0": 1}, "-3"])
def test_gpus_of_2020_that_mean_nothing(gpus: Any) -> None:
    with pytest.raises(InvalidOption, match=r"gpus=.*expected a number of GPUs, -1 for all"):
        parse_gpus(gpus)


def test_watching_the_cpu_needs_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_psutil(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "psutil":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_psutil)
    with pytest.raises(MissingPackage, match="watching the CPU needs the package 'psutil'"):
        CPUAccelerator().get_device_stats("cpu")


def test_usable_gpus_of_a_machine_without(machine: Machine) -> None:
    assert find_usable_cuda_devices(0) == []
    with pytest.raises(DeviceUnavailable, match="at least one usable CUDA GPU was asked for, but this machine has 0"):
        find_usable_cuda_devices()
    with pytest.raises(DeviceUnavailable, match="2 usable CUDA GPUs were asked for"):
        find_usable_cuda_devices(2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu() -> None:
    kind, (device,) = choose_device("gpu", 1)
    kind.setup_device(device)
    assert torch.ones(1, device=device).device == torch.device("cuda", 0)
    assert kind.get_device_stats(device)["allocated_bytes.all.current"] > 0
    assert 0 in find_usable_cuda_devices()
    kind.teardown()
