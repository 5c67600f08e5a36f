"""What the parts of a checkpoint must be made of: a file whose bytes are sound may still say nonsense."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leyden.checkpoint.format import Unwritable
from leyden.checkpoint.places import unmarked
from leyden.errors import CheckpointDamaged, CheckpointMismatch, LeydenError

Path = tuple[Any, ...]
Form = Callable[[Any, Path], "str | None"]
"""Says what is wrong with a value, or ``None``."""

_NUMBER = (int, float, bool)


@contextmanager
def usable(file: str | None, part: str) -> Iterator[None]:
    """Whatever our own code raises inside, over what it was given, is an error that names the ``file`` and its ``part``."""
    try:
        yield
    except LeydenError as error:
        if file is None or file in str(error):
            raise
        raise CheckpointMismatch(f"The part {part!r} of {file} does not fit: {error}") from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        text = next(iter(str(error).splitlines()), "")
        raise CheckpointDamaged(
            f"The part {part!r} of {file} cannot be used ({type(error).__name__}: {text}). It is not as it was written, or was "
            f"written in a run of another make. Take another checkpoint."
        ) from error


def check_forms(checkpoint: Mapping[str, Any], file: str) -> None:
    """Raise :class:`CheckpointDamaged` where a part that leyden wrote is not made of what it is always made of."""
    for name, form in _FORMS.items():
        if name in checkpoint:
            wrong = form(checkpoint[name], (name,))
            if wrong is not None:
                raise CheckpointDamaged(
                    f"The checkpoint {file!r} is damaged: {wrong}. Take another checkpoint, or a copy of this one."
                )


# -- what forms are made of
def _of(test: Callable[[Any], bool], expected: str) -> Form:
    def form(value: Any, path: Path) -> str | None:
        try:
            if test(value):
                return None
        except Exception:  # a value that cannot even be asked
            pass
        shown = repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
        return f"its {'.'.join(map(str, path))} is {shown[:60]}, expected {expected}"

    return form


def _maybe(form: Form) -> Form:
    return lambda value, path: None if value is None else form(value, path)


def _each(form: Form) -> Form:
    def of_each(value: Any, path: Path) -> str | None:
        if not isinstance(value, list | tuple):
            return _LIST(value, path)
        return next(filter(None, (form(item, (*path, index)) for index, item in enumerate(value))), None)

    return of_each


def _named(form: Form, keys: type = str) -> Form:
    def of_named(value: Any, path: Path) -> str | None:
        if not isinstance(value, Mapping) or not all(isinstance(key, keys) for key in value):
            return _DICT(value, path) or f"its {'.'.join(map(str, path))} has keys that are no names"
        return next(filter(None, (form(item, (*path, key)) for key, item in value.items())), None)

    return of_named


def _with(**forms: Form) -> Form:
    """A dict with these keys, and perhaps others. One that ends in ``_`` may be missing."""

    def of_keys(value: Any, path: Path) -> str | None:
        if not isinstance(value, Mapping):
            return _DICT(value, path)
        for name, form in forms.items():
            key = name.rstrip("_")
            if key not in value:
                if name.endswith("_"):
                    continue
                return f"its {'.'.join(map(str, path))} lacks {key!r}"
            wrong = form(value[key], (*path, key))
            if wrong is not None:
                return wrong
        return None

    return of_keys


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


_ANY: Form = lambda value, path: None  # noqa: E731  # as the others are
_LIST = _of(lambda value: isinstance(value, list | tuple), "a list")
_DICT = _of(lambda value: isinstance(value, Mapping), "names and values")
_COUNT = _of(_is_count, "a count")
_BOOL = _of(lambda value: type(value) is bool, "true or false")
_FLAG = _of(lambda value: type(value) is bool or value in (0, 1), "true or false")
_TEXT = _of(lambda value: type(value) is str, "a text")
_FLOAT = _of(lambda value: type(value) in (int, float), "a number")
_TENSOR = _of(lambda value: isinstance(value, Tensor), "a tensor")
_SCALAR = _of(lambda value: isinstance(value, Tensor) and value.numel() == 1, "a tensor of one element")


# -- random generators
def _sets(value: Any) -> bool:
    random.Random().setstate((value["version"], tuple(value["words"].tolist()), value["gauss"]))
    return True


def _sets_numpy(value: Any) -> bool:
    np.random.RandomState().set_state(value)
    return True


def _sets_torch(value: Any) -> bool:
    torch.Generator().set_state(value)
    return True


def _sets_own(value: Any) -> bool:
    """The state of a generator that somebody owns: torch's, NumPy's or Python's."""
    if isinstance(value, Tensor):
        return value.dtype == torch.uint8 and value.dim() == 1
    if type(value) is int:  # how many points of a Sobol sequence were drawn
        return value >= 0
    if isinstance(value, Mapping):
        getattr(np.random, value["bit_generator"])().state = value
        return True
    version, words, gauss = value
    return _sets({"version": version, "words": words, "gauss": gauss})


