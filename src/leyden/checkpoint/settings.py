"""Settings come from the command, state comes from the file: which of an optimizer's and a scheduler's values are which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leyden.checkpoint.optimizer_states import add_groups, groups_of, in_order_of, kind_of, names_of
from leyden.errors import CheckpointMismatch

_ABSENT = object()
# Switches that change what a step does and not what an optimizer keeps: they may be set at any time.
_FREE = {"maximize", "foreach", "fused", "capturable", "differentiable", "nesterov", "decoupled_weight_decay"}

_OF_TORCH_2_6 = {"verbose", "anneal_func"}  # what its schedulers keep in their state, and later ones do not


# -- what the command says
def asked_of(optimizers: Sequence[Any], schedulers: Sequence[Any]) -> dict[str, Any]:
    """What configure_optimizers has set, before anything else changes it: of each group, and of each scheduler."""
    return {
        "optimizers": [_options(optimizer) for optimizer in optimizers],
        "schedulers": [_plain(each.state_dict()) if hasattr(each, "state_dict") else {} for each in schedulers],
    }


def _options(optimizer: Any) -> list[Any]:
    return [_plain({key: value for key, value in group.items() if key != "params"}) for group in optimizer.param_groups]


def _plain(value: Any) -> Any:
    """A copy of plain values; others are left out."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        kept = {key: _plain(item) for key, item in value.items()}
        kept = {key: item for key, item in kept.items() if item is not _ABSENT}
        return Counter(kept) if isinstance(value, Counter) else kept  # which counts as one value
    if type(value) in (list, tuple):
        items = [_plain(item) for item in value]
        return _ABSENT if any(item is _ABSENT for item in items) else type(value)(items)
    return value if value is None or isinstance(value, bool | int | float | str) else _ABSENT


# -- what does not fit
RETURNED = "and configure_optimizers returned"


def check_optimizer(optimizer: Any, names: Mapping[int, str], state: Any, described: Mapping[str, Any], file: str) -> None:
    """Raise :class:`CheckpointMismatch` where ``state`` is of another kind of optimizer, or of other groups.

    ``names`` are the parameters' by their id; ``described`` says what the state is of, where the file tells.
    """
    saved = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(saved, list) or not all(isinstance(group, Mapping) for group in saved):
        return
    kind, then = type(optimizer).__name__, described.get("kind")
    if then is not None and then != kind:
        raise CheckpointMismatch(
            f"{file} holds the state of {then}, {RETURNED} {kind}. Return {then} to go on with that run; to train its weights "
            f"with {kind}, use load_from_checkpoint and fit without ckpt_path."
        )
    lacking = sorted({key for group in saved for key in getattr(optimizer, "defaults", {}) if key not in group} - _FREE)
    if then is None and lacking:
        has = sorted({key for group in saved for key in group} - {"params"})
        raise CheckpointMismatch(
            f"{file} holds the state of an optimizer with {', '.join(has)}, {RETURNED} {kind}, which has {', '.join(lacking)}. "
            f"Return the optimizer that the file was written with."
        )
    groups, before = groups_of(optimizer, names), described.get("groups")
    sizes, mine = [len(group.get("params", ())) for group in saved], [len(group) for group in groups]
    pairs = zip(
        _flat(map(sorted, before or [])), _flat(map(sorted, groups)), strict=False
    )  # within a group they were put in order
    # a parameter that has another name today may be the same one; one that stands elsewhere today is not
    if sizes != mine or (before is not None and any(old != new and old in names.values() for old, new in pairs)):
        others = sorted({*_flat(before or groups)} ^ {*_flat(groups)})
        only = f" (in one of them only: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''})" if others else ""
        raise CheckpointMismatch(
            f"{file} holds the state of {kind} with groups of {sizes} parameters, {RETURNED} groups of {mine}"
            f"{only or (', in another order' if sizes == mine else '')}. Return the same groups in the same order to go on."
        )


def _flat(groups: Iterable[Sequence[str]]) -> list[str]:
    return [name for group in groups for name in group]


def check_scheduler(scheduler: Any, state: Any, kind: str | None, file: str) -> None:
    """Raise :class:`CheckpointMismatch` where ``state`` is of another ``kind``: it is never mixed into this scheduler's."""
    now = kind_of(scheduler) if kind is not None and "(" in kind else type(scheduler).__name__  # 0.1.0 did not look inside
    mine = scheduler.state_dict() if hasattr(scheduler, "state_dict") else {}
    what = f"{file} holds the state of {'a learning-rate scheduler' if kind is None else f'the scheduler {kind}'}"
    if kind is not None and kind != now:
        raise CheckpointMismatch(f"{what}, {RETURNED} {now}. Return {kind} to go on with that run.")
    if not isinstance(state, Mapping) or not isinstance(mine, Mapping):
        return
    lacking = sorted(str(key) for key in mine if key not in {*state, *_OF_TORCH_2_6} and not str(key).startswith("_"))
    if kind is None and lacking:
        raise CheckpointMismatch(
            f"{what} without {', '.join(lacking)}, {RETURNED} {now}, which has it. Return the scheduler that the file was "
            f"written with."
        )
    if "mode_worse" in mine and state.get("mode") != mine.get("mode"):
        raise CheckpointMismatch(
            f"{what} with mode={state.get('mode')!r}, {RETURNED} one with mode={mine.get('mode')!r}, where the best value so far "
            f"means nothing. Return the same mode to go on with that run."
        )


