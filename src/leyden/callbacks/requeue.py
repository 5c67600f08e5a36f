"""A SLURM job that is requeued: its state is saved where the same command finds it, and SLURM is asked to run it again."""

from __future__ import annotations

import os
import re
from typing import Any

from leyden.callback import Callback
from leyden.checkpoint.files import is_remote, local_path
from leyden.checkpoint.verified import peek
from leyden.distributed.environment import SLURMEnvironment
from leyden.errors import CheckpointMissing, TrainingTerminated
from leyden.state import snapshot
from leyden.state.run import Run

_NAME = re.compile(r"hpc_ckpt_(\d+)\.ckpt")
_JOB = "slurm_job"


class Requeue(Callback):
    """Told after all others: by then the run is saved as any that a signal ends."""

    def __init__(self, environment: SLURMEnvironment) -> None:
        self.environment = environment

    def on_exception(self, trainer: Run, pl_module: Any, exception: BaseException) -> None:
        if not isinstance(exception, TrainingTerminated):
            return
        # SLURM may tell one process only, and all end together
        if not trainer.strategy.reduce_boolean_decision(exception.signal == self.environment.requeue_signal, all=False):
            return
        if trainer.leyden_fitting and not trainer.fast_dev_run:
            folder = trainer.default_root_dir
            number = trainer.strategy.broadcast(max((number for number, _ in _files(folder)), default=0) + 1)
            checkpoint = snapshot.take(trainer)
            checkpoint[_JOB] = self.environment.job_id()
            trainer.strategy.save_checkpoint(checkpoint, os.path.join(folder, f"hpc_ckpt_{number}.ckpt"))
        if trainer.is_global_zero:
            trainer.print(self.environment.requeue())

    def on_fit_end(self, trainer: Run, pl_module: Any) -> None:
        """The fit has ended by itself: what this job saved to be requeued is not for another."""
        for path in _of_this_job(trainer, self.environment):
            trainer.leyden_remove_checkpoint(path)


def requeue_of(run: Run) -> list[Callback]:
    """The callback that requeues, where the environment wants it."""
    environment = run.strategy.leyden_environment
    return [Requeue(environment)] if isinstance(environment, SLURMEnvironment) and environment.auto_requeue else []


def requeued(run: Run, asked: Any, fitting: bool) -> Any:
    """``ckpt_path`` as it was ``asked`` for, or the file that this job saved before it was requeued.

    Raises :class:`CheckpointMissing` for ``"hpc"`` where there is none.
    """
    if asked == "hpc":
        found = _files(run.default_root_dir)
        if not found:
            raise CheckpointMissing(
                f"ckpt_path='hpc' was asked for, and no requeued job has left a checkpoint (hpc_ckpt_1.ckpt) in "
                f"{run.default_root_dir}. Use 'last', or pass a path."
            )
        return found[-1][1]
    waiting = requeue_of(run) if fitting and not (asked == "last" and run.leyden_keepers) else []
    for requeue in waiting:
        assert isinstance(requeue, Requeue)
        for path in _of_this_job(run, requeue.environment)[-1:]:
            run.print(f"SLURM runs this job again: training goes on from {path}.")
            return path
    return asked


def _files(folder: str) -> list[tuple[int, str]]:
    """What requeued jobs have left in ``folder``, by number."""
    if is_remote(folder) or not os.path.isdir(local_path(folder)):
        return []
    names = [(_NAME.fullmatch(name), name) for name in os.listdir(local_path(folder))]
    return sorted((int(match[1]), os.path.join(folder, name)) for match, name in names if match)


def _of_this_job(run: Run, environment: SLURMEnvironment) -> list[str]:
    """The files of this very job: a requeued one keeps its number."""
    job, found = environment.job_id(), []
    for _, path in _files(run.default_root_dir):
        content = peek(local_path(path))
        if job is not None and isinstance(content, dict) and content.get(_JOB) == job:
            found.append(path)
    return found