_OWN = _named(_of(_sets_own, "the state of a random generator"))
_RANDOM = _with(
    python=_of(_sets, "the state of Python's generator"),
    numpy=_of(_sets_numpy, "the state of NumPy's generator"),
    torch=_of(_sets_torch, "the state of torch's generator"),
    cuda_=_each(_TENSOR),
    cuda_at_=_COUNT,
    mps_=_TENSOR,
)


# -- where the data is
def _draws(value: Any, path: Path) -> str | None:
    return _with(random_=_maybe(_RANDOM), generators_=_maybe(_OWN), epoch_=_maybe(_COUNT), continued_=_BOOL)(value, path)


_LEAF = _with(
    opened_=_maybe(lambda value, path: _draws(value, path) or _with(first_=_maybe(_draws), epoch=_COUNT)(value, path)),
    taken_=_COUNT,
    fetched_=_COUNT,
)
_DATA = _maybe(
    _with(
        epoch=_maybe(_COUNT),
        reader_=_COUNT,
        leaves=_each(_maybe(_LEAF)),
        ahead_=_maybe(_with(random_=_maybe(_RANDOM), generators_=_maybe(_ANY))),
    )
)


# -- metrics
_TOTAL = _maybe(
    _with(
        bins_=_each(_of(lambda value: len(value) == 2 and isinstance(value[0], str) and value[1].dtype == torch.int64, "a bin")),
        count_=_COUNT,
        scaled_=_of(lambda value: int(value, 16) is not None, "a number in hexadecimal digits"),
        special_=_FLOAT,
        whole_=_BOOL,
        dtype_=_maybe(_of(lambda value: isinstance(value, torch.dtype), "a type of numbers")),
    )
)
_SWITCH = _of(lambda value: value is None or type(value) is bool, "true, false or None")


def _asked(value: Any, path: Path) -> str | None:
    """The eight arguments of ``self.log``."""
    wrong = _of(lambda value: isinstance(value, list | tuple) and len(value) == 8, "eight arguments of self.log")(value, path)
    if wrong is not None:
        return wrong
    return _each(_SWITCH)([*value[:4], *value[6:]], path) or _of(
        lambda reduce: reduce is None or isinstance(reduce, str | Unwritable) or callable(reduce), "a reduce_fx"
    )(value[4], path)


_ENTRY = _with(
    name=_TEXT, suffix=_TEXT, where=_TEXT, asked=_asked, total_=_TOTAL, loader_=_maybe(_COUNT), touched_=_BOOL, read_=_BOOL
)
_VALUE = _of(lambda value: isinstance(value, _NUMBER) or (isinstance(value, Tensor) and value.numel() == 1), "a number")


def _is_evaluated(value: Any) -> bool:
    return len(value) == 3 and type(hash(tuple(value[:2]))) is int and _is_count(value[2])


