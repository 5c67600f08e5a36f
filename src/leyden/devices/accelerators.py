"""The kinds of device there are, and which of them a run uses."""

import logging
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch

from leyden.devices.registry import Accelerators
from leyden.errors import (
    ConflictingOptions,
    DeviceUnavailable,
    InvalidOption,
    InvalidType,
    MissingPackage,
    Unsupported,
    did_you_mean,
)

_log = logging.getLogger("leyden")
AcceleratorRegistry = Accelerators()
"""What the Trainer's ``accelerator`` may be asked for by name, but for ``"auto"`` and ``"gpu"``."""


class Accelerator(ABC):
    """A kind of device. Subclass it and pass an instance as ``Trainer(accelerator=...)`` to bring another kind."""

    @staticmethod
    @abstractmethod
    def is_available() -> bool:
        """Whether this machine has such a device."""

    @staticmethod
    @abstractmethod
    def auto_device_count() -> int:
        """How many of them this machine has."""

    @staticmethod
    @abstractmethod
    def parse_devices(devices: Any) -> Any:
        """``devices`` as the Trainer got it, in the form :meth:`get_parallel_devices` takes. Raises for what cannot be."""

    @staticmethod
    @abstractmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        """The devices that :meth:`parse_devices` named."""

    @abstractmethod
    def setup_device(self, device: torch.device) -> None:
        """Make ``device`` ready for this process."""

    def setup(self, trainer: Any) -> None:  # noqa: B027  # most kinds need no more than setup_device
        """Called with the trainer at each verb, before the module is moved."""

    def teardown(self) -> None:  # noqa: B027  # most kinds take nothing that has to be freed
        """Free what was taken."""

    def get_device_stats(self, device: torch.device | str) -> dict[str, Any]:
        """Figures about ``device``: memory in bytes, loads in percent."""
        return {}

    @staticmethod
    def name() -> str:
        """The name by which the Trainer's ``accelerator`` asks for it."""
        return ""

    @classmethod
    def register_accelerators(cls, accelerator_registry: Accelerators) -> None:
        """Enter this class into a registry, under its :meth:`name`. Override it to enter more, or with arguments."""
        if cls.name():
            accelerator_registry.register(cls.name(), cls, description=cls.__name__, override=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CPUAccelerator(Accelerator):
    """The processor. Its ``devices`` are processes."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def parse_devices(devices: Any) -> int:
        expected = 'a number of processes >= 1, or "auto" (on the CPU, devices are processes)'
        count = _number(devices)
        if count is None:
            raise InvalidType("devices", devices, expected)
        if count < 1:
            raise InvalidOption("devices", devices, expected)
        return count

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("cpu")] * CPUAccelerator.parse_devices(devices)

    def setup_device(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise InvalidOption("device", device, "a CPU device")

    def get_device_stats(self, device: torch.device | str) -> dict[str, Any]:
        """Processor, memory and swap in use, in percent. Needs psutil; raises :class:`MissingPackage` without it."""
        return get_cpu_stats()

    @staticmethod
    def name() -> str:
        return "cpu"


class CUDAAccelerator(Accelerator):
    """NVIDIA GPUs, and AMD's under ROCm."""

    @staticmethod
    def is_available() -> bool:
        return torch.cuda.device_count() > 0

    @staticmethod
    def auto_device_count() -> int:
        return torch.cuda.device_count()

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return _indices(devices, torch.cuda.device_count(), "CUDA GPUs")

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("cuda", index) for index in CUDAAccelerator.parse_devices(devices)]

    def setup_device(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise InvalidOption("device", device, "a CUDA device")
        torch.cuda.set_device(device)

    @staticmethod
    def set_nvidia_flags(local_rank: int) -> None:
        """Let CUDA number the GPUs by their place on the bus, as ``nvidia-smi`` does, and log which are visible."""
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
        _log.info("LOCAL_RANK: %s - CUDA_VISIBLE_DEVICES: [%s]", local_rank, visible)

    def teardown(self) -> None:
        torch.cuda.empty_cache()

    def get_device_stats(self, device: torch.device | str) -> dict[str, Any]:
        """PyTorch's memory statistics of ``device``, in bytes and counts."""
        return dict(torch.cuda.memory_stats(device))

    @staticmethod
    def name() -> str:
        return "cuda"


class MPSAccelerator(Accelerator):
    """The GPU of Apple's own chips."""

    @staticmethod
    def is_available() -> bool:
        return bool(torch.backends.mps.is_available())

    @staticmethod
    def auto_device_count() -> int:
        return 1 if MPSAccelerator.is_available() else 0

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return _indices(devices, MPSAccelerator.auto_device_count(), "MPS devices")

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("mps", index) for index in MPSAccelerator.parse_devices(devices)]

    def setup_device(self, device: torch.device) -> None:
        if device.type != "mps":
            raise InvalidOption("device", device, "an MPS device")

    def teardown(self) -> None:
        torch.mps.empty_cache()

    def get_device_stats(self, device: torch.device | str) -> dict[str, Any]:
        """Memory in use, in bytes."""
        return get_mps_stats()

    @staticmethod
    def name() -> str:
        return "mps"


