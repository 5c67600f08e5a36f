"""One process, one device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.devices.accelerators import Accelerator, accelerator_of
from leyden.devices.precision import Precision
from leyden.devices.transfer import move_data_to_device
from leyden.errors import InvalidOption
from leyden.strategies.base import Strategy

if TYPE_CHECKING:
    from leyden.checkpoint.files import CheckpointIO


class SingleDeviceStrategy(Strategy):
    """Everything on ``device``. Nothing is communicated, so nothing it does costs more than PyTorch's own call."""

    def __init__(
        self,
        device: torch.device | str | int = "cpu",
        accelerator: Accelerator | None = None,
        precision: Precision | None = None,
        checkpoint_io: CheckpointIO | None = None,
    ) -> None:
        try:
            chosen = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise InvalidOption("device", device, 'a device such as "cpu", "cuda:0" or "mps"') from error
        if str(chosen) == "cuda":
            chosen = torch.device("cuda", 0)
        if accelerator is None:
            accelerator = accelerator_of(chosen)
        super().__init__(accelerator, precision, checkpoint_io)
        self._device = chosen
        self.moves = chosen.type != "cpu"

    @property
    def root_device(self) -> torch.device:
        return self._device

    def connect(self, module: nn.Module) -> None:
        self._module = module

    def setup(self, module: nn.Module) -> nn.Module:
        if self._module is None:
            self._module = module
        self.accelerator.setup_device(self._device)
        return self.precision.convert_module(module).to(self._device)

    def teardown(self) -> None:
        if self.moves and self._module is not None:
            self._module.to("cpu")
        self.accelerator.teardown()

    def model_state_dict(self, module: nn.Module) -> dict[str, Any]:
        return module.state_dict()

    def load_model_state_dict(self, module: nn.Module, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        return module.load_state_dict(state_dict, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
        optimizer.load_state_dict(dict(state_dict))

    def move(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        if device is None:
            return move_data_to_device(batch, self._device) if self.moves else batch
        return move_data_to_device(batch, device)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.precision.backward(loss, self._module, None, *args, **kwargs)

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        return tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        if weights_only is None:  # a CheckpointIO of the user's may know no such argument
            return self.checkpoint_io.load_checkpoint(checkpoint_path)
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def remove_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        self.checkpoint_io.remove_checkpoint(filepath)
