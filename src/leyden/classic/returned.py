"""The dicts that steps and epoch ends return: 2020's ``log`` and ``progress_bar``, and scalars where nobody logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from leyden.errors import AmbiguousBatchSize, PossibleUserWarning, UnknownName
from leyden.metrics.metrics import AskedLog
from leyden.module import LightningModule
from leyden.resembling import one_edit_apart
from leyden.state.run import Run

RETURNED = ("loss", "log", "logs", "progress_bar", "hiddens")
NESTED = ("progress_bar", "logs", "log")  # the last one's value counts

_BAR_AND_LOGGER: AskedLog = (True, None, None, None, "mean", True, False, False)
_BAR: AskedLog = (True, False, None, None, "mean", True, False, False)
_NEITHER: AskedLog = (False, False, None, None, "mean", True, False, False)


@dataclass
class Told:
    """Scalars of a returned dict."""

    shown: dict[str, tuple[Any, AskedLog]]
    """What stood in ``log`` and ``progress_bar``, and how it is to be logged."""
    plain: dict[str, Any]
    """What stood beside them: for callbacks."""


def tell(outputs: Mapping[Any, Any]) -> Told:
    """0.7.1's rule: ``log`` goes to the logger (and, as its readers were told, to the bar), ``progress_bar`` to the bar;
    callbacks see these and every scalar beside them."""
    shown: dict[str, tuple[Any, AskedLog]] = {}
    for key in NESTED:
        values = outputs.get(key)
        if isinstance(values, Mapping):
            asked = _BAR if key == "progress_bar" else _BAR_AND_LOGGER
            shown.update({name: (value, asked) for name, value in values.items() if _is_single(value)})
    plain = {name: value for name, value in outputs.items() if isinstance(name, str) and name not in shown and _is_scalar(value)}
    return Told(shown, plain)


def log_epoch_end(run: Run, outputs: Mapping[str, Any], returned_before: set[str]) -> None:
    """Log what an epoch end returned, but for what the module has logged by :meth:`self.log` in it or in the steps.

    ``returned_before`` are the names that were logged because the steps returned them; these join them.
    """
    told = tell(outputs)
    own = {name for _, name in run.leyden_metrics.names()} - returned_before
    for name, (value, asked) in {**told.shown, **{name: (value, _NEITHER) for name, value in told.plain.items()}}.items():
        if name not in own:
            returned_before.add(name)
            run.leyden_metrics.log(name, value, asked, None)


def _is_single(value: Any) -> bool:
    """Whether ``value`` is one number, whatever its shape: ``log`` says that it is to be logged."""
    return value.numel() == 1 if isinstance(value, Tensor) else _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    """Whether ``value`` is a number. A prediction of shape ``(1,)`` for a batch of one is none."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "shape", None) == ())


class Reader:
    """Reads what the steps of a module return, where that is a dict."""

    def __init__(self, run: Run, module: LightningModule, collected: set[str], returned: dict[str, set[str]]) -> None:
        self.run = run
        self.name = type(module).__name__
        self.collected = collected  # the stages whose epoch end gets the dicts
        self._checked: set[tuple[str, Any]] = set()
        self._returned = run.leyden_metrics.returned = returned
        self._left_alone: set[str] = set()  # stages in which the module logs by itself

    def read(self, stage: str, outputs: Any) -> Any:
        """Publish what the dict asks for; returns it unchanged."""
        if not isinstance(outputs, Mapping):
            return outputs
        for key in outputs:
            if (stage, key) not in self._checked:
                self._refuse_misspelt(stage, key, outputs)
        if stage == "train":
            self._read_training(outputs)
        elif stage not in self.collected and stage not in self._left_alone:
            self._read_evaluation(stage, outputs)
        return outputs

    def _read_training(self, outputs: Mapping[str, Any]) -> None:
        told = tell(outputs)
        metrics = self.run.leyden_metrics
        if told.shown:
            returned = self._returned.setdefault("train", set())
            own = {name for _, name in metrics.names()} - returned  # what the module logs by itself counts
            for name, (value, asked) in told.shown.items():
                if name not in own:
                    returned.add(name)
                    metrics.log(name, value, asked, None)
        plain = {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in told.plain.items()}
        if any(key in outputs for key in NESTED):
            metrics.publish(plain)
            return
        own = {name for _, name in metrics.names()}  # where the module logs a name, that counts
        metrics.offer({name: value for name, value in plain.items() if name not in own})

    def _read_evaluation(self, stage: str, outputs: Mapping[str, Any]) -> None:
        """Without an epoch end every scalar is averaged, weighted by batch size; where the module logs, that counts alone."""
        metrics = self.run.leyden_metrics
        returned = self._returned.setdefault(stage, set())
        if {name for _, name in metrics.names()} - returned:
            self._left_alone.add(stage)
            return
        told = tell(outputs)
        returned.update(told.shown, told.plain)
        try:
            for name, (value, asked) in told.shown.items():
                metrics.log(name, value, asked, None)
            for name, value in told.plain.items():
                metrics.log(name, value, _NEITHER, None)
        except AmbiguousBatchSize:
            self._left_alone.add(stage)
            self.run.leyden_warn(
                f"A step of {self.name} returned {', '.join([*told.shown, *told.plain])}, and the batch does not tell its size, "
                f"so there is no exact mean. Log them: self.log(name, value, batch_size=...).",
                PossibleUserWarning,
            )

    def _refuse_misspelt(self, stage: str, key: Any, outputs: Mapping[Any, Any]) -> None:
        self._checked.add((stage, key))
        if key in RETURNED or not isinstance(key, str):
            return
        near = next((name for name in RETURNED if one_edit_apart(key, name)), None)
        if near is None:
            return
        if isinstance(outputs[key], Mapping) or (near == "loss" and stage == "train" and "loss" not in outputs):
            raise UnknownName(
                f"A step of {self.name} returned a dict with the key {key!r}, which means nothing. Did you mean {near!r}?"
            )