# -- the command's settings in the file's state
class Settings:
    """What ``optimizers`` and ``schedulers`` of ``module`` go on with: settings of this command, and state from ``file``.

    Args:
        module, optimizers, schedulers: of this command.
        described: what the states in ``file`` are of, where it tells; ``asked`` in it is what the command before said.
        now: what this command says; see :func:`asked_of`.
        file: its name, for messages.

    Attributes:
        taken: settings that nothing has changed on the way, and this command says otherwise: they count.
        kept: values that this command says otherwise, and training has changed: they go on as they were.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Any],
        schedulers: Sequence[Any],
        described: Mapping[str, Any],
        now: Mapping[str, Any],
        file: str,
    ) -> None:
        self.module, self.names = module, names_of(module)
        self.optimizers, self.schedulers = optimizers, schedulers
        self.described, self.now, self.file = described, now, file
        self.taken: list[str] = []
        self.kept: list[str] = []

    def put_into(self, states: Sequence[Any], schedules: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The states from the file, with this command's settings. Raises :class:`CheckpointMismatch` where they do not fit."""
        file, described = self.file, self.described
        pairs = ((self.optimizers, states, "optimizers"), (self.schedulers, schedules, "learning-rate schedulers"))
        for here, there, what in pairs:
            if len(here) != len(there):
                raise CheckpointMismatch(
                    f"{file} holds the state of {len(there)} {what}, {RETURNED} {len(here)}. Return as many to go on."
                )
        about = described.get("optimizers") or [{} for _ in states]
        kinds = described.get("schedulers") or [None for _ in schedules]
        states = list(states)
        for number, (optimizer, told) in enumerate(zip(self.optimizers, about, strict=True)):
            add_groups(self.module, optimizer, told, states[number])
            states[number] = in_order_of(self.module, optimizer, told, states[number])
            check_optimizer(optimizer, self.names, states[number], told, file)
        for scheduler, state, kind in zip(self.schedulers, schedules, kinds, strict=True):
            check_scheduler(scheduler, state, kind, file)
        then = described.get("asked")
        if not then:
            return list(states), list(schedules)
        options = zip(self.optimizers, states, then["optimizers"], self.now["optimizers"], strict=True)
        # of schedulers that a callback has added nobody asked for anything
        asked = ([*each["schedulers"], *({} for _ in schedules[len(each["schedulers"]) :])] for each in (then, self.now))
        settings = zip(self.schedulers, schedules, *asked, strict=True)
        return (
            [self._with_options(*each) for each in options],
            [self._merged(before, state, now, type(each).__name__) for each, state, before, now in settings],
        )

    def taken_said(self) -> str:
        """What counts from here on, in a sentence."""
        changed = ", ".join(self.taken)
        return (
            changed
            and f"configure_optimizers has other settings than the run in {self.file} began with, and they count: {changed}."
        )

    def kept_said(self) -> str:
        """What does not, in a sentence."""
        if not self.kept:
            return ""
        return (
            f"configure_optimizers has other values than the run in {self.file} began with, and that run has changed them since: "
            f"{', '.join(self.kept)}. It goes on with what it has reached. Set them in on_train_start to have yours."
        )

    def _with_options(self, optimizer: Any, state: Any, then: list[Any], now: list[Any]) -> Any:
        if not isinstance(state, Mapping) or "param_groups" not in state:
            return state
        kind, groups = type(optimizer).__name__, list(state["param_groups"])
        for number, (before, after) in enumerate(zip(then, now, strict=False)):
            for key in before:
                if key in after and not _same(before[key], after[key]):
                    _refuse_more_state(kind, key, before[key], after[key], self.file)
            name = kind if len(groups) == 1 else f"{kind}.param_groups[{number}]"
            groups[number] = self._merged(before, groups[number], after, name)
        return {**state, "param_groups": groups}

    def _merged(self, then: Any, reached: Any, now: Any, name: str) -> Any:
        """``reached``, where ``then`` and ``now`` agree; else ``now``, unless training has changed the value on the way."""
        if then is _ABSENT or now is _ABSENT or _same(then, now):
            return reached
        if type(then) is type(now) is dict and isinstance(reached, Mapping):
            return {
                key: self._merged(then.get(key, _ABSENT), value, now.get(key, _ABSENT), f"{name}.{key}")
                for key, value in reached.items()
            }
        if all(isinstance(each, list | tuple) and len(each) == len(then) for each in (then, now, reached)) and any(
            isinstance(item, list | tuple | dict) for item in reached
        ):
            triples = enumerate(zip(then, reached, now, strict=True))
            return type(reached)(self._merged(*each, f"{name}[{index}]") for index, each in triples)
        said = not name.rsplit(".", 1)[-1].startswith("_")
        if _same(then, reached):
            if said:
                self.taken.append(f"{name} {_shown(then)} -> {_shown(now)}")
            return now
        if said:
            self.kept.append(f"{name} (then {_shown(then)}, reached {_shown(reached)}, now {_shown(now)})")
        return reached


def _refuse_more_state(kind: str, key: str, before: Any, after: Any, file: str) -> None:
    """Another switch, and the optimizer keeps what the file has not."""
    switched, sized = before is False and after is True and key not in _FREE, key == "history_size"
    if switched or sized or (key == "momentum" and kind != "SGD" and before == 0 and after != 0):
        raise CheckpointMismatch(
            f"{file} holds the state of {kind} with {key}={before!r}, {RETURNED} one with {key}={after!r}, which keeps "
            f"{'as many steps' if sized else 'more than the file has'}. Leave {key} as it was to go on with that run."
        )


def _shown(value: Any) -> str:
    shown = repr(value.tolist() if isinstance(value, Tensor) else value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return one.shape == other.shape and torch.equal(one.cpu(), other.cpu())
        return False
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)