_KINDS: dict[str, type[Accelerator]] = {"cpu": CPUAccelerator, "cuda": CUDAAccelerator, "mps": MPSAccelerator}
for _kind in _KINDS.values():
    _kind.register_accelerators(AcceleratorRegistry)
_NOT_OFFERED = ("tpu", "hpu", "xla", "ipu")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
"""Every accelerator that can be asked for by name."""


def accelerator_of(device: torch.device) -> Accelerator:
    """The kind that ``device`` is of. Raises :class:`Unsupported` for kinds that are not ours."""
    if device.type not in _KINDS:
        raise Unsupported(
            f"No accelerator is built in for device {str(device)!r}. Pass an instance of your own subclass of Accelerator."
        )
    return _KINDS[device.type]()


def choose_accelerator(accelerator: str | Accelerator | None) -> Accelerator:
    """The kind of device asked for; ``"auto"`` takes the first there is of cuda, mps and cpu."""
    if isinstance(accelerator, Accelerator):
        return accelerator
    asked = "auto" if accelerator is None else accelerator
    names = tuple(dict.fromkeys((*ACCELERATORS, *AcceleratorRegistry)))
    expected = "one of " + ", ".join(repr(name) for name in names) + ", or an Accelerator"
    if not isinstance(asked, str):
        raise InvalidType("accelerator", accelerator, expected)
    if asked in AcceleratorRegistry and AcceleratorRegistry[asked]["accelerator"] is not _KINDS.get(asked):
        return _registered(asked)
    name = asked.lower()
    if name in _NOT_OFFERED:
        raise Unsupported(f"accelerator={accelerator!r} is not offered. Use accelerator='auto', 'gpu' or 'cpu'.")
    if name not in ACCELERATORS:
        raise InvalidOption("accelerator", accelerator, expected, did_you_mean(name, names).strip())
    if name == "auto":
        return next(kind() for kind in (CUDAAccelerator, MPSAccelerator, CPUAccelerator) if kind.is_available())
    if name == "gpu":
        if MPSAccelerator.is_available() and not CUDAAccelerator.is_available():
            return MPSAccelerator()
        if not CUDAAccelerator.is_available():
            raise _no_device("accelerator", accelerator, "a GPU")
        return CUDAAccelerator()
    kind = _KINDS[name]
    if not kind.is_available():
        raise _no_device("accelerator", accelerator, {"cuda": "a CUDA GPU", "mps": "an MPS device"}[name])
    return kind()


def _registered(name: str) -> Accelerator:
    """What a name that the user has registered means, where this machine has such a device."""
    made = AcceleratorRegistry.get(name)
    if not isinstance(made, Accelerator):
        raise InvalidType("accelerator", made, f"an Accelerator, which {name!r} was registered for")
    if not made.is_available():
        raise DeviceUnavailable(
            f"accelerator={name!r} asks for {type(made).__name__}, which says that this machine has no such device: this machine "
            f"has {_there_is()}. Use accelerator='auto' to take what there is."
        )
    return made


