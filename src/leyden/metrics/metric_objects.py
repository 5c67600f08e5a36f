"""torchmetrics objects that several stages or loaders use: each finds its own state in them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from leyden.checkpoint.plain_names import plain_name
from leyden.data.reachable import reachable
from leyden.errors import LeydenWarning, warn_user
from leyden.tree import tree_map


class _HoldsMetrics(Protocol):
    def metrics(self) -> Iterator[Any]: ...


def state_of(part: Any) -> dict[str, Any]:
    """What one metric (not those inside it) has counted."""
    return {
        "states": {name: getattr(part, name) for name in part._defaults},
        "updates": part._update_count,
        "forward": getattr(part, "_forward_cache", None),
    }


def put_state(part: Any, state: Mapping[str, Any]) -> None:
    """Give one metric what :func:`state_of` took, on the metric's device. What was computed of it is computed again."""
    device = getattr(part, "device", None)

    def here(tensor: Tensor) -> Tensor:
        return tensor if device is None else tensor.to(device)

    for name, value in state["states"].items():
        stays = isinstance(value, list) and getattr(part, "compute_on_cpu", False)  # such a metric keeps its lists there
        setattr(part, name, [each.cpu() for each in value] if stays else tree_map(value, Tensor, here))
    updates = state["updates"]
    for count, more in enumerate(state.get("more", ()), 2):  # of processes that are not there any more
        if more["updates"]:
            _merge(part, tree_map(more["states"], Tensor, here), count if updates else 1)
            updates += more["updates"]
    part._update_count, part._forward_cache = updates, tree_map(state["forward"], Tensor, here)
    part._computed = None


def _merge(part: Any, states: Mapping[str, Any], count: int) -> None:
    """Merge what another process counted, the ``count``-th, as torchmetrics merges the states of processes."""
    stacked = [name for name, reduce in part._reductions.items() if reduce is None and not isinstance(states[name], list)]
    if stacked or not hasattr(part, "_reduce_states"):
        warn_user(
            f"The checkpoint is of more processes than there are, and {type(part).__name__} cannot take over what the others "
            f"had counted: its value of the running epoch leaves out their batches. With as many processes it is exact.",
            LeydenWarning,
        )
        return
    part._update_count = count
    part._reduce_states(dict(states))


def is_part(child: Any) -> bool:
    """Whether ``child`` is a metric."""
    return isinstance(getattr(child, "_defaults", None), dict) and hasattr(child, "_update_count")


def children_of(module: torch.nn.Module) -> dict[str, Any]:
    """The modules in ``module`` by name, and by their path the metrics that it holds in plain lists, dicts and objects."""
    found: dict[str, Any] = {plain_name(name): child for name, child in module.named_modules()}
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is not None:
        kinds, known = (torchmetrics.Metric, torchmetrics.MetricCollection), set(map(id, found.values()))
        for path, metric in reachable(module, lambda kind: issubclass(kind, kinds)):
            if id(metric) not in known:
                found.update(metric.named_modules(prefix=path))
    return found


def parts_of(metric: Any) -> list[Any]:
    """A metric and the metrics inside it: wrappers hold others."""
    return [part for part in metric.modules() if is_part(part)]


def used(metric: Any) -> bool:
    """Whether the metric, or one inside it, has counted anything since its last reset."""
    return any(part._update_count for part in parts_of(metric))


def reset(metric: Any) -> None:
    """Reset a metric so that training can use it, too: its states must be no inference tensors."""
    with torch.inference_mode(False):
        metric.reset()