_METRICS = _with(
    bar=_named(_VALUE),
    callback=_named(_VALUE),
    logged=_named(_VALUE),
    collections=_named(_each(_ENTRY)),
    evaluated=_each(_of(_is_evaluated, "a name, a loader and a count")),
    running=_maybe(
        _with(
            stage=_maybe(_TEXT),
            loader=_maybe(_COUNT),
            between=_BOOL,
            opened=_maybe(_ANY),
            ran=_each(_of(lambda value: type(hash(value)) is int, "a name or a number")),
            aside_=_maybe(_with(due_=_LIST, of_loader_=_DICT, of_stage_=_DICT)),
        )
    ),
)

_FLIGHT = _maybe(_with(index=_COUNT, is_last=_BOOL, single_=_BOOL))
_EVALUATION = _maybe(
    _with(
        random_=_RANDOM,
        generators_=_named(_OWN),
        modes_=_with(now=_each(_TEXT), before=_each(_TEXT)),
        attributes_=_named(_ANY),
        data_=_DATA,
        carried_=_BOOL,
    )
)
_CONTRIBUTED = lambda value, path: (_each(_COUNT) if type(value) is list else _maybe(_VALUE))(value, path)  # noqa: E731
"""Of one optimizer, or of each of several that take turns."""
_GRADIENTS = lambda value, path: (  # noqa: E731  # as the others are
    None
    if value == {}
    else _with(contributed=_CONTRIBUTED, gradients=_named(_TENSOR), unstepped_=_named(_named(_TENSOR)))(value, path)
)
_HISTORY, _POSITIONS = _each(_with(epoch=_COUNT, step=_COUNT)), _each(_named(_ANY))
_PARTS = {
    "random_": _maybe(_RANDOM),
    "generators_": _named(_OWN),
    "data_": _DATA,
    "losses_": _each(_SCALAR),
    "gradients_": _GRADIENTS,
    "flight_": _FLIGHT,
    "evaluation_": _EVALUATION,
    "metrics_": _METRICS,
    "metric_objects_": _named(_DICT),
}
_PROCESS = _with(
    **_PARTS, inside_=_maybe(_with(**_PARTS, history_=_HISTORY, loggers_=_POSITIONS, callbacks_=_maybe(_named(_DICT))))
)
_COUNTS = ("epoch", "batch", "step", "batches", "window", "stepped_batches", "loader", "evaluated", "told")
_PROGRESS = _with(
    **{f"{name}_": _COUNT for name in _COUNTS},
    done_=_of(lambda value: type(value) is int and 0 <= value <= 99, "a point of training"),
    closed_=_FLAG,
)
_OURS = _maybe(
    _with(
        format_=_COUNT,
        progress_=_PROGRESS,
        stop_=_with(wished=_BOOL, because=_maybe(_TEXT)),
        told_=_maybe(_each(_TEXT)),
        history_=_HISTORY,
        loggers_=_POSITIONS,
        described_=_maybe(_with(dtypes_=_named(_ANY), optimizers_=_each(_DICT), schedulers_=_LIST)),
        processes_=_each(_PROCESS),
    )
)


_STATE_OF_OPTIMIZER = _with(state=_named(_DICT, object), param_groups=_each(_with(params=_LIST)))


def _if_written(form: Form) -> Form:
    return lambda value, path: None if isinstance(value, Unwritable) else form(value, path)


_OPTIMIZERS = _maybe(_each(_maybe(_of(lambda value: isinstance(value, Mapping | Unwritable), "an optimizer's state"))))
_STATES = _maybe(_each(_if_written(_STATE_OF_OPTIMIZER)))
_FORMS: dict[str, Form] = {
    "state_dict": _named(_ANY),
    "epoch": _COUNT,
    "global_step": _COUNT,
    "callbacks": _maybe(_named(_if_written(_DICT))),
    "optimizer_states": lambda value, path: _OPTIMIZERS(value, path) or _STATES(value, path),
    "lr_schedulers": _maybe(_each(_DICT)),
    "leyden": lambda value, path: _OURS(unmarked(value), path),
}