def choose_devices(
    accelerator: str | Accelerator | None = "auto", devices: Any = "auto"
) -> tuple[Accelerator, list[torch.device]]:
    """The kind of device and the devices of this machine that ``Trainer(accelerator=..., devices=...)`` asks for.

    ``devices`` is a number, ``-1`` for all, a list of indices, ``"0,1"``, or ``"auto"`` for one. Raises
    :class:`InvalidOption` and :class:`DeviceUnavailable`.
    """
    kind = choose_accelerator(accelerator)
    if devices is None or devices == "auto":
        return kind, kind.get_parallel_devices(kind.parse_devices(1))[:1]
    return kind, kind.get_parallel_devices(kind.parse_devices(devices))


def choose_device(accelerator: str | Accelerator | None = "auto", devices: Any = "auto") -> tuple[Accelerator, torch.device]:
    """The one device that these ask for, as :func:`choose_devices`. Raises :class:`ConflictingOptions` for several."""
    kind, chosen = choose_devices(accelerator, devices)
    if len(chosen) > 1:
        raise ConflictingOptions(f"devices={devices!r} asks for {len(chosen)} devices, and one is used here. Use devices=1.")
    return kind, chosen[0]


def parse_gpus(gpus: Any) -> dict[str, Any]:
    """What ``gpus=`` of 2020 says in today's words: the Trainer's keywords ``accelerator`` and ``devices``.

    A number counts GPUs, ``-1`` means all, a list or a string (``"0, 1"``) names them by index; ``0``, ``None`` and an
    empty list or string mean the CPU.
    """
    given, expected = gpus, 'a number of GPUs, -1 for all, a list of indices, or a string of them such as "0, 1"'
    if isinstance(gpus, bool) or not (gpus is None or isinstance(gpus, int | str | list | tuple)):
        raise InvalidType("gpus", gpus, expected)
    if isinstance(gpus, str):
        text = gpus.strip()
        if text == "-1":
            gpus = -1
        else:
            parts = [part.strip() for part in text.split(",") if part.strip()]
            if not all(part.isdecimal() for part in parts):
                raise InvalidOption("gpus", gpus, expected)
            gpus = [int(part) for part in parts]
    if not gpus:
        return {"accelerator": "cpu", "devices": 1}
    if isinstance(gpus, int):
        if gpus < -1:
            raise InvalidOption("gpus", given, expected)
    elif not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in gpus):
        raise InvalidType("gpus", given, expected)
    if not (CUDAAccelerator.is_available() or MPSAccelerator.is_available()):
        raise _no_device("gpus", given, "GPUs")
    return {"accelerator": "gpu", "devices": gpus if isinstance(gpus, int) else list(gpus)}


def find_usable_cuda_devices(num_devices: int = -1) -> list[int]:
    """Indices of ``num_devices`` GPUs (``-1``: all) on which memory can be taken. Raises :class:`DeviceUnavailable`."""
    if num_devices == 0:
        return []
    usable = []
    for index in range(torch.cuda.device_count()):
        try:
            torch.zeros(1, device=torch.device("cuda", index))
        except RuntimeError:
            continue
        usable.append(index)
        if len(usable) == num_devices:
            return usable
    if num_devices == -1 and usable:
        return usable
    wanted = "at least one usable CUDA GPU was" if num_devices == -1 else f"{num_devices} usable CUDA GPUs were"
    raise DeviceUnavailable(f"{wanted} asked for, but this machine has {len(usable)} ({usable}). Use the CPU, or fewer.")


def get_cpu_stats() -> dict[str, float]:
    """Processor, memory and swap in use, in percent. Needs psutil; raises :class:`MissingPackage` without it."""
    try:
        import psutil  # type: ignore[import-untyped,unused-ignore]  # optional, and without types
    except ModuleNotFoundError as error:
        raise MissingPackage("psutil", "watching the CPU") from error
    return {
        "cpu_percent": psutil.cpu_percent(),
        "cpu_vm_percent": psutil.virtual_memory().percent,
        "cpu_swap_percent": psutil.swap_memory().percent,
    }


