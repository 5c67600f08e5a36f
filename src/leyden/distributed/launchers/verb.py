"""A verb of the Trainer, as a launcher runs it."""

from __future__ import annotations

import signal
from typing import Any

from leyden.distributed.launchers.pickled import error_of
from leyden.errors import TrainingTerminated

_TERMINATE, _INTERRUPT = 1, 2
"""What signals ask for, as the processes tell each other."""


class Verb:
    """A verb of a trainer, as a launcher runs it: in this process, or in others that bring back what came of it."""

    def __init__(self, trainer: Any, name: str) -> None:
        self.trainer, self.name = trainer, name
        self.brings = name != "_search"  # which puts back all that it changed

    def __call__(self, *args: Any) -> Any:
        return getattr(self.trainer, self.name)(*args)

    # -- where this process is: asked by a thread beside the one that trains, which does nothing for it
    def token(self) -> Any:
        trainer = self.trainer
        progress, hooks = trainer.leyden_fit.progress, trainer.leyden_hooks
        here = None if hooks is None else (hooks.where, hooks.told)
        return id(progress), progress.epoch, progress.batches, progress.done, progress.loader, progress.evaluated, here

    def place(self) -> str:
        trainer = self.trainer
        progress, hooks, stage = trainer.leyden_fit.progress, trainer.leyden_hooks, trainer.state.stage
        where = None if hooks is None else hooks.where
        doing = "" if stage is None else f"{stage.value}, "
        index = trainer.leyden_fit.flight.index
        batch = index if progress.in_batch or progress.validating else max(0, progress.batch - 1)
        at = f"{doing}epoch {progress.epoch}, step {progress.step}, batch {batch}"
        return f"{at}, in {where}" if where else at

    def batch(self) -> Any:
        return self.trainer.leyden_fit.flight.batch

    def unheard(self) -> int:
        number = self.trainer.leyden_fit.course.signal
        return 0 if number is None else _INTERRUPT if number == signal.SIGINT else _TERMINATE

    def obeys(self) -> bool:
        return bool(self.trainer.leyden_fit.course.at_safe_place)

    def hear(self, asked: int) -> None:
        if not self.trainer.leyden_fitting:  # there all have agreed
            self._take_up(asked)

    def _take_up(self, asked: int) -> None:
        course = self.trainer.leyden_fit.course
        own = course.signal
        course.note_signal(signal.SIGTERM if asked & _TERMINATE else signal.SIGINT, alone=True)
        course.signal = own  # that one did not arrive here

    def obey(self, asked: int) -> None:
        self._take_up(asked)
        try:
            self.trainer.leyden_raise_if_signalled()
        except TrainingTerminated as error:
            self.trainer.print(str(error))  # an exit with a code is silent
            raise

    def take_along(self) -> dict[str, Any]:
        """What the process that called the verb has to know of what the first of the others did."""
        trainer = self.trainer
        module = trainer.lightning_module
        return {
            "weights": {name: value.cpu() if hasattr(value, "cpu") else value for name, value in module.state_dict().items()},
            "status": trainer.state.status,
            "stop": (trainer.should_stop, trainer.leyden_stop_reason),
            "progress": trainer.leyden_fit.progress,
            "history": trainer.leyden_fit.history,
            "metrics": dict(trainer.callback_metrics),
            "logged": dict(trainer.logged_metrics),
            "bar": dict(trainer.progress_bar_metrics),
            "callbacks": [callback.state_dict() for callback in trainer.callbacks],
            "loggers": [logger if error_of(logger) is None else None for logger in trainer.loggers],
            "ckpt_path": trainer.ckpt_path,
        }

    def bring_back(self, brought: dict[str, Any], job: Any) -> None:
        """The trainer and the module of this process become as those of the first process are."""
        trainer, progress = self.trainer, brought["progress"]
        trainer.leyden_begin(job.module, job.datamodule)
        if job.module.state_dict().keys() != brought["weights"].keys():
            job.module.configure_model()  # its layers were made in there only
        job.module.load_state_dict(brought["weights"])
        trainer.state.status = brought["status"]
        trainer.leyden_fit.progress, trainer.leyden_fit.history = progress, brought["history"]
        vars(trainer)["ckpt_path"] = brought["ckpt_path"]  # nobody has set it
        wished, because = brought["stop"]
        if wished:
            trainer.leyden_stop(because)
        trainer.leyden_metrics.publish(brought["metrics"])
        trainer.leyden_metrics.publish(brought["logged"], callback=False, logged=True)
        trainer.leyden_metrics.publish(brought["bar"], callback=False, bar=True)
        for logger, gone_on in zip(trainer.loggers, brought["loggers"], strict=False):
            if gone_on is not None:  # its folder was chosen there, and its files are open nowhere
                vars(logger).update(vars(gone_on))
        for callback, state in zip(trainer.callbacks, brought["callbacks"], strict=False):
            callback.load_state_dict(state)


def outcome_of(body: Any, result: Any) -> dict[str, Any]:
    """What those who did not run ``body`` have to hear: its result, and what a verb takes along."""
    return {"result": result, "brought": body.take_along() if isinstance(body, Verb) and body.brings else None}


def taken_over(body: Any, outcome: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The result of ``body``, which ran elsewhere with these arguments; what a verb took along is brought back here."""
    if isinstance(body, Verb) and body.brings:
        body.bring_back(outcome["brought"], *args, **kwargs)
    return outcome["result"]


def verb_of(body: Any) -> Any:
    """The verb that ``body`` carries out, where it is a trainer's method; else ``body``."""
    return Verb(body.__self__, body.__name__) if hasattr(body, "__self__") else body