# -- beside what the run has built
def check_alike(file: str | None, part: str, saved: Any, built: Any) -> None:
    """Raise :class:`CheckpointDamaged` where ``saved`` is of another kind than the state that this run ``built``."""
    wrong = _unlike(saved, built, (part,))
    if wrong is not None:
        raise CheckpointDamaged(f"The checkpoint {file!r} is damaged: {wrong}. Take another checkpoint.")


def _unlike(saved: Any, built: Any, path: Path) -> str | None:
    if isinstance(built, bool):
        return _of(lambda value: value is None or value in (0, 1), "true or false")(saved, path)
    if isinstance(built, int | float):
        return _of(lambda value: value is not None and _is_number(value), "a number")(saved, path)
    if isinstance(built, Tensor) and built.numel() == 1:
        return _of(_is_number, "a number")(saved, path)
    if isinstance(built, Mapping):
        if not isinstance(saved, Mapping):
            return _DICT(saved, path)
        return next(filter(None, (_unlike(saved[key], built[key], (*path, key)) for key in built if key in saved)), None)
    if isinstance(built, list | tuple):
        wrong = _LIST(saved, path)
        if wrong is None and len(saved) == len(built):
            wrong = next(
                filter(None, (_unlike(*both, (*path, i)) for i, both in enumerate(zip(saved, built, strict=True)))), None
            )
        return wrong
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) or (isinstance(value, Tensor) and value.numel() == 1) or value is None


_PLAIN_STATES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop", "Rprop", "ASGD")
"""PyTorch's optimizers that keep, of each parameter, numbers and tensors of its own shape."""


_KEPT_WITH = {"momentum_buffer": "momentum", "grad_avg": "centered", "max_exp_avg_sq": "amsgrad"}
"""What is needed of a parameter only where its group has that option, which another group of the optimizer need not have."""


def check_optimizer(file: str | None, optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Raise :class:`CheckpointError` where the first step from ``saved`` would fail in the optimizer itself."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or kind.__name__ not in _PLAIN_STATES:
        return
    name = kind.__name__
    for index, (group, built) in enumerate(zip(saved["param_groups"], optimizer.param_groups, strict=False)):
        known = {key: value for key, value in built.items() if key != "params" and value is not None}
        known |= {key: False for key in ("foreach", "fused") if key in built}  # or None
        check_alike(file, f"{name}.param_groups.{index}", group, known)
        lacks = [
            key for key, value in known.items() if key in optimizer.defaults and key not in group and type(value) is not bool
        ]
        pairs = [key for key in known if isinstance(known[key], tuple) and key in group and len(group[key]) != len(known[key])]
        if lacks or pairs:
            raise CheckpointDamaged(
                f"The checkpoint {file!r} is damaged: {name}'s {(lacks + pairs)[0]!r} is missing or cut short."
            )
    groups = {key: group for group in saved["param_groups"] for key in group["params"]}
    parameters = dict(zip(groups, (each for group in optimizer.param_groups for each in group["params"]), strict=False))
    kept = {key: state for key, state in saved["state"].items() if parameters.get(key) is not None and state}
    names = set().union(*kept.values()) - set(_KEPT_WITH)
    for key, state in kept.items():
        parameter, group = parameters[key], groups[key]
        needed = names.union(each for each, option in _KEPT_WITH.items() if group.get(option))
        odd = sorted(map(str, needed - set(state))) if name != "SGD" else []
        odd += [each for each, value in state.items() if not _fits(each, value, parameter)]
        if odd:
            raise CheckpointMismatch(
                f"An optimizer's state in {file} does not fit: what {name} kept of parameter {key} has no {odd[0]!r}, or not one "
                f"of the parameter's shape {tuple(parameter.shape)}. The file is damaged, or of another module."
            )


def _fits(name: str, value: Any, parameter: Tensor) -> bool:
    if name in ("step", "eta", "mu", "mu_product"):
        return (type(value) in (int, float) or (isinstance(value, Tensor) and value.numel() == 1)) and bool(value >= 0)
    return (isinstance(value, Tensor) and value.shape == parameter.shape) or (value is None and name == "momentum_buffer")
