"""Strategy: where a run's tensors live and how its processes talk. It knows no trainer and no callback."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.checkpoint.files import CheckpointIO
from leyden.data.share import ALONE, Share
from leyden.devices.accelerators import Accelerator
from leyden.devices.precision import Precision
from leyden.distributed.processes import Alone, Processes
from leyden.spelling import exact_arguments
from leyden.strategies.exchanges import Exchanges
from leyden.strategies.lightning_names import Entered, LightningNames, heed_overrides
from leyden.strategies.parts import Parts
from leyden.strategies.storage import Storage, storage_of


@exact_arguments
class Strategy(LightningNames, Exchanges, Parts, ABC):
    """Three things: the :attr:`processes` that train together, the :attr:`leyden_storage` of their checkpoints, and where the
    module and its batches are placed. Loops ask it for everything that depends on them.

    ``accelerator``, ``checkpoint_io`` and ``precision_plugin`` (or ``precision``) may be left open: then what the Trainer was
    asked for is used.
    """

    num_devices: int = 1
    """Devices on this node."""
    holds_whole_parameters: bool = True
    """Whether this process holds every parameter whole, not a shard of it."""
    leyden_moves: bool = True
    """Whether :meth:`leyden_move` does anything. Known when the strategy is made."""

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        processes: Processes | None = None,
        precision: Precision | None = None,
    ) -> None:
        super().__init__(accelerator, checkpoint_io, precision_plugin, precision)
        self._module: nn.Module | None = None
        self._wrapper: nn.Module | None = None
        self._steps: dict[str, Callable[..., Any]] = {}
        self.processes: Processes = processes or Alone()
        """Who this process is, and how it talks to the others."""

    @property
    def leyden_share(self) -> Share:
        """Whose samples are whose: all are this process's, unless several share the data."""
        return ALONE

    # -- the module
    @property
    def model(self) -> nn.Module | None:
        """The module that was connected, or what :meth:`setup` wrapped it in; ``None`` before. May be set, in :meth:`setup`."""
        return self._module if self._wrapper is None else self._wrapper

    @model.setter
    def model(self, model: nn.Module | None) -> None:
        self._wrapper = model

    @property
    @abstractmethod
    def root_device(self) -> torch.device:
        """The device of this process."""

    @abstractmethod
    def connect(self, model: nn.Module) -> None:
        """Take ``model`` on, before anything is done to it."""

    @abstractmethod
    def setup(self, module: nn.Module) -> nn.Module | None:
        """Put ``module`` in its number format on its device; returns it, or a wrapper that a step goes through.

        An override whose argument is called ``trainer``, as Lightning's, is given the trainer.
        """

    def leyden_connect(self, module: nn.Module) -> None:
        """A verb begins, with ``module``."""
        heed_overrides(self)
        self._wrapper, self._planned = None, False
        self.connect(module)
        self.setup_environment()

    def leyden_place(self, module: nn.Module) -> None:
        """Convert, move, wrap or shard ``module``: in place, once, before its weights are loaded."""
        wrapped = self.setup(module)
        if wrapped is not None:
            self._wrapper = wrapped
        self.model_to_device()

    def leyden_route(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        """What a loop calls for the step ``name`` of the module: ``step`` itself, unless :meth:`setup` returned a wrapper.

        A wrapper has to be entered by its own ``forward``, or its hooks do not fire. What it calls in there, the module's
        ``forward``, leads to ``step`` that once.
        """
        if self._wrapper is None or self._wrapper is self._module or self._module is None or name != "training_step":
            return step
        return Entered(self._wrapper, self._module, step)

    @abstractmethod
    def teardown(self) -> None:
        """Free the devices. The module's weights stay usable, on the CPU."""

    @abstractmethod
    def model_state_dict(self, module: nn.Module) -> dict[str, Any]:
        """``module``'s whole state, for a checkpoint. Called on every process."""

    @abstractmethod
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> Any:
        """Load what :meth:`model_state_dict` returned, ``checkpoint["state_dict"]``, into the module."""

    @abstractmethod
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """``optimizer``'s whole state, for a checkpoint. Called on every process."""

    @abstractmethod
    def load_optimizer_state(self, optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`optimizer_state` returned."""

    def optimizer_states(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
        """The states of all optimizers of ``module``, whose parameters may have to be known to put shards together."""
        return [self.optimizer_state(optimizer) for optimizer in optimizers]

    def load_optimizer_states(
        self, module: nn.Module, optimizers: Sequence[Optimizer], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """Load what :meth:`optimizer_states` returned. Raises ValueError where a state does not fit."""
        for optimizer, state in zip(optimizers, states, strict=True):
            self.load_optimizer_state(optimizer, state)

    # -- a step
    @abstractmethod
    def leyden_move(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """``batch`` with its tensors on ``device``, or on :attr:`root_device`. The batch given is not changed."""

    @abstractmethod
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None = None, *args: Any, **kwargs: Any) -> None:
        """Compute gradients of the loss, which the precision has scaled already where it scales."""

    def leyden_clip(self, parameters: Sequence[Tensor], value: float, by: str) -> None:
        """Clip the gradients of ``parameters`` in place, by their total ``"norm"`` or each ``"value"``."""
        if by == "norm":
            nn.utils.clip_grad_norm_(parameters, value)
        else:
            nn.utils.clip_grad_value_(parameters, value)

    # -- checkpoints
    @property
    def leyden_storage(self) -> Storage:
        """How a checkpoint stands on the disk: one file, which the first process writes, or what the ``checkpoint_io`` is for."""
        return storage_of(self.checkpoint_io, self.processes)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any = None) -> None:
        """Write ``checkpoint``. Called on every process."""
        self.leyden_storage.save(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        """Read a checkpoint, onto the CPU. Called on every process."""
        return self.leyden_storage.load(checkpoint_path, weights_only)

    def remove_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """Remove a checkpoint. Called on every process."""
        self.leyden_storage.remove(filepath)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(device={str(self.root_device)!r})"
