"""The user's script once more for every process beside the first: ``python train.py`` is enough."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from leyden.distributed.asking import Asking
from leyden.distributed.environment import free_port
from leyden.distributed.group import Group, Started
from leyden.distributed.last_words import of_exit, say
from leyden.distributed.launchers.lifeline import OTHERS, START, runs_again, word_for_a_child
from leyden.distributed.launchers.supervised import supervise
from leyden.distributed.launchers.threads import share_threads
from leyden.errors import Unsupported

if TYPE_CHECKING:
    from leyden.distributed.processes import Body

WATCHED_EVERY = 0.1
"""Seconds between two looks at the other processes."""
GRACE = 5.0
"""Seconds that this process has to notice by itself that another one has failed."""


class Script(Started):
    """Runs the command of this process again, with the variables by which the environment numbers processes."""

    name = "this command, run again for each"

    @property
    def procs(self) -> list[Any]:
        return [process for process in OTHERS if process.poll() is None]

    def launched(self, group: Group, body: Body) -> Body:
        if group.per_node > 1 and not runs_again() and not dist.is_initialized():
            if group.vigilance.restarts:
                if group.nodes > 1:
                    raise Unsupported(
                        "max_restarts starts the processes of one machine again. On several, use torchrun --max-restarts."
                    )
                code = supervise(lambda more: self.popen(group, range(group.per_node), more), group.vigilance.restarts)
                raise SystemExit(code)  # all that follows in the script was done by the processes that have ended
            self.start(group)
        return super().launched(group, body)

    def start(self, group: Group) -> None:
        """Start the others of this node. Raises :class:`Unsupported` where the command cannot be run again."""
        OTHERS.extend(self.popen(group, range(1, group.per_node)))
        os.environ.update(self.shared(group), LOCAL_RANK="0", RANK=str(group.rank))
        atexit.register(_wait)
        watching = Asking(lambda: _watch(group, watching.ending), "leyden: other processes")
        watching.start()
        group.before_exit = _kill_others

    def shared(self, group: Group) -> dict[str, str]:
        """The variables that are the same in all processes of this node."""
        environment = group.environment
        return {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "WORLD_SIZE": str(group.world),
            "LOCAL_WORLD_SIZE": str(group.per_node),
            "NODE_RANK": str(group.node_rank),
            **share_threads(group.per_node),
        }

    def popen(self, group: Group, ranks: Iterable[int], extra: Mapping[str, str] | None = None) -> list[subprocess.Popen[bytes]]:
        """The processes ``ranks`` of this node, with variables ``extra``: those of a job that is supervised."""
        command = command_of_this_process()
        own = {**os.environ, **self.shared(group), **word_for_a_child(), **(extra or {})}
        if extra is not None:
            own["MASTER_PORT"] = str(free_port())  # of the attempt before it may not be free yet
        started = []
        for local_rank in ranks:
            numbers = {"LOCAL_RANK": str(local_rank), "RANK": str(group.node_rank * group.per_node + local_rank)}
            more, where = _hydra(local_rank)
            started.append(
                subprocess.Popen(
                    [*command, *more], env={**own, **numbers}, cwd=where, start_new_session=extra is not None
                )  # a supervisor passes Ctrl-C on
            )
        return started


def command_of_this_process() -> list[str]:
    """What has to be run, in the folder where this process began, to do all of this again."""
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) is None or sys.argv[:1] in ([""], ["-c"], ["-"]):
        raise Unsupported(
            "This strategy starts the script again for every process, and there is no script here (a notebook, an interactive "
            "session, or python -c). Put the code into a file, or use strategy='ddp_notebook'."
        )
    # As it was typed: what the script has done to sys.argv since, it does again. Nobody types to the others, so -i is left out.
    words = [sys.executable, *(word for word in sys.orig_argv[1:2] if word != "-i"), *sys.orig_argv[2:]]
    script = main.__file__ or ""
    typed = next((word for word in words[1:] if os.path.basename(word) == os.path.basename(script)), "")
    if typed and os.path.isabs(script) and not os.path.exists(os.path.join(START, typed)):  # it has moved before it imported us
        words[words.index(typed)] = script
    return words


def _hydra(local_rank: int) -> tuple[list[str], str]:
    """What to add to a command that hydra reads, and the folder to run it in: the others work in the folder of the first."""
    config: Any = sys.modules.get("hydra.core.hydra_config")
    if config is None or not config.HydraConfig.initialized():
        return [], START
    from hydra.utils import get_original_cwd  # type: ignore[import-not-found,unused-ignore]  # optional, and loaded already

    folder = config.HydraConfig.get().run.dir
    folder = folder if os.path.isabs(folder) else os.path.join(get_original_cwd(), folder)
    words = [f"hydra.run.dir={json.dumps(folder)}", f"hydra.job.name=train_ddp_process_{local_rank}", "hydra.output_subdir=null"]
    return words, get_original_cwd()


def _wait() -> None:
    """This process ends: so do the others, and as long as they work that is waited for. Their failure is its own."""
    until = time.monotonic() + GRACE if hasattr(sys, "last_value") else None
    for process in OTHERS:
        while process.poll() is None and (until is None or time.monotonic() < until):
            time.sleep(WATCHED_EVERY)
    codes = [process.poll() for process in OTHERS]
    _kill_others()
    failed = next((code for code in codes if code), 0)
    if failed and not hasattr(sys, "last_value"):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(of_exit(1, failed, "").code)


def _kill_others() -> None:
    for process in OTHERS:
        if process.poll() is None:
            process.kill()


def _watch(group: Group, ending: threading.Event) -> None:
    """One of the others has failed: the rest hear of it, and this process ends too, with the same code."""
    told: set[int] = set()
    while not ending.wait(WATCHED_EVERY):
        codes = {group.rank + place: process.poll() for place, process in enumerate(OTHERS, 1)}
        for rank, code in codes.items():
            watch = group.watch
            if code is not None and rank not in told and (code or watch is not None):
                told.add(rank)
                words = of_exit(rank, code, "" if watch is None else watch.place_of(rank))
                if watch is None:
                    if code < 0:
                        say(words.shown(group.world))
                elif not watch.has_words(rank) and watch.post(words):
                    say(words.shown(group.world))
        failed = next((code for code in codes.values() if code), None)
        if failed is not None:
            if not ending.wait(GRACE):  # in which this process ends by itself, if it can
                _kill_others()
                code = of_exit(1, failed, "").code
                say(f"A process of this run ended with code {code}, and this one did not in {GRACE:.0f} s: it is ended.\n")
                os._exit(code)
            return
        if all(code == 0 for code in codes.values()):
            return
