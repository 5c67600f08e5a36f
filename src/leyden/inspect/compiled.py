"""Modules that torch.compile has compiled: taken out of its wrapper, put back, and logging without leaving the graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from leyden.checkpoint.plain_names import COMPILED, LENT, eager_attributes, is_wrapper, unwrapped
from leyden.data.reachable import own_attributes
from leyden.errors import InvalidOption, InvalidType
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.state.optimizers import SteppingOptimizer
from leyden.tree import tree_map

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def from_compiled(model: Any) -> LightningModule:
    """The module inside of what ``torch.compile(module)`` returned, with ``forward`` and its steps compiled in the same way.

    A trainer that is given the compiled module does this itself. The module stays the same object: its class, its weights
    and its checkpoints are those of before. A copy of it is not compiled.

    Raises:
        InvalidType: ``model`` is no compiled :class:`LightningModule`. It is a ``ValueError``.
    """
    if not is_wrapper(model):
        raise InvalidType("model", type(model).__name__, "what torch.compile returns for a LightningModule")
    module = unwrapped(model)
    if not isinstance(module, LightningModule):
        raise InvalidType("model", type(module).__name__, "what torch.compile returns for a LightningModule")
    attributes = vars(module)
    if COMPILED in attributes and attributes[COMPILED][0] is not model.dynamo_ctx:
        to_uncompiled(module)
    if COMPILED not in attributes:
        names = [name for name in STEPS if overrides(module, getattr(LightningModule, name))]
        if type(module).forward is not nn.Module.forward:
            names.append("forward")
        compiled = {name: model.dynamo_ctx(getattr(module, name)) for name in names}
        attributes[COMPILED] = model.dynamo_ctx, {name: attributes.get(name) for name in names}
        attributes.update(compiled)
    return module


def to_uncompiled(model: Any) -> LightningModule:
    """The module of before: inside of what ``torch.compile`` returned, or what :func:`from_compiled` has compiled, in place.

    Raises:
        InvalidType: ``model`` is neither. It is a ``ValueError``.
        InvalidOption: ``model`` is a module that is not compiled. It is a ``ValueError``.
    """
    module = unwrapped(model) if is_wrapper(model) else model
    if not isinstance(module, LightningModule):
        raise InvalidType("model", type(module).__name__, "a compiled LightningModule")
    if COMPILED in vars(module):
        before = eager_attributes(vars(module))
        vars(module).clear()
        vars(module).update(before)
    elif module is model:
        raise InvalidOption("model", type(model).__name__, "a module that torch.compile(module) has compiled")
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether any of ``module`` is seen to be compiled: a submodule, in place or in a wrapper, or a method."""
    return any(
        is_wrapper(child)
        or child._compiled_call_impl is not None
        or any(map(_is_compiled_function, vars(child).values()))
        or _has_compiled_method(type(child))  # type: ignore[arg-type]  # every class is hashable
        for child in module.modules()
    )


def _is_compiled_function(value: object) -> bool:
    return "_torchdynamo_orig_callable" in own_attributes(value)


@functools.cache
def _has_compiled_method(cls: type) -> bool:
    owners = [owner for owner in cls.__mro__ if not owner.__module__.startswith(("torch.", "leyden."))]
    return any(_is_compiled_function(value) for owner in owners for value in list(vars(owner).values()))


class Waiting:
    """What a compiled step has logged. A graph cannot call the trainer, but it may append to a list, which costs no break."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[Any, ...], dict[str, Any]]] = []
        self.receivers: list[Callable[..., None]] = []
        self.open = False  # whether a step runs, which will tell it

    def tell(self) -> None:
        """Hand on what waits, in the order in which it was logged."""
        calls = self.calls[:]
        self.calls.clear()
        for number, args, kwargs in calls:
            self.receivers[number](*args, **kwargs)


def defer_logs(module: LightningModule, steps: MutableMapping[str, Callable[..., Any]]) -> list[tuple[dict[str, Any], str]]:
    """Where any of ``module`` is compiled, let what its graphs log wait until the step has returned.

    ``steps`` are changed in place. Returns the attributes that were set for it, each with its owner's dict, to be removed when
    the verb ends.
    """
    if not is_compiled(module):
        return []
    waiting = Waiting()
    lent: list[tuple[dict[str, Any], str]] = []
    for child in module.modules():
        for name in LENT if isinstance(child, LightningModule) else ():
            if name not in vars(child):
                own = getattr(child, name)
                vars(child)[name] = _waiting_log(own, waiting) if name.startswith("log") else _outside(own)
                lent.append((vars(child), name))
    for name in ("step", "zero_grad", "toggle_model"):
        step = getattr(SteppingOptimizer, name)
        if not hasattr(step, "leyden_lent"):
            setattr(SteppingOptimizer, name, _outside(step))
    for name in STEPS:
        if overrides(module, getattr(LightningModule, name)) or steps[name] != getattr(module, name):
            steps[name] = _telling(steps[name], waiting)
    return lent


def _outside(function: Callable[..., Any]) -> Any:
    """What drives the trainer: a graph that meets it is left for it, and entered again behind it."""
    outside: Any = torch.compiler.disable(function)
    outside.leyden_lent = True
    return outside


def _waiting_log(own: Callable[..., None], waiting: Waiting) -> Callable[..., None]:
    number, outside = len(waiting.receivers), _outside(own)
    waiting.receivers.append(own)

    @functools.wraps(own)
    def log(*args: Any, **kwargs: Any) -> None:
        if is_dynamo_compiling():
            if waiting.open:
                keep = kwargs.get("enable_graph", False)
                waiting.calls.append(
                    (
                        number,
                        args if keep else tuple([_settled(each) for each in args]),
                        kwargs if keep else {name: _settled(each) for name, each in kwargs.items()},
                    )
                )
                return
        elif waiting.calls:
            waiting.tell()
        outside(*args, **kwargs)

    log.leyden_lent = True  # type: ignore[attr-defined]  # a mark
    return log


def _settled(value: Any) -> Any:
    """A logged value as it is now: what follows in the graph may go on changing it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {name: _settled(each) for name, each in value.items()} if type(value) is dict else value


def _telling(step: Callable[..., Any], waiting: Waiting) -> Callable[..., Any]:
    @functools.wraps(step)
    def told(*args: Any) -> Any:
        waiting.open = True
        try:
            outputs = step(*args)
        finally:
            waiting.open = False
        if waiting.calls:
            waiting.tell()
        return tree_map(outputs, Tensor, _out_of_a_pool)

    return told


def _out_of_a_pool(tensor: Tensor) -> Tensor:
    """CUDA graphs (``mode="reduce-overhead"``) write the next step's results over this one's, which are kept for longer here."""
    return tensor.clone() if tensor.is_cuda else tensor
