"""Where a learning rate or a batch size stands: attributes of module and datamodule, and their hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from leyden.datamodule import LightningDataModule
from leyden.errors import UnknownName, did_you_mean
from leyden.module import LightningModule

_ABSENT = object()
LEARNING_RATES = ("lr", "learning_rate")
"""What a learning rate is called where nobody says its name; the first that is there."""


class Holders:
    """All that has a value named ``name``: the module, its ``hparams``, the datamodule, its ``hparams``, in this order.

    The last one's value is what is read; all of them are set.
    """

    def __init__(self, name: str, module: LightningModule, datamodule: LightningDataModule | None) -> None:
        self.name = name
        self._held: list[Any] = []
        for owner in (module, datamodule):
            if owner is None:
                continue
            if hasattr(owner, name):
                self._held.append(owner)
            if _read(owner.hparams, name) is not _ABSENT:
                self._held.append(owner.hparams)
        self.is_twice = hasattr(module, name) and _read(module.hparams, name) is not _ABSENT
        """Whether the module has it as an attribute and among its hyper-parameters too."""

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def value(self) -> Any:
        return _read(self._held[-1], self.name)

    @property
    def values(self) -> list[Any]:
        """Each holder's."""
        return [_read(each, self.name) for each in self._held]

    def set(self, value: Any) -> None:
        """Set it everywhere."""
        self.put([value] * len(self._held))

    def put(self, values: list[Any]) -> None:
        """Set what :attr:`values` returned."""
        for each, value in zip(self._held, values, strict=True):
            if isinstance(each, MutableMapping):
                each[self.name] = value
            else:
                setattr(each, self.name, value)


def _read(held: Any, name: str) -> Any:
    """A hyper-parameter may be called like a method of a dict, so items count there."""
    if isinstance(held, Mapping):
        return held.get(name, _ABSENT)
    return getattr(held, name, _ABSENT)


def learning_rate_of(module: LightningModule, datamodule: LightningDataModule | None, name: str, argument: str) -> Holders:
    """Where the learning rate stands; raises :class:`UnknownName` where it is nowhere."""
    for each in (name,) if name else LEARNING_RATES:
        holders = Holders(each, module, datamodule)
        if holders:
            return holders
    whose = type(module).__name__
    if name:
        raise UnknownName(
            f"{argument}={name!r} names nothing that {whose} or its datamodule has, as an attribute or in hparams."
            f"{did_you_mean(name, _names(module, datamodule))}"
        )
    raise UnknownName(
        f"{whose} has no learning rate to set: neither it nor its hparams (nor the datamodule) have 'lr' or 'learning_rate'. Set "
        f"self.lr in its __init__ and use it in configure_optimizers, name the attribute with attr_name=..., or pass "
        f"update_attr=False to look only."
    )


def batch_size_of(module: LightningModule, datamodule: LightningDataModule | None, name: str) -> Holders:
    """Where the batch size stands; raises :class:`UnknownName` where it is nowhere."""
    holders = Holders(name, module, datamodule)
    if not holders:
        raise UnknownName(
            f"There is no batch size to set: neither {type(module).__name__} nor its datamodule have {name!r}, as an attribute "
            f"or in hparams.{did_you_mean(name, _names(module, datamodule))} Set self.{name} and make the loader with it, or "
            f"name the attribute with batch_arg_name=..."
        )
    return holders


def _names(module: LightningModule, datamodule: LightningDataModule | None) -> list[str]:
    names: list[str] = []
    for owner in (module, datamodule):
        if owner is not None:
            hparams: Any = owner.hparams
            names += [*vars(owner), *(hparams if isinstance(hparams, Mapping) else vars(hparams))]
    return [name for name in names if not name.startswith("_") and name != "training"]