class _Waiting:
    """The state of one metric and of those inside it, out of them."""

    def __init__(self, metric: Any, states: list[dict[str, Any]]) -> None:
        self.metric = metric
        self.parts = list(zip(parts_of(metric), states, strict=True))

    @classmethod
    def taken(cls, metric: Any) -> _Waiting:
        """Take them out, and let the metric start anew."""
        states = []
        for part in parts_of(metric):
            state = {**state_of(part), "computed": part._computed}
            # updates may add in place, and resets empty lists
            with torch.inference_mode(False):
                state["states"] = {
                    name: value.clone() if isinstance(value, Tensor) else list(value) for name, value in state["states"].items()
                }
            states.append(state)
        reset(metric)
        return cls(metric, states)

    def put_back(self) -> None:
        for part, state in self.parts:
            put_state(part, state)
            part._computed = state.get("computed")  # a checkpoint holds none


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """As a checkpoint holds it: what was computed may be anything."""
    return {name: value for name, value in state.items() if name != "computed"}


class SetAside:
    """States of metrics that wait while another stage or loader starts in the same objects anew.

    They are taken when the other's first batch comes. Metrics that it did not touch have theirs back when its batches are
    over, so that hooks find them; a stage's others have theirs back when the stage that came between has been read.
    """

    def __init__(self) -> None:
        self._due: list[Any] = []
        self._of_stage: dict[int, _Waiting] = {}
        self._of_loader: dict[int, _Waiting] = {}
        self.waits = False

    def wait_for(self, collections: Iterable[_HoldsMetrics]) -> None:
        """These collections' metrics are to be taken at the first batch."""
        self._due = [metric for collection in collections for metric in collection.metrics()]
        self.waits = bool(self._due)

    def take(self) -> None:
        """The first batch has come."""
        for metric in self._due:
            if id(metric) not in self._of_stage and used(metric):
                self._of_stage[id(metric)] = _Waiting.taken(metric)
        self._due, self.waits = [], False

    def change_loader(self, metric: Any) -> None:
        """``metric`` may be used by another loader from now on."""
        if used(metric):
            self._of_loader[id(metric)] = _Waiting.taken(metric)

    def put_back_unused(self) -> None:
        """The batches are over: give back the states of metrics that nobody has used since."""
        for waiting in self._of_loader.values():
            if not used(waiting.metric):
                waiting.put_back()
        self._of_loader = {}
        for key, waiting in list(self._of_stage.items()):
            if not used(waiting.metric):
                waiting.put_back()
                del self._of_stage[key]

    def put_back(self) -> None:
        """The stage that came between has been read: give back what the other had."""
        for waiting in self._of_stage.values():
            waiting.put_back()
        self.forget()

    def forget(self) -> None:
        """Drop everything."""
        self._due, self._of_stage, self._of_loader, self.waits = [], {}, {}, False

    def state_of(self, part: Any) -> dict[str, Any] | None:
        """The state of a stage's metric, or of one inside it, that waits here."""
        for waiting in self._of_stage.values():
            for owner, state in waiting.parts:
                if owner is part:
                    return _plain(state)
        return None

    # -- kept across a resume
    def state_dict(self, names: Mapping[int, str]) -> dict[str, Any]:
        """What waits, by the names that metrics (``id(metric)``) have in the module. One without a name is left out."""

        def named(waiting: Mapping[int, _Waiting]) -> dict[str, Any]:
            found = {names[key]: each.parts for key, each in waiting.items() if key in names}
            return {name: [_plain(state) for _, state in parts] for name, parts in found.items()}

        return {
            "due": [names[id(metric)] for metric in self._due if id(metric) in names],
            "of_stage": named(self._of_stage),
            "of_loader": named(self._of_loader),
        }

    def load_state_dict(self, state: Mapping[str, Any], children: Mapping[str, Any]) -> None:
        """Let wait again what :meth:`state_dict` gave; ``children`` are the metrics by name. Unknown names are left out."""

        def waiting(states: Mapping[str, Any]) -> dict[int, _Waiting]:
            return {id(children[name]): _Waiting(children[name], states[name]) for name in states if name in children}

        self._due = [children[name] for name in state["due"] if name in children]
        self.waits = bool(self._due)
        self._of_stage, self._of_loader = waiting(state["of_stage"]), waiting(state["of_loader"])