def get_mps_stats(device: Any = None) -> dict[str, float]:
    """Memory of Apple's GPU in use, in bytes."""
    return {
        "current_allocated_memory": torch.mps.current_allocated_memory(),
        "driver_allocated_memory": torch.mps.driver_allocated_memory(),
    }


_SMI = {
    "utilization.gpu": "%",
    "memory.used": "MB",
    "memory.free": "MB",
    "utilization.memory": "%",
    "fan.speed": "%",
    "temperature.gpu": "°C",
    "temperature.memory": "°C",
}


def get_nvidia_gpu_stats(device: torch.device | str | int) -> dict[str, float]:
    """What ``nvidia-smi`` says of a GPU, named by torch's index: loads in percent, memory in MB, temperatures.

    A figure that the GPU does not tell is left out. Raises :class:`DeviceUnavailable` without ``nvidia-smi``.
    """
    found = shutil.which("nvidia-smi")
    if found is None:
        raise DeviceUnavailable(
            "This machine has no nvidia-smi, which get_nvidia_gpu_stats reads. Use torch.cuda.memory_stats()."
        )
    number = device if isinstance(device, int) else torch.device(device).index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = visible[number] if number < len(visible) and visible[number] else str(number)
    asked = [found, f"--query-gpu={','.join(_SMI)}", "--format=csv,nounits,noheader", f"--id={name}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True, encoding="utf-8")
    stats = {}
    for (figure, unit), text in zip(_SMI.items(), answer.stdout.strip().split(","), strict=True):
        with suppress(ValueError):
            stats[f"{figure} ({unit})"] = float(text)
    return stats


def _no_device(name: str, given: object, wanted: str) -> DeviceUnavailable:
    reason = ""
    if "MPS" not in wanted and not torch.backends.cuda.is_built():
        reason = f" (this PyTorch, {torch.__version__}, is built without CUDA)"
    instead = "gpus=0 for the CPU" if name == "gpus" else "accelerator='cpu', or accelerator='auto' to take what there is"
    return DeviceUnavailable(
        f"{name}={given!r} asks for {wanted}, but this machine has none{reason}: it has {_there_is()}. Use {instead}."
    )


def _there_is() -> str:
    found = [f"{torch.cuda.device_count()} CUDA GPUs"] if torch.cuda.device_count() else []
    found += ["1 MPS device"] if MPSAccelerator.is_available() else []
    return ", ".join([*found, "the CPU"])


def _number(devices: Any) -> int | None:
    """``devices`` where it is a whole number, also as text."""
    if isinstance(devices, str):
        try:
            return int(devices)
        except ValueError:
            return None
    return devices if isinstance(devices, int) and not isinstance(devices, bool) else None


def _indices(devices: Any, there: int, what: str) -> list[int]:
    """Indices of the devices that ``devices`` names among ``there`` of them."""
    expected = 'a number of devices >= 1, -1 for all, a list of indices, a string such as "0,1", or "auto"'
    count = _number(devices)
    if count is not None:
        if count == 0 or count < -1:
            raise InvalidOption("devices", devices, expected)
        if count == -1:
            count = there
        if count > there or there == 0:
            instead = f"at most devices={there}" if there else "accelerator='cpu'"
            raise DeviceUnavailable(
                f"devices={devices!r} asks for {max(count, 1)} {what}, but this machine has {there}. Use {instead}."
            )
        return list(range(count))
    if isinstance(devices, str):
        parts = [part.strip() for part in devices.split(",") if part.strip()]
        if not parts or not all(part.isdecimal() for part in parts):
            raise InvalidOption("devices", devices, expected)
        named: list[Any] = [int(part) for part in parts]
    elif isinstance(devices, Iterable) and not isinstance(devices, dict | bytes):
        named = list(devices)
    else:
        raise InvalidType("devices", devices, expected)
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in named):
        raise InvalidType("devices", devices, expected)
    if not named or min(named) < 0 or len(set(named)) != len(named):
        raise InvalidOption("devices", devices, expected + "; each index once")
    lacking = [index for index in named if index >= there]
    if lacking:
        raise DeviceUnavailable(
            f"devices={devices!r} asks for {what} {lacking}, but this machine has {there}: {list(range(there))}. "
            f"Name some of those."
        )
    return named
