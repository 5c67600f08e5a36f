"""Which device a run uses, and what is said where there is none."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import leyden
from leyden.devices.accelerators import (
    Accelerator,
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    accelerator_of,
    choose_accelerator,
    choose_device,
    choose_devices,
    find_usable_cuda_devices,
    get_nvidia_gpu_stats,
    parse_gpus,
)
from leyden.devices.registry import Accelerators
from leyden.errors import (
    ConflictingOptions,
    DeviceUnavailable,
    InvalidOption,
    InvalidType,
    MissingPackage,
    Unsupported,
)
from leyden.testing import BoringModel


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
    kind, found = choose_devices(accelerator, devices)
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
def test_several_devices(machine: Machine, devices: Any) -> None:
    machine.cuda = 2
    assert chosen("gpu", devices) == ("cuda", ["cuda:0", "cuda:1"])
    with pytest.raises(ConflictingOptions, match=r"asks for 2 devices, and one is used here. Use devices=1"):
        choose_device("gpu", devices)


@pytest.mark.parametrize("devices", [1, "auto", "1", None])
def test_the_cpu_counts_processes(devices: Any) -> None:
    assert chosen("cpu", devices) == ("cpu", ["cpu"])


def test_several_processes_on_the_cpu() -> None:
    assert chosen("cpu", 2) == ("cpu", ["cpu", "cpu"])


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
        choose_devices("cpu", devices)
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
        choose_devices("gpu", devices)


def test_gpus_that_are_not_there(machine: Machine) -> None:
    machine.cuda = 2
    with pytest.raises(DeviceUnavailable, match=r"devices=3 asks for 3 CUDA GPUs, but this machine has 2. Use at most devices=2"):
        choose_devices("gpu", 3)
    with pytest.raises(DeviceUnavailable, match=r"devices=\[0, 5\] asks for CUDA GPUs \[5\], but this machine has 2: \[0, 1\]"):
        choose_devices("gpu", [0, 5])


@pytest.mark.parametrize(
    ("accelerator", "wanted"), [("gpu", "a GPU"), ("cuda", "a CUDA GPU"), ("mps", "an MPS device"), ("CUDA", "a CUDA GPU")]
)
def test_a_machine_without_gpus(machine: Machine, accelerator: str, wanted: str) -> None:
    with pytest.raises(
        DeviceUnavailable, match=f"accelerator='{accelerator}' asks for {wanted}.*it has the CPU. Use accelerator='cpu'"
    ):
        choose_devices(accelerator, 1)


def test_the_error_says_what_there_is_instead(machine: Machine) -> None:
    machine.mps = True
    with pytest.raises(DeviceUnavailable, match="it has 1 MPS device, the CPU"):
        choose_devices("cuda", 1)


def test_unknown_accelerators() -> None:
    with pytest.raises(InvalidOption, match=r"accelerator='cpuu' .*one of 'auto', 'cpu'.* Did you mean 'cpu'\?"):
        choose_devices("cpuu", 1)
    with pytest.raises(InvalidType, match="accelerator=3"):
        choose_devices(3, 1)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("name", ["tpu", "hpu", "TPU"])
def test_kinds_that_are_not_offered(name: str) -> None:
    with pytest.raises(Unsupported, match=f"accelerator='{name}' is not offered. Use accelerator='auto', 'gpu' or 'cpu'"):
        choose_devices(name, 1)


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
    kind, found = choose_devices(mine, 1)
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
    kind, (device,) = choose_devices("gpu", 1)
    kind.setup_device(device)
    there = torch.ones(1, device=device)
    assert there.device == torch.device("cuda", 0)
    assert kind.get_device_stats(device)["allocated_bytes.all.current"] > 0
    assert 0 in find_usable_cuda_devices()
    kind.teardown()


def test_accelerators_by_names_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Accelerators()
    for kind in (CPUAccelerator, CUDAAccelerator, MPSAccelerator):
        kind.register_accelerators(registry)
    monkeypatch.setattr("leyden.devices.accelerators.AcceleratorRegistry", registry)
    assert registry.available_accelerators() == ["cpu", "cuda", "mps"]
    assert isinstance(registry.get("cpu"), CPUAccelerator)

    @registry.register("mine", description="of my own", size=3)
    class Mine(CPUAccelerator):
        calls: ClassVar[list[Any]] = []

        def __init__(self, size: int) -> None:
            self.size = size

        def setup(self, trainer: Any) -> None:
            self.calls.append(type(trainer).__name__)

        def setup_device(self, device: torch.device) -> None:
            self.calls.append(str(device))

        def teardown(self) -> None:
            self.calls.append("teardown")

    assert registry["mine"] == {
        "description": "of my own",
        "init_params": {"size": 3},
        "accelerator": Mine,
        "accelerator_name": "mine",
    }
    run = leyden.Trainer(accelerator="mine", fast_dev_run=True, enable_progress_bar=False, enable_model_summary=False)
    assert isinstance(run.accelerator, Mine)
    assert run.accelerator.size == 3
    run.fit(BoringModel())
    assert run.accelerator.calls == ["cpu", "Trainer", "teardown"] * 2  # fit, and the test of fast_dev_run
    with pytest.raises(InvalidOption, match=r"'mps', 'mine', or an Accelerator. Did you mean 'mine'"):
        choose_accelerator("mien")
    with pytest.raises(ConflictingOptions, match="'mine' is registered already"):
        registry.register("mine", Mine)
    registry.register("cpu", Mine, override=True, size=4)
    assert isinstance(choose_accelerator("cpu"), Mine)
    registry.register("far", type("Far", (Mine,), {"is_available": staticmethod(lambda: False)}), size=1)
    with pytest.raises(DeviceUnavailable, match="'far' asks for Far, which says that this machine has no such device"):
        choose_accelerator("far")
    registry.register("none", dict)
    with pytest.raises(InvalidType, match="an Accelerator, which 'none' was registered for"):
        choose_accelerator("none")
    registry.remove("none")
    assert registry.get("none", 5) == 5
    for ask in (registry.get, registry.remove):
        with pytest.raises(KeyError, match=r"^No accelerator is registered under 'minr'. Did you mean 'mine'"):
            ask("minr")
    with pytest.raises(InvalidType, match="name=3 cannot be used"):
        registry.register(3, Mine)  # type: ignore[arg-type]  # the mistake under test
    assert str(registry) == "Registered: cpu, cuda, mps, mine, far"


def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceUnavailable, match="nvidia-smi"):
        get_nvidia_gpu_stats(0)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n/bin/echo \"$@\" > {tmp_path}/asked\n/bin/echo '7, 1024, 2048, 3, [N/A], 41, N/A'\n")
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    expected = {
        "utilization.gpu (%)": 7.0,
        "memory.used (MB)": 1024.0,
        "memory.free (MB)": 2048.0,
        "utilization.memory (%)": 3.0,
        "temperature.gpu (°C)": 41.0,
    }
    assert get_nvidia_gpu_stats(torch.device("cuda", 1)) == expected
    assert "--id=6" in (tmp_path / "asked").read_text()


def test_gpus_are_numbered_by_the_bus(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    with caplog.at_level("INFO", "leyden"):
        CUDAAccelerator.set_nvidia_flags(2)
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert caplog.messages == ["LOCAL_RANK: 2 - CUDA_VISIBLE_DEVICES: [1,3]"]
