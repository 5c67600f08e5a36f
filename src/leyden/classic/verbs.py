"""The verbs' arguments of older Lightnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.classic.arguments import Classic
from leyden.data.combined import CombinedLoader
from leyden.errors import ConflictingOptions, UnknownName, did_you_mean
from leyden.notices import notice

_FIT = ("model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only")
_TEST = ("model", "dataloaders", "ckpt_path", "verbose", "datamodule", "weights_only")
_RENAMED = {"train_dataloader": "train", "val_dataloader": "val", "test_dataloaders": "test", "test_dataloader": "test"}
_TODAY = {"train": "train_dataloaders", "val": "val_dataloaders", "test": "test(dataloaders=...)"}


def fit_loaders(classic: Classic, legacy: dict[str, Any], train: Any, val: Any) -> dict[str, Any]:
    """The loaders of ``fit``, ``train_dataloader=`` and ``test_dataloaders=`` of 0.7 among them.

    The latter are kept for :meth:`Trainer.test`. Raises :class:`UnknownName` and :class:`ConflictingOptions`.
    """
    loaders = {"train": train, "val": val, "test": None}
    for name, value in legacy.items():
        stage = _RENAMED.get(name)
        if stage is None:
            raise UnknownName(f"fit got an unknown argument {name!r}.{did_you_mean(name, _FIT, _RENAMED)}")
        if value is None:
            continue
        if loaders[stage] is not None:
            raise ConflictingOptions(f"fit got {name}= and {_TODAY[stage]} too, and they mean the same. Leave {name} out.")
        loaders[stage] = value
        notice(f"fit({name}=...)", _TODAY[stage])
    classic.test_loaders = loaders["test"]
    if classic.loader_mode is not None and isinstance(loaders["train"], Mapping | list | tuple):
        loaders["train"] = CombinedLoader(loaders["train"], classic.loader_mode)
    return loaders


def test_loaders(classic: Classic, legacy: dict[str, Any], dataloaders: Any, datamodule: Any) -> Any:
    """The loaders of ``test``: ``test_dataloaders=`` of 0.7 among them, also where ``fit`` was given them."""
    for name, value in legacy.items():
        if name not in ("test_dataloaders", "test_dataloader"):
            raise UnknownName(f"test got an unknown argument {name!r}.{did_you_mean(name, _TEST, ['test_dataloaders'])}")
        if value is None:
            continue
        if dataloaders is not None:
            raise ConflictingOptions(f"test got {name}= and dataloaders= too, and they mean the same. Leave {name} out.")
        dataloaders = value
        notice(f"test({name}=...)", "dataloaders")
    return classic.test_loaders if dataloaders is None and datamodule is None else dataloaders


def evaluation_loaders(verb: str, legacy: dict[str, Any], dataloaders: Any) -> Any:
    """The loaders of ``validate`` or ``predict``: ``val_dataloaders=`` of 1.3 among them."""
    own = [*_TEST, "return_predictions"] if verb == "predict" else [*_TEST]
    for name, value in legacy.items():
        if verb != "validate" or name != "val_dataloaders":
            raise UnknownName(f"{verb} got an unknown argument {name!r}.{did_you_mean(name, own)}")
        if value is None:
            continue
        if dataloaders is not None:
            raise ConflictingOptions(f"{verb} got {name}= and dataloaders= too, and they mean the same. Leave {name} out.")
        dataloaders = value
        notice(f"{verb}({name}=...)", "dataloaders")
    return dataloaders
