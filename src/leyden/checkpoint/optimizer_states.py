"""The states of optimizers and schedulers, of whatever kind they are: described, and put back as what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from leyden.checkpoint.format import StateOf, Unwritable, mark_state
from leyden.checkpoint.plain_names import named_parameters
from leyden.data.reachable import own_attributes
from leyden.tree import tree_map

_MISSING = object()


# -- taken
def describe(module: nn.Module, optimizers: Sequence[Any], schedulers: Sequence[Any], asked: Any) -> dict[str, Any]:
    """What the states are of: each optimizer's kind and its groups by their parameters' names, each scheduler's kind; and what
    configure_optimizers has ``asked`` for."""
    names = names_of(module)
    return {
        "optimizers": [{"kind": type(bare).__name__, "groups": groups_of(bare, names)} for bare in optimizers],
        "schedulers": [kind_of(each) for each in schedulers],
        "asked": asked,
        "dtypes": {name: parameter.dtype for name, parameter in named_parameters(module)},
    }


def kind_of(scheduler: Any) -> str:
    """The name of its class, with those of the schedulers that it holds: ``SequentialLR(LinearLR, CosineAnnealingLR)``."""
    held = [item for value in own_attributes(scheduler).values() for item in (value if type(value) is list else [value])]
    inside = [kind_of(each) for each in held if isinstance(each, LRScheduler) and each is not scheduler]
    return f"{type(scheduler).__name__}({', '.join(inside)})" if inside else type(scheduler).__name__


def names_of(module: nn.Module) -> dict[int, str]:
    """The names of parameters in ``module``, by their id."""
    return {id(parameter): name for name, parameter in named_parameters(module)}


def groups_of(optimizer: Any, names: Mapping[int, str]) -> list[list[str]]:
    """The groups of an optimizer, by their parameters' names."""
    return [[names.get(id(parameter), "?") for parameter in group["params"]] for group in optimizer.param_groups]


def scheduler_state(scheduler: Any) -> Any:
    """Its state, with the states of schedulers and the like that it holds; the optimizers that it holds have theirs elsewhere."""
    return _with_states(_state_of(scheduler), frozenset({id(scheduler)})) if hasattr(scheduler, "state_dict") else {}


def _with_states(value: Any, inside: frozenset[int]) -> Any:
    if hasattr(value, "param_groups"):
        return mark_state(value, None)
    if isinstance(value, dict):
        return {key: _with_states(item, inside) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_states(item, inside) for item in value)
    if isinstance(value, nn.Module | type) or not _tells_state(value):
        return value
    if id(value) in inside:  # it is being told
        return mark_state(value, None)
    return mark_state(value, _with_states(_state_of(value), inside | {id(value)}))


def _state_of(value: Any) -> Any:
    state = value.state_dict()
    if isinstance(value, SWALR):
        state.pop("anneal_func", None)  # a function, which torch 2.6 counts as state
    return state


