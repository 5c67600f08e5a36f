"""What a verb was asked for: all that a process has to be given that is started to carry it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leyden.datamodule import LightningDataModule
from leyden.module import LightningModule
from leyden.state.stage import Stage

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Job:
    """The arguments of a verb, read and checked at its door. It is as picklable as what the user passed."""

    module: LightningModule
    loaders: dict[str, Any]
    """What was passed as loaders, by stage."""
    datamodule: LightningDataModule | None
    ckpt_path: Any
    weights_only: bool | None
    stage: Stage | None = None
    """The stage of an evaluation."""
    implicit: bool = False
    """Whether no module and no checkpoint was named, so that the best weights of the last fit are meant."""
    verbose: bool = True
    keep: bool = True
    """Whether predictions are returned."""


class Verb:
    """A verb of a trainer, as a launcher runs it: in this process, or in others that bring back what came of it."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        self.trainer, self.name = trainer, name

    def __call__(self, job: Job) -> Any:
        return getattr(self.trainer, self.name)(job)

    def take_along(self) -> dict[str, Any]:
        """What the process that called the verb has to know of what the first of the others did."""
        trainer = self.trainer
        module = trainer.lightning_module
        return {
            "weights": {name: value.cpu() if hasattr(value, "cpu") else value for name, value in module.state_dict().items()},
            "status": trainer.state.status,
            "interrupted": trainer.interrupted,
            "progress": trainer.leyden_fit.progress,
            "history": trainer.leyden_fit.history,
            "metrics": dict(trainer.callback_metrics),
            "logged": dict(trainer.logged_metrics),
            "callbacks": [callback.state_dict() for callback in trainer.callbacks],
            "ckpt_path": trainer.ckpt_path,
        }

    def bring_back(self, brought: dict[str, Any], job: Job) -> None:
        """The trainer and the module of this process become as those of the first process are."""
        trainer, progress = self.trainer, brought["progress"]
        trainer.leyden_begin(job.module, job.datamodule)
        job.module.load_state_dict(brought["weights"])
        trainer.state.status, trainer.interrupted = brought["status"], brought["interrupted"]
        trainer.leyden_fit.progress, trainer.leyden_fit.history = progress, brought["history"]
        trainer.ckpt_path = brought["ckpt_path"]
        trainer.leyden_metrics.publish(brought["metrics"])
        trainer.leyden_metrics.publish(brought["logged"], callback=False, logged=True)
        for callback, state in zip(trainer.callbacks, brought["callbacks"], strict=False):
            callback.load_state_dict(state)
