"""The hooks of modules and datamodules as classes of their own: for mixins of the user's, to be combined with either."""

from __future__ import annotations

import functools
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from leyden.datamodule import LightningDataModule
from leyden.hooks import MODULE_HOOKS
from leyden.module import LightningModule

_DATA = """
    prepare_data setup teardown train_dataloader test_dataloader val_dataloader predict_dataloader transfer_batch_to_device
    on_before_batch_transfer on_after_batch_transfer
"""
_MODES = """
    on_validation_model_zero_grad on_validation_model_eval on_validation_model_train on_test_model_eval on_test_model_train
    on_predict_model_eval configure_model configure_sharded_model
"""
_CHECKPOINT = "on_load_checkpoint on_save_checkpoint"


def _handing_on(owner: type, name: str) -> Callable[..., Any]:
    """A hook that calls that of the next class in line, which is the base's in the end; alone it does what the base's does."""
    meant = getattr(LightningModule, name, None)

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        following = getattr(super(owner, self), name, None)
        if following is not None:
            return following(*args, **kwargs)
        base = getattr(LightningDataModule, name, meant)
        return None if base is None else base(self, *args, **kwargs)

    if meant is not None:
        functools.update_wrapper(hook, meant, assigned=("__doc__", "__annotations__"), updated=())
    hook.__name__ = name
    hook.__qualname__ = f"{owner.__name__}.{name}"
    hook.__leyden_hands_on__ = True  # type: ignore[attr-defined]  # the mark is looked for in beyond_mixins()
    return hook


def _mixin(name: str, doc: str, hooks: list[str], *bases: type) -> Any:
    made = ABCMeta(name, (), {"__doc__": doc, "__module__": __name__})
    for hook in hooks:
        setattr(made, hook, _handing_on(made, hook))
    for base in bases:
        made.register(base)
    return made


class DeviceDtypeModuleMixin(nn.Module, metaclass=ABCMeta):
    """A plain module that says where its parameters are, and of which type, as a :class:`LightningModule` does."""

    @property
    def device(self) -> torch.device:
        """The device of its first parameter or buffer; the CPU where it has none."""
        return next((tensor.device for tensor in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of its first parameter or buffer of floating-point numbers; the default type where it has none."""
        found = (tensor.dtype for tensor in (*self.parameters(), *self.buffers()) if tensor.is_floating_point())
        return next(found, torch.get_default_dtype())


DeviceDtypeModuleMixin.register(LightningModule)
ModelHooks: Any = _mixin(
    "ModelHooks",
    "The hooks around training, evaluation and prediction that a module has.",
    [*MODULE_HOOKS, *_MODES.split()],
    LightningModule,
)
DataHooks: Any = _mixin(
    "DataHooks", "The hooks around data that modules and datamodules have.", _DATA.split(), LightningModule, LightningDataModule
)
CheckpointHooks: Any = _mixin(
    "CheckpointHooks", "The hooks around checkpoints that modules have.", _CHECKPOINT.split(), LightningModule
)
