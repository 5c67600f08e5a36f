"""``training_step(self, dataloader_iter)``: a step that takes its batch out of an iterator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import Self

from leyden.errors import InvalidReturn, Unsupported
from leyden.module import LightningModule
from leyden.state.run import Run

Step = Callable[..., Any]
_NAME = "dataloader_iter"


class BatchIterator:
    """The step's batch, once: ``(batch, batch_idx, dataloader_idx)``. It is on its device already."""

    def __init__(self, run: Run, step: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.fetched = batch_idx
        """How many batches of the loader were taken out."""
        self._run, self._step, self._given = run, step, [(batch, batch_idx, dataloader_idx)]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, int, int]:
        """Raises :class:`leyden.errors.Unsupported` when a second batch is asked for."""
        if not self._given:
            raise Unsupported(
                f"{self._step} asked dataloader_iter for a second batch. A step is given one: call next(dataloader_iter) once. "
                f"For more of them, make larger batches, or pass Trainer(accumulate_grad_batches=...)."
            )
        self.fetched += 1
        return self._given.pop()

    @property
    def done(self) -> bool:
        """Whether the loader's last batch was taken out."""
        return not self._given and self._run.leyden_fit.flight.is_last


def steps_with_iterators(run: Run, module: LightningModule, steps: Mapping[str, Step]) -> dict[str, Step]:
    """The steps of ``module`` that take an iterator, as they can be called with a batch; ``steps`` are those found before.

    Raises :class:`leyden.errors.InvalidReturn` where one requires more than that.
    """
    found: dict[str, Step] = {}
    for name in ("training_step", "validation_step", "test_step", "predict_step"):
        method = steps.get(name, getattr(module, name))
        if not callable(method):
            continue
        parameters = inspect.signature(method).parameters
        if _NAME not in parameters:
            continue
        required = [each.name for each in parameters.values() if each.default is each.empty and each.kind < each.VAR_POSITIONAL]
        if required != [_NAME]:
            raise InvalidReturn(
                f"{type(module).__name__}.{name}({', '.join(parameters)}) takes dataloader_iter and more. Take it alone, as "
                f"{name}(self, dataloader_iter), or take (self, batch, batch_idx)."
            )
        found[name] = _with_iterator(run, name, method)
    return found


def _with_iterator(run: Run, name: str, method: Step) -> Step:
    def step(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return method(BatchIterator(run, name, batch, batch_idx, dataloader_idx))

    return step
