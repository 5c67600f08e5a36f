"""Strategy: where a run's tensors live and how its processes talk. It knows no trainer and no callback."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.devices.precision import Precision
from leyden.errors import ConflictingOptions, InvalidType, MisconfigurationException

if TYPE_CHECKING:
    from leyden.checkpoint.files import CheckpointIO
    from leyden.devices.accelerators import Accelerator


class Strategy(ABC):
    """What every strategy is made of, and what each must do.

    ``accelerator``, ``precision`` and ``checkpoint_io`` may be left open: then what the Trainer was asked for is used.
    """

    world_size: int = 1
    """Processes that train together."""
    global_rank: int = 0
    """This process among all of them."""
    local_rank: int = 0
    """This process among those of its node."""
    node_rank: int = 0
    num_nodes: int = 1
    num_devices: int = 1
    """Devices on this node."""
    holds_whole_parameters: bool = True
    """Whether this process holds every parameter whole, not a shard of it."""
    moves: bool = True
    """Whether :meth:`move` does anything. Known when the strategy is made."""

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        precision: Precision | None = None,
        checkpoint_io: CheckpointIO | None = None,
    ) -> None:
        if precision is not None and not isinstance(precision, Precision):
            raise InvalidType("precision", precision, "a Precision such as MixedPrecision, or None", "Names go to the Trainer.")
        self._accelerator = accelerator
        self._precision = precision
        self._checkpoint_io = checkpoint_io
        self._module: nn.Module | None = None

    # -- parts
    @property
    def accelerator(self) -> Accelerator:
        """The kind of device."""
        if self._accelerator is None:
            raise MisconfigurationException(f"{type(self).__name__} has no accelerator yet. Pass accelerator= when making it.")
        return self._accelerator

    @property
    def precision(self) -> Precision:
        """The number formats, ``32-true`` unless another was asked for."""
        if self._precision is None:
            self._precision = Precision()
        return self._precision

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """What puts checkpoints to disk and reads them. May be set."""
        if self._checkpoint_io is None:
            from leyden.checkpoint.files import TorchCheckpointIO  # only those who save need it

            self._checkpoint_io = TorchCheckpointIO()
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, checkpoint_io: CheckpointIO) -> None:
        self._checkpoint_io = checkpoint_io

    def complete(
        self,
        accelerator: Accelerator | None = None,
        precision: Precision | None = None,
        checkpoint_io: CheckpointIO | None = None,
    ) -> None:
        """Fill in what was left open. Raises :class:`ConflictingOptions` where something else stands already."""
        for name, asked in (("accelerator", accelerator), ("precision", precision), ("checkpoint_io", checkpoint_io)):
            mine = getattr(self, f"_{name}")
            if asked is None or asked is mine:
                continue
            if mine is not None:
                raise ConflictingOptions(
                    f"{name}={asked!r} was asked for, but strategy={self!r} already brings {mine!r}. Leave one of them out."
                )
            setattr(self, f"_{name}", asked)

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.global_rank == 0

    @property
    def model(self) -> nn.Module | None:
        """The module that was connected, or ``None``."""
        return self._module

    @property
    @abstractmethod
    def root_device(self) -> torch.device:
        """The device of this process."""

    # -- the module
    @abstractmethod
    def connect(self, module: nn.Module) -> None:
        """Take ``module`` on, before anything is done to it."""

    @abstractmethod
    def setup(self, module: nn.Module) -> nn.Module:
        """Put ``module`` in its number format on its device; returns the module to call in a step."""

    @abstractmethod
    def teardown(self) -> None:
        """Free the devices. The module's weights stay usable, on the CPU."""

    @abstractmethod
    def model_state_dict(self, module: nn.Module) -> dict[str, Any]:
        """``module``'s whole state, for a checkpoint. Called on every process."""

    @abstractmethod
    def load_model_state_dict(self, module: nn.Module, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Load what :meth:`model_state_dict` returned; returns the missing and the unexpected keys."""

    @abstractmethod
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """``optimizer``'s whole state, for a checkpoint. Called on every process."""

    @abstractmethod
    def load_optimizer_state(self, optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`optimizer_state` returned."""

    # -- a step
    @abstractmethod
    def move(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """``batch`` with its tensors on ``device``, or on :attr:`root_device`. The batch given is not changed."""

    @abstractmethod
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients of ``loss``, which the precision has scaled already where it scales."""

    # -- processes
    @abstractmethod
    def barrier(self, name: str | None = None) -> None:
        """Wait until every process is here."""

    @abstractmethod
    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The object that process ``src`` passed."""

    @abstractmethod
    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        """``tensor`` reduced over the processes by ``"mean"`` or ``"sum"``, on every process."""

    @abstractmethod
    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Every process's ``tensor``, stacked along a new first dimension; with one process, ``tensor`` itself."""

    @abstractmethod
    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes (or with ``all=False``, any of them) decided so."""

    # -- checkpoints
    @abstractmethod
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any = None) -> None:
        """Write ``checkpoint``. Called on every process."""

    @abstractmethod
    def load_checkpoint(self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        """Read a checkpoint, onto the CPU. Called on every process."""

    @abstractmethod
    def remove_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """Remove a checkpoint. Called on every process."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(device={str(self.root_device)!r})"
