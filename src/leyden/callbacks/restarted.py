"""A job whose processes were started again after one had failed: training goes on from what this very job has saved."""

from __future__ import annotations

from typing import Any

from leyden.callbacks.places import places_of, usual_places
from leyden.checkpoint.store import CheckpointStore
from leyden.distributed.restarts import attempt, began
from leyden.state.run import Run


def restarted(run: Run, store: CheckpointStore, asked: Any, fitting: bool) -> Any:
    """``ckpt_path`` as it was ``asked`` for; in a later attempt of a job ``"last"``, where an earlier one has saved anything.

    What is older than the job is another's, so that a fit without ``ckpt_path`` never goes on from a run before. Of a job that
    fits more than once, each fit is meant to have folders of its own.
    """
    if not fitting or asked == "last" or run.fast_dev_run:
        return asked
    number, since = run.strategy.processes.broadcast((attempt(), began())) if not run.strategy.processes.alone else (0, None)
    if not number or since is None:
        return asked
    store.since = since
    if not store.newest(places_of(run, store)) and not store.newest(usual_places(run, store)):
        store.since = None
        return asked
    run.print(f"Attempt {number + 1} of this job:")
    return "last"
