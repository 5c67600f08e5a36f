"""LambdaCallback: hooks from plain functions, for one-liners."""

from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.by_position import tell_stage
from leyden.callback import Callback
from leyden.callbacks.older import older_hooks
from leyden.errors import InvalidType
from leyden.module import LightningModule
from leyden.spelling import for_tests
from leyden.state.run import Run

Function = Callable[..., Any] | None


@for_tests("older")
class LambdaCallback(Callback):
    """Each argument is a hook's name, its value the function to call with that hook's arguments (trainer and module first).

    A hook that is not given, or given as ``None``, costs nothing. ``older`` are hooks of 0.7 to 1.9, such as ``on_epoch_end``.

    Example::

        LambdaCallback(on_train_epoch_end=lambda trainer, module: print(trainer.current_epoch))

    Raises:
        UnknownName: an argument that is no hook.
        InvalidType: a value that cannot be called.
    """

    def __init__(
        self,
        setup: Function = None,
        teardown: Function = None,
        on_fit_start: Function = None,
        on_fit_end: Function = None,
        on_sanity_check_start: Function = None,
        on_sanity_check_end: Function = None,
        on_train_batch_start: Function = None,
        on_train_batch_end: Function = None,
        on_train_epoch_start: Function = None,
        on_train_epoch_end: Function = None,
        on_validation_epoch_start: Function = None,
        on_validation_epoch_end: Function = None,
        on_test_epoch_start: Function = None,
        on_test_epoch_end: Function = None,
        on_validation_batch_start: Function = None,
        on_validation_batch_end: Function = None,
        on_test_batch_start: Function = None,
        on_test_batch_end: Function = None,
        on_train_start: Function = None,
        on_train_end: Function = None,
        on_validation_start: Function = None,
        on_validation_end: Function = None,
        on_test_start: Function = None,
        on_test_end: Function = None,
        on_exception: Function = None,
        on_save_checkpoint: Function = None,
        on_load_checkpoint: Function = None,
        on_before_backward: Function = None,
        on_after_backward: Function = None,
        on_before_optimizer_step: Function = None,
        on_before_zero_grad: Function = None,
        on_predict_start: Function = None,
        on_predict_end: Function = None,
        on_predict_batch_start: Function = None,
        on_predict_batch_end: Function = None,
        on_predict_epoch_start: Function = None,
        on_predict_epoch_end: Function = None,
        **older: Function,
    ) -> None:
        given = {name: function for name, function in locals().items() if name not in ("self", "older") and function is not None}
        given.update(older_hooks(type(self), older))
        for name, function in given.items():
            if not callable(function):
                raise InvalidType(name, function, "a function that takes the hook's arguments, or None")
            setattr(self, name, partial(_with_stage, function) if name in ("setup", "teardown") else function)


def _with_stage(function: Callable[..., Any], trainer: Run, pl_module: LightningModule, stage: str) -> None:
    """The hook gets its stage by name, and a function may call it as it likes."""
    tell_stage(partial(function, trainer, pl_module), stage)
