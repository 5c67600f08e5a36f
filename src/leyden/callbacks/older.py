"""The callbacks' arguments of older Lightnings: what each is today."""

import os
import re
from collections.abc import Mapping
from typing import Any

from leyden.checked import check_bool, check_count
from leyden.errors import ConflictingOptions, InvalidType, LeydenWarning, warn_user
from leyden.former import FormerCallbackHooks, FormerHooks
from leyden.former_names import OlderName
from leyden.notices import notice
from leyden.spelling import arguments_of, unknown_argument

_CHECKPOINT = {
    "filepath": "dirpath and filename",
    "prefix": "part of filename",
    "period": "every_n_epochs",
    "save_best_only": "save_top_k=1, or -1 for all",
    "every_n_val_epochs": "every_n_epochs",
}


def checkpoint_arguments(cls: type, legacy: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``given``, arguments of today of ``cls``, ModelCheckpoint, with what was passed under the old names.

    Raises :class:`UnknownName` for a name of neither, and :class:`ConflictingOptions` where both were passed.
    """
    for name in legacy:
        if name not in _CHECKPOINT:
            raise unknown_argument(cls.__name__, name, arguments_of(cls), _CHECKPOINT)
        notice(f"ModelCheckpoint({name}=...)", _CHECKPOINT[name])
    found = dict(given)
    filepath = legacy.get("filepath")
    if filepath is None and given["filename"] is None and _is_filepath(given["dirpath"]):
        filepath, found["dirpath"] = given["dirpath"], None  # 0.7's first argument
        given = {**given, "dirpath": None}
        notice("ModelCheckpoint(filepath)", _CHECKPOINT["filepath"])
    if filepath is not None:
        if not isinstance(filepath, str | os.PathLike):
            raise InvalidType("filepath", filepath, "a folder, or a folder and a name such as 'ck/{epoch}-{val_loss:.2f}'")
        _refuse_both("filepath", given, "dirpath", "filename")
        text = os.fspath(filepath)
        folder, name = (text, "") if os.path.isdir(text) else os.path.split(text)
        found.update(dirpath=folder or ".", filename=name or "{epoch}")
    prefix = legacy.get("prefix")
    if prefix:
        if not isinstance(prefix, str):
            raise InvalidType("prefix", prefix, "text that the files' names begin with")
        found["filename"] = prefix + (found["filename"] or "{epoch}-{step}")
    for name in ("period", "every_n_val_epochs"):
        if legacy.get(name) is not None:
            _refuse_both(name, given, "every_n_epochs")
            found["every_n_epochs"] = check_count(name, legacy[name], 1, "a number of epochs >= 1")
    if legacy.get("save_best_only") is not None:
        found["save_top_k"] = 1 if check_bool("save_best_only", legacy["save_best_only"]) else -1
    # 0.7 had True and False too
    if isinstance(found["save_top_k"], bool):
        found["save_top_k"] = int(found["save_top_k"])
    found["mode"] = read_mode(found["mode"], found["monitor"])
    return found


def _is_filepath(dirpath: Any) -> bool:
    """Whether the last part of a path is a pattern of names, which no folder is called."""
    return isinstance(dirpath, str | os.PathLike) and re.search(r"{\w+.*}", os.path.basename(os.fspath(dirpath))) is not None


def read_mode(mode: Any, monitor: Any) -> Any:
    """``"auto"``, which went by the metric's name, as ``"min"`` or ``"max"``; any other mode as it is."""
    if mode != "auto":
        return mode
    name = monitor if isinstance(monitor, str) else ""
    meant = "max" if "acc" in name or name.startswith("fmeasure") else "min"
    notice("mode='auto'", f"mode={meant!r} for {name or 'the validation loss'}")
    return meant


def _refuse_both(old: str, given: Mapping[str, Any], *today: str) -> None:
    both = [name for name in today if given[name] is not None]
    if both:
        raise ConflictingOptions(f"{old}= and {both[0]}= were both passed, and mean the same. Leave {old} out.")


def older_hooks(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``given`` that are no ``None``: functions for hooks that a callback had in older Lightnings.

    Raises :class:`UnknownName` for one that it never had.
    """
    known = {name for kind in (FormerHooks, FormerCallbackHooks) for name in vars(kind) if name.startswith("on_")}
    for name in given:
        if name not in known:
            raise unknown_argument(cls.__name__, name, arguments_of(cls))
    return {name: function for name, function in given.items() if function is not None}


class FormerCheckpointNames:
    """What ModelCheckpoint's attributes were called before."""

    _given_dirpath: str | None
    best = OlderName("best_model_score")
    kth_best_model = OlderName("kth_best_model_path")


_NOT_CALLED = frozenset(
    (
        *("_update_best_and_save", "_save_topk_checkpoint", "_save_monitor_checkpoint", "_save_none_monitor_checkpoint"),
        *("_save_last_checkpoint", "_link_checkpoint", "_should_remove_checkpoint", "_format_checkpoint_name"),
        "_get_metric_interpolated_filepath_name",
    )
)
"""Lightning's own methods of ModelCheckpoint, which published subclasses override: choosing and writing are apart here."""


def say_not_called(cls: type) -> None:
    """Warn of methods in ``cls``, a ModelCheckpoint, that Lightning's would call and nobody calls here."""
    found = sorted({name for base in cls.__mro__ for name in vars(base) if name in _NOT_CALLED})
    if found:
        names = ", ".join(found)
        warn_user(
            f"{cls.__name__} overrides {names}, which nothing calls here. Override _save_checkpoint(trainer, filepath) to write "
            "in your own way, _remove_checkpoint(trainer, filepath) to remove.",
            LeydenWarning,
        )
