"""Hooks by the names and with the arguments that they had in older Lightnings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from leyden.by_position import fitted
from leyden.callback import Callback
from leyden.errors import Unsupported
from leyden.former import FormerCallbackHooks, FormerHooks, FormerModuleHooks
from leyden.hook_facts import beyond_mixins, hooks_of
from leyden.module import LightningModule
from leyden.notices import notice
from leyden.own_calls import hands_on
from leyden.state.run import Run

OLD_HOOKS: dict[str, str] = {
    # hook of a module or callback in 0.7 or 1.x: today's
    "on_epoch_start": "on_train_epoch_start",
    "on_epoch_end": "on_train_epoch_end",
    "on_batch_start": "on_train_batch_start",
    "on_batch_end": "on_train_batch_end",
    "on_pretrain_routine_start": "on_fit_start",
    "on_pretrain_routine_end": "on_fit_start",
}
MODULES_OLD_HOOKS: dict[str, str] = {
    **OLD_HOOKS,
    "on_pre_performance_check": "on_validation_start",
    "on_post_performance_check": "on_validation_end",
    "on_sanity_check_start": "on_sanity_check_start",
    "on_sanity_check_end": "on_sanity_check_end",
    "on_hpc_save": "on_save_checkpoint",
    "on_hpc_load": "on_load_checkpoint",
}
CALLBACKS_OLD_HOOKS: dict[str, str] = {**OLD_HOOKS, "on_keyboard_interrupt": "on_exception"}
ON_INIT = ("on_init_start", "on_init_end")
BEFORE_SETUP = "on_before_accelerator_backend_setup"

_NO_APEX = "Pass precision='16-mixed', or wrap PyTorch's own tools in a Precision plug-in."
_NO_DDP = "Pass strategy='ddp', or a Strategy of your own."
_LOADERS = "Do it in the method that returns the loader."
GONE: dict[str, str] = {
    # method of a module that cannot be honoured: what to do
    "configure_apex": _NO_APEX,
    "configure_ddp": _NO_DDP,
    "init_ddp_connection": _NO_DDP,
    "configure_sync_batchnorm": "Call torch.nn.SyncBatchNorm.convert_sync_batchnorm in configure_model.",
    "on_train_dataloader": _LOADERS,
    "on_val_dataloader": _LOADERS,
    "on_test_dataloader": _LOADERS,
    "on_predict_dataloader": _LOADERS,
    "on_post_move_to_device": "Tie parameters in __init__: moving keeps them tied.",
    "add_to_queue": "Processes that fit starts return nothing by a queue. Write what they should return to a file.",
    "get_from_queue": "Processes that fit starts return nothing by a queue. Read what they should return from a file.",
}
_ALSO = {"on_pre_performance_check": "on_test_start", "on_post_performance_check": "on_test_end"}  # fired there too
_TODAYS = {*hooks_of(Callback), *hooks_of(LightningModule)}.difference(MODULES_OLD_HOOKS, CALLBACKS_OLD_HOOKS, GONE)
_NOTHING = frozenset(
    value
    for base in (FormerHooks, FormerModuleHooks, FormerCallbackHooks, Callback)
    for value in vars(base).values()
    if callable(value)
)


class Echo(Callback):
    """Calls hooks of modules and callbacks by their old names."""

    def __init__(self, listeners: Mapping[str, list[Callable[..., Any]]]) -> None:
        for today, methods in listeners.items():
            setattr(self, today, self._to(methods))

    @staticmethod
    def _to(methods: list[Callable[..., Any]]) -> Callable[..., Any]:
        def hook(trainer: Run, module: LightningModule, *arguments: Any) -> Any:
            answers = [method(trainer, module, *arguments) for method in methods]
            return -1 if any(type(answer) is int and answer == -1 for answer in answers) else None

        return hook


def own_method(part: object, name: str) -> Callable[..., Any] | None:
    """The method ``name`` of ``part``, where it is there for us to call.

    A submodule that happens to have the name is none, nor is a base's that does nothing, nor one that today's hooks call.
    """
    value = getattr(part, name, None)
    function = beyond_mixins(part, name, getattr(value, "__func__", None), _NOTHING)
    if not inspect.isroutine(value) or function is _NOTHING or function in _NOTHING or hands_on(part, name, _TODAYS):
        return None
    return value


def echo(run: Run, module: LightningModule, callbacks: Iterable[Callback]) -> list[Callback]:
    """The callback that calls old hooks, where somebody has one."""
    listeners: dict[str, list[Callable[..., Any]]] = {}
    for callback in callbacks:
        for name, today in CALLBACKS_OLD_HOOKS.items():
            method = own_method(callback, name)
            if method is not None:
                notice(name, today)
                listeners.setdefault(today, []).append(_of_callback(name, method))
    for name, today in MODULES_OLD_HOOKS.items():
        method = own_method(module, name)
        if method is not None:
            notice(name, f"a callback's {today}" if name == today else today)
            for each in (today, *filter(None, (_ALSO.get(name),))):
                listeners.setdefault(each, []).append(_of_module(name, method))
    return [Echo(listeners)] if listeners else []


def _of_callback(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    told = fitted(method, 2)

    def hook(trainer: Run, module: LightningModule, *arguments: Any) -> Any:
        if name == "on_keyboard_interrupt" and not isinstance(arguments[0], KeyboardInterrupt):
            return None
        return told(trainer, module)

    return hook


def _of_module(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    count = 1 if name in ("on_batch_start", "on_hpc_save", "on_hpc_load") else 0
    told = fitted(method, count)
    return lambda trainer, module, *arguments: told(*arguments[:count])


def refuse_gone(module: LightningModule) -> None:
    """Raise :class:`Unsupported` where ``module`` has a method of an older Lightning that cannot be honoured."""
    for name, instead in GONE.items():
        if own_method(module, name) is not None:
            raise Unsupported(f"{type(module).__name__}.{name} is a hook of an older Lightning, and is not called. {instead}")


def tell_init(run: Run) -> None:
    """``on_init_start(trainer)`` and ``on_init_end(trainer)`` of 0.7's callbacks."""
    for name in ON_INIT:
        for callback in run.callbacks:
            method = own_method(callback, name)
            if method is not None:
                notice(name, "setup")
                fitted(method, 1)(run)


def tell_before_setup(run: Run, module: LightningModule) -> None:
    """1.x's ``on_before_accelerator_backend_setup(trainer, pl_module)`` of callbacks."""
    for callback in run.callbacks:
        method = own_method(callback, BEFORE_SETUP)
        if method is not None:
            notice(BEFORE_SETUP, "setup")
            fitted(method, 2)(run, module)