def _tells_state(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


# -- groups that were added on the way
def add_groups(module: nn.Module, optimizer: Any, described: Mapping[str, Any], state: Any) -> None:
    """Add to ``optimizer`` the groups that training had added when ``state`` was taken, and those that are there are without.

    Theirs are the parameters of the same names. Where those are not what they were, nothing is done.
    """
    then = described.get("groups") or []
    now = groups_of(optimizer, names_of(module))
    saved = state.get("param_groups") if isinstance(state, Mapping) else None
    if len(then) <= len(now) or then[: len(now)] != now or not isinstance(saved, list) or len(saved) != len(then):
        return
    parameters = dict(named_parameters(module))
    if any(name not in parameters for group in then[len(now) :] for name in group):
        return
    for names, options in zip(then[len(now) :], saved[len(now) :], strict=True):
        given = {key: value for key, value in options.items() if key not in ("params", "param_names")}
        named = "param_names" in options
        members = [(name, parameters[name]) if named else parameters[name] for name in names]
        try:
            optimizer.add_param_group({**given, "params": members})
        except ValueError:  # it stands in another group today: loading says so
            return
    vars(optimizer)["add_param_group"] = partial(_add_once, optimizer, len(now))


def _add_once(optimizer: Any, before: int, group: Any) -> None:
    """``add_param_group`` until training goes on: a hook that added a group at the start of training finds it there."""
    given = group.get("params") if isinstance(group, dict) else None
    if isinstance(given, Iterable) and not isinstance(given, Tensor | set):
        group = {**group, "params": (given := list(given))}  # which may be an iterator
    members = {id(each[1] if isinstance(each, tuple) else each) for each in (given if isinstance(given, list) else [given])}
    if not any({id(each) for each in added["params"]} == members for added in optimizer.param_groups[before:]):
        type(optimizer).add_param_group(optimizer, group)


def end_adding_once(optimizers: Iterable[Any]) -> None:
    """Training goes on: groups that are added now are new."""
    for optimizer in optimizers:
        if isinstance(getattr(optimizer, "__dict__", None), dict):
            vars(optimizer).pop("add_param_group", None)


def in_order_of(module: nn.Module, optimizer: Any, described: Mapping[str, Any], state: Any) -> Any:
    """``state`` with the parameters of each group in the order of ``optimizer``'s, where they are the same by their names.

    PyTorch puts it back by their order, which another time of asking may change: a pruned parameter is the module's last.
    """
    then, now = described.get("groups"), groups_of(optimizer, names_of(module))
    saved = state.get("param_groups") if isinstance(state, Mapping) else None
    if not then or then == now or not isinstance(saved, list) or [sorted(g) for g in then] != [sorted(g) for g in now]:
        return state
    if any(len(set(group)) != len(group) for group in now) or len(saved) != len(then):
        return state
    groups = []
    for group, names, order in zip(saved, then, now, strict=True):
        by_name = dict(zip(names, group["params"], strict=True))
        groups.append({**group, "params": [by_name[name] for name in order]})
    return {**state, "param_groups": groups}


# -- put back
def fitted(saved: Any, now: Callable[[], Any], name: str, kept: list[str]) -> Any:
    """``saved``, with what no file could hold as ``now()`` has it, under the same keys; its name is added to ``kept``.

    ``now`` is asked only where there is such a thing.
    """
    return _fitted(saved, now(), name, kept) if next(_lacking(saved), None) is not None else saved


def _lacking(saved: Any) -> Iterator[Any]:
    if isinstance(saved, Unwritable):
        yield saved
    elif isinstance(saved, Mapping):
        for value in saved.values():
            yield from _lacking(value)
    elif isinstance(saved, list | tuple):
        for value in saved:
            yield from _lacking(value)


def _fitted(saved: Any, now: Any, name: str, kept: list[str]) -> Any:
    if isinstance(saved, StateOf) and now is not _MISSING:
        if saved.values is None:
            return now
        if _tells_state(now):
            now.load_state_dict(fitted(saved.values, now.state_dict, name, kept))
            return now
    if isinstance(saved, Unwritable):
        kept.append(name)
        return now
    if isinstance(saved, dict):
        there = now if isinstance(now, Mapping) else {}
        new = {key: _fitted(value, there.get(key, _MISSING), f"{name}.{key}", kept) for key, value in saved.items()}
        return {key: value for key, value in new.items() if value is not _MISSING}
    if type(saved) in (list, tuple):
        beside = now if isinstance(now, list | tuple) and len(now) == len(saved) else [_MISSING] * len(saved)
        pairs = enumerate(zip(saved, beside, strict=True))
        items = [_fitted(value, other, f"{name}[{index}]", kept) for index, (value, other) in pairs]
        return type(saved)(None if item is _MISSING else item for item in items)
    return saved


def loadable(optimizer: Any, state: Any) -> Any:
    """An optimizer's ``state``, without what PyTorch would rebuild as something else: :func:`restore` brings that. PyTorch
    moves states to their parameters' devices, and settings nowhere."""
    if not _is_loaded_by_torch(optimizer) or not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        return state
    plain = {
        number: {key: value for key, value in values.items() if _is_plain(value)} if isinstance(values, dict) else values
        for number, values in state["state"].items()
    }
    groups, mine = state.get("param_groups") or [], optimizer.param_groups
    if len(groups) == len(mine):
        groups = [_where_they_are(group, own) for group, own in zip(groups, mine, strict=True)]
    return {**state, "state": plain, "param_groups": groups}


def _where_they_are(group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A group's settings, of which tensors (a learning rate for ``capturable=True``) go to where the optimizer has them."""
    return {
        name: value.to(own[name].device) if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) else value
        for name, value in group.items()
    }


def restore(optimizer: Any, state: Any, dtypes: Mapping[str, Any], module: nn.Module) -> None:
    """After PyTorch loaded what :func:`loadable` left of ``state``: bring the rest, and numbers of another kind than their
    parameter's, which PyTorch makes its parameter's. ``dtypes`` are the parameters' when the state was taken."""
    if not _is_loaded_by_torch(optimizer) or not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        return
    names = names_of(module)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        values = state["state"].get(number)
        if not isinstance(values, dict) or parameter not in optimizer.state:
            continue
        then, loaded = dtypes.get(names.get(id(parameter), "")), optimizer.state[parameter]

        def here(tensor: Tensor, parameter: Any = parameter) -> Tensor:
            return tensor.to(parameter.device)

        optimizer.state[parameter] = {  # in the order in which they were
            key: _as_it_was(value, loaded.get(key), then) if _is_plain(value) else tree_map(value, Tensor, here)
            for key, value in values.items()
        }


def _as_it_was(value: Any, loaded: Any, then: Any) -> Any:
    """What was loaded, in the saved number format unless that was the parameter's."""
    if isinstance(value, Tensor) and isinstance(loaded, Tensor) and then is not None and value.dtype not in (loaded.dtype, then):
        if hasattr(loaded, "placements"):
            return loaded.to(value.dtype)  # a shard, of which the value is the whole
        return value.to(loaded.device)
    return loaded


def _is_loaded_by_torch(optimizer: Any) -> bool:
    return isinstance(optimizer, Optimizer) and type(optimizer).load_state_dict is Optimizer.load_state_dict


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Tensor | bool | int | float)
