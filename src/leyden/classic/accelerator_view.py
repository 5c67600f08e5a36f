"""``trainer._accelerator_connector``: what a trainer chose, under the names by which published packages ask for it.

Optuna's pruning callback asks it whether there are several processes, PINA for the device, scvi-tools makes one to read devices.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from leyden.errors import UnknownName, did_you_mean


class AcceleratorView:
    """Strategy, accelerator, number format and devices of a trainer."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    @property
    def strategy(self) -> Any:
        return self._trainer.strategy

    @property
    def accelerator(self) -> Any:
        return self._trainer.accelerator

    @property
    def precision_plugin(self) -> Any:
        return self._trainer.precision_plugin

    @property
    def cluster_environment(self) -> Any:
        return getattr(self.strategy, "cluster_environment", None)

    @property
    def is_distributed(self) -> bool:
        """Whether the strategy is one for several processes, however many there are."""
        return isinstance(self.strategy, importlib.import_module("leyden.strategies").ParallelStrategy)

    @property
    def use_distributed_sampler(self) -> bool:
        return bool(self._trainer.leyden_options.behaviour.distributed_sampler)

    @property
    def _parallel_devices(self) -> list[torch.device]:
        return list(getattr(self.strategy, "parallel_devices", None) or [self.strategy.root_device])

    @property
    def parallel_devices(self) -> list[torch.device]:
        return self._parallel_devices

    @property
    def _accelerator_flag(self) -> str:
        """The kind of device: ``"cpu"``, ``"cuda"``, ``"mps"``."""
        return str(self.strategy.root_device.type)

    @property
    def _devices_flag(self) -> int | list[int]:
        """How many processes on the CPU; else the devices' indices."""
        on_cpu = self._accelerator_flag == "cpu"
        chosen: int | list[int] = self._trainer.num_devices if on_cpu else self._trainer.device_ids
        return chosen

    @property
    def _num_nodes_flag(self) -> int:
        return int(self._trainer.num_nodes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = [each for each in dir(type(self)) if not each.startswith("__")]
        raise UnknownName(
            f"trainer._accelerator_connector has no {name!r}.{did_you_mean(name, known)} What was chosen is trainer.strategy, "
            "trainer.accelerator and trainer.precision."
        )


class _AcceleratorConnector(AcceleratorView):
    """What a Trainer of these arguments would choose: ``accelerator``, ``devices``, ``strategy``, ``precision`` and so on."""

    def __init__(self, devices: Any = "auto", num_nodes: int = 1, accelerator: Any = "auto", **more: Any) -> None:
        trainer = importlib.import_module("leyden.trainer.trainer").Trainer
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        super().__init__(trainer(accelerator=accelerator, devices=devices, num_nodes=num_nodes, **quiet, **more))
