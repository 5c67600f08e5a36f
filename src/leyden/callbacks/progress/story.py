"""The line with which a training begins, and the one with which it ends."""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from leyden.callbacks.progress.lines import duration, number
from leyden.callbacks.progress.screen import is_terminal
from leyden.checkpoint.files import is_remote
from leyden.crash.capsule import capsules_of
from leyden.errors import NonFiniteLoss, TrainingTerminated
from leyden.inspect.waiting import line_about_waiting
from leyden.loggers.base import folder_of
from leyden.state.run import Run


class Kept(Protocol):
    """What a fit left behind."""

    @property
    def best_checkpoint(self) -> str | None: ...
    @property
    def best_score(self) -> float | None: ...
    @property
    def last_checkpoint(self) -> str | None: ...


class Story:
    """What there is to say of one fit. Says nothing where the bar and the summary are both off."""

    def __init__(self, run: Run, kept: Callable[[], Kept]) -> None:
        self.run = run
        self.kept = kept
        self.tells = run.leyden_options.watching.progress_bar or run.leyden_options.watching.model_summary
        self.began: float | None = None

    def begin(self) -> None:
        """Training is about to begin: all parts are in their places."""
        self.began = time.monotonic()
        if self.tells:
            self._say(first_line(self.run))

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Say how what runs inside has ended, where it began at all."""
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            if self.began is not None:
                if self.tells:
                    self._say(last_line(self.run, time.monotonic() - self.began, failure, self.kept()))
                    self._tell_of_waiting(failure)
                if failure is None and not self.run.interrupted:
                    self._tell_of_capsules()

    def _tell_of_waiting(self, failure: BaseException | None) -> None:
        run, wait = self.run, self.run.leyden_fit.waiting
        text = None
        if wait is not None and failure is None and run.leyden_loaders.train is not None:
            text = line_about_waiting(wait, run.train_dataloader, run.strategy.root_device)
        if text is not None:
            self._say(text)

    def _tell_of_capsules(self) -> None:
        """A step that failed once, and was got past since, is no news of this run: say so, and whose it is."""
        folder = capsules_of(self.run)
        if folder is not None:
            self._say(
                f"{shown(folder)} keeps a step that failed in an earlier attempt of this run, which has ended well since. Remove "
                f"it when it is of no more use."
            )

    def _say(self, text: str) -> None:
        if is_terminal(None):
            width = max(shutil.get_terminal_size().columns - 1, 20)
            text = textwrap.fill(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        self.run.print(text)


def first_line(run: Run) -> str:
    """Where training runs and with what, where its files go, and which of its limits are only defaults."""
    parts = [f"Training on {device(run)}, precision {run.precision}, {processes(run)}."]
    if run.fast_dev_run:
        batches = int(run.fast_dev_run)
        parts.append(f"fast_dev_run: {batches} {'batch' if batches == 1 else 'batches'} of each, and nothing is written.")
        return " ".join(parts)
    parts.append(f"Logs: {logs(run)}. Checkpoints: {checkpoints(run)}.")
    if run.leyden_options.limits.epochs_by_default:
        parts.append(f"Up to {run.max_epochs} epochs, which is only the default: max_epochs= sets another limit.")
    return " ".join(parts)


def processes(run: Run) -> str:
    """How many processes there are, on how many machines, and who started them."""
    count = "1 process" if run.world_size == 1 else f"{run.world_size} processes"
    nodes = run.strategy.processes.nodes
    where = f" on {nodes} nodes" if nodes > 1 else ""
    by = run.strategy.processes.started_by
    return (
        f"{count}{where}" if not by else f"{count}{where} ({by})" if run.world_size == 1 else f"{count}{where}, started by {by}"
    )


def last_line(run: Run, seconds: float, failure: BaseException | None, kept: Kept) -> str:
    """Why training ended, how far it was and how long that took, and where its best and last checkpoints are."""
    epochs, steps = run.current_epoch, run.leyden_fit.progress.step
    how_far = f"{counted(epochs, 'epoch')} and {counted(steps, 'step')}"
    text = f"Training ended after {how_far} in {duration(seconds)}: {reason(run, failure)}."
    files = []
    if kept.best_checkpoint is not None:
        score = "" if kept.best_score is None else f" ({run.leyden_keepers[0].monitor} {number(kept.best_score)})"
        files.append(f"Best checkpoint: {shown(kept.best_checkpoint)}{score}")
    if kept.last_checkpoint is not None and kept.last_checkpoint != kept.best_checkpoint:
        files.append(f"{'last' if files else 'Last checkpoint'}: {shown(kept.last_checkpoint)}")
    return text + (f" {', '.join(files)}." if files else "")


def reason(run: Run, failure: BaseException | None) -> str:
    """Why training ended, as the end of a sentence."""
    if isinstance(failure, TrainingTerminated):
        return str(failure).split(":")[0]
    if isinstance(failure, NonFiniteLoss):
        text = str(failure).split(" (")[0]
        return text[:1].lower() + text[1:]
    if failure is not None and not isinstance(failure, KeyboardInterrupt):
        return f"{type(failure).__name__} was raised"
    if run.interrupted:
        return "Ctrl-C was pressed"
    if run.should_stop:
        return (run.leyden_stop_reason or "a stop was wished (trainer.should_stop was set)").rstrip(".")
    limits = run.leyden_options.limits
    if run.fast_dev_run:
        return "fast_dev_run has run its batches"
    if limits.max_steps is not None and run.leyden_fit.progress.step >= limits.max_steps:
        return f"max_steps={limits.max_steps} was reached"
    if limits.max_epochs is not None and run.current_epoch >= limits.max_epochs:
        return f"max_epochs={limits.max_epochs} was reached"
    if limits.train == 0:
        return "limit_train_batches=0 leaves nothing to train on"
    return "there was nothing left to train"


def device(run: Run) -> str:
    """The device of the first process, by its name where it has one."""
    root = run.strategy.root_device
    if root.type == "cuda" and torch.cuda.is_available():
        return f"{root} ({torch.cuda.get_device_name(root)})"
    return "CPU" if root.type == "cpu" else str(root)


def logs(run: Run) -> str:
    """The loggers, and where they write to."""
    told = []
    for logger in run.loggers:
        kind = type(logger).__name__.removesuffix("Logger") or "Logger"
        folder = folder_of(logger) or folder_of(logger, "save_dir")
        told.append(kind if folder is None else f"{kind} in {shown(folder)}")
    return ", ".join(told) or "none"


def checkpoints(run: Run) -> str:
    """The folders that checkpoints go to."""
    folders = [getattr(writer, "dirpath", None) for writer in run.checkpoint_callbacks]
    return ", ".join(dict.fromkeys(shown(folder) for folder in folders if folder is not None)) or "none"


def shown(path: Any) -> str:
    """``path`` from where the process stands, if it is below."""
    text = str(os.fspath(path))
    if is_remote(text) or not os.path.isabs(text):
        return text
    try:
        below: str = os.path.relpath(text)
    except ValueError:  # another drive
        return text
    return text if below.startswith(os.pardir) else below


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
