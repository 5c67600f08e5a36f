"""A hook of the user's that exchanges gradients in DistributedDataParallel's place, and what of it a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from leyden.checkpoint.format import is_writable
from leyden.data.generators import generators_in, put_states, states_of
from leyden.data.reachable import own_attributes
from leyden.errors import Unsupported, warn_user
from leyden.tree import tree_map

_MEMORIES = ("error_dict", "p_memory_dict", "q_memory_dict")
_PLAIN = (bool, int, float, str, type(None))


class CommHook:
    """A hook, the wrapper around it, and the ``state`` that it is called with.

    A checkpoint holds what ``state.state_dict()`` returns where there is that method and ``load_state_dict``. Else it holds the
    attributes (or of a dict the items) that a file can hold, but for settings, which are as the constructor made them.
    """

    def __init__(self, state: Any, hook: Callable[..., Any] | None, wrapper: Callable[..., Any] | None) -> None:
        self.state, self.hook, self.wrapper = state, hook, wrapper
        self._settings = {name: value for name, value in _attributes(state) if type(value) in _PLAIN}
        self._told = False
        if hook is None and (state is not None or wrapper is not None):
            unused = " and ".join(
                name for name, given in (("ddp_comm_state", state), ("ddp_comm_wrapper", wrapper)) if given is not None
            )
            warn_user(f"{unused} does nothing without ddp_comm_hook: gradients are exchanged as they are without it.")

    def __getstate__(self) -> dict[str, Any]:
        attributes = {name: value for name, value in _attributes(self.state) if not _is_group(value)}
        travelling = (type(self.state), attributes) if hasattr(self.state, "__slots__") else None
        return {**self.__dict__, "state": self.state if travelling is None else None, "_travelling": travelling}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        travelling = kept.pop("_travelling")
        self.__dict__.update(kept)
        if travelling is not None:  # torch's own ask for a process group as soon as they arrive
            kind, attributes = travelling
            self.state = kind.__new__(kind)
            for name in kind.__slots__:
                setattr(self.state, name, attributes.get(name))

    def register(self, wrapped: DistributedDataParallel, goes_on: bool) -> None:
        """Let ``wrapped`` exchange by the hook. What the hook remembers of buckets that were is forgotten unless ``goes_on``."""
        if self.hook is None:
            return
        if not goes_on and all(hasattr(self.state, memory) for memory in _MEMORIES):
            self.state.iter = 0
            for memory in _MEMORIES:
                getattr(self.state, memory).clear()
        hook = self.hook if self.wrapper is None else self.wrapper(self.hook)
        try:
            wrapped.register_comm_hook(self.state, _unquoted(hook))
        except (TypeError, ValueError, KeyError) as error:
            name = getattr(self.hook, "__name__", type(self.hook).__name__)
            raise Unsupported(
                f"ddp_comm_hook={name} cannot exchange gradients: {str(error).rstrip('.')}. It is called with ddp_comm_state "
                f"and `bucket` (a torch.distributed.GradBucket), and returns a future of the bucket's gradients."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        state = self.state
        if self.hook is None or state is None or _is_group(state):
            return {}
        if _speaks(state):
            return {"own": state.state_dict()}
        written = {name: value for name, value in self._values() if is_writable(value)}
        return {"values": written, "generators": states_of(generators_in(state))}

    def note_save(self) -> None:
        """A checkpoint is being saved: say, once, what of the state it has no room for."""
        if self.hook is None or self._told or _speaks(self.state):
            return
        lost = [name for name, value in self._values() if not is_writable(value) and not generators_in([value])]
        if lost:
            self._told = True
            warn_user(
                f"ddp_comm_state.{', .'.join(lost)} cannot be written to a checkpoint: a run that goes on from it has what the "
                f"constructor makes. Give {type(self.state).__name__} state_dict() and load_state_dict()."
            )

    def _values(self) -> Iterator[tuple[str, Any]]:
        """What of the state is no setting."""
        for name, value in _attributes(self.state):
            if not _is_setting(value, self._settings.get(name, _NONE)):
                yield name, value

    def load_state_dict(self, kept: Mapping[str, Any], device: torch.device) -> None:
        state = self.state
        if not kept or state is None:
            return
        values = tree_map(kept.get("own") or kept.get("values") or {}, Tensor, lambda tensor: tensor.to(device))
        if "own" in kept:
            if _speaks(state):
                state.load_state_dict(values)
            return
        for name, value in values.items():
            if isinstance(state, dict):
                state[name] = value
            else:
                setattr(state, name, value)
        put_states(generators_in(state), kept.get("generators", {}))


def alike_on_all(kept: Sequence[Any]) -> tuple[Any, list[str]]:
    """What of the states ``kept`` by several processes is the same for all of them, and the names of the rest."""
    first, rest = kept[0], kept[1:]
    if not isinstance(first, Mapping):
        return (first, []) if all(_same(first, each) for each in rest) else (None, [])
    found, others = {}, []
    for name, value in first.items():
        theirs = [each.get(name) if isinstance(each, Mapping) else None for each in rest]
        if all(_same(value, each) for each in theirs):
            found[name] = value
        elif name in ("hook", "values"):
            found[name], more = alike_on_all([value, *theirs])
            others += more
        else:
            others.append(name)
    return found, others


_NONE = object()


def _unquoted(hook: Callable[..., Any]) -> Callable[..., Any]:
    """``hook``, without the annotations of a file that has ``from __future__ import annotations``: torch takes them for wrong."""
    if not any(isinstance(each, str) for each in getattr(hook, "__annotations__", {}).values()):
        return hook

    def exchange(state, bucket):  # type: ignore[no-untyped-def]  # torch looks at what stands here
        return hook(state, bucket)

    exchange.__name__ = hook.__name__
    return exchange


def _speaks(state: Any) -> bool:
    return callable(getattr(state, "state_dict", None)) and callable(getattr(state, "load_state_dict", None))


def _attributes(state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        yield from ((name, value) for name, value in state.items() if type(name) in _PLAIN)
        return
    for cls in type(state).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(state, name):
                yield name, getattr(state, name)
    if not _is_group(state):
        yield from own_attributes(state).items()


def _is_group(value: Any) -> bool:
    return isinstance(value, dist.ProcessGroup)


def _is_setting(value: Any, begun: Any) -> bool:
    return _is_group(value) or callable(value) or (type(value) in _PLAIN and type(begun) is type(value) and begun == value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(each, other[name]) for name, each in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if hasattr(one, "tobytes"):
        return hasattr(other, "tobytes") and bool(one.tobytes() == other.tobytes())
    return type(one) is type(other) and bool(one == other)
