"""One process, one device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.checkpoint.files import CheckpointIO
from leyden.devices.accelerators import Accelerator, accelerator_of
from leyden.devices.precision import Precision
from leyden.devices.transfer import move_data_to_device, move_optimizer_state
from leyden.distributed.processes import Processes
from leyden.errors import InvalidOption
from leyden.older_calls import loss_among
from leyden.spelling import exact_arguments
from leyden.strategies.base import Strategy


@exact_arguments
class SingleDeviceStrategy(Strategy):
    """Everything on ``device``. Nothing is communicated, so nothing it does costs more than PyTorch's own call."""

    strategy_name: str | None = "single_device"

    def __init__(
        self,
        device: torch.device | str | int = "cpu",
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        processes: Processes | None = None,
        precision: Precision | None = None,
    ) -> None:
        try:
            chosen = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise InvalidOption("device", device, 'a device such as "cpu", "cuda:0" or "mps"') from error
        if str(chosen) == "cuda":
            chosen = torch.device("cuda", 0)
        if accelerator is None:
            accelerator = accelerator_of(chosen)
        super().__init__(accelerator, checkpoint_io, precision_plugin, processes, precision)
        self._device = chosen
        self.leyden_moves = chosen.type != "cpu"

    @property
    def root_device(self) -> torch.device:
        return self._device

    def connect(self, model: nn.Module) -> None:
        self._module = model

    def leyden_converted(self, module: Any) -> nn.Module:
        """The module that :meth:`setup` was given, in its number format; the device is made ready."""
        if not isinstance(module, nn.Module):  # Lightning gives the trainer, and its subclasses hand that on
            module = self._module
        if self._module is None:
            self._module = module
        trainer = getattr(self._module, "_trainer", None)
        if trainer is None:
            self.accelerator.setup_device(self._device)
        else:
            self.accelerator.setup(trainer)
        converted: nn.Module = self.precision.convert_module(module)
        return converted

    def setup(self, module: Any) -> nn.Module:
        return self.leyden_converted(module).to(self._device)

    def teardown(self) -> None:
        if self.leyden_moves and self._module is not None:
            self._module.to("cpu")
            for optimizer in self.optimizers:
                move_optimizer_state(optimizer, "cpu")
        self.accelerator.teardown()

    def model_state_dict(self, module: nn.Module) -> dict[str, Any]:
        return module.state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> Any:
        assert self._module is not None
        return self._module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
        optimizer.load_state_dict(dict(state_dict))

    def leyden_move(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        if device is None:
            return move_data_to_device(batch, self._device) if self.leyden_moves else batch
        return move_data_to_device(batch, device)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None = None, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            closure_loss, args, kwargs = loss_among((closure_loss, *args), kwargs)  # 1.x gave the optimizer's number, too
        self.pre_backward(closure_loss)
        self.precision.backward(closure_loss, self._module, optimizer, *args, **kwargs)
        if self._module is not None:
            closure_loss = self.precision.post_backward(closure_loss, self._module)
        self.post_backward(closure_loss)
