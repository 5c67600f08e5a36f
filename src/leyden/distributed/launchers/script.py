"""The user's script once more for every process beside the first: ``python train.py`` is enough."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from leyden.distributed.group import Group, Started
from leyden.errors import Unsupported

if TYPE_CHECKING:
    from leyden.distributed.processes import Body

WATCHED_EVERY = 0.1
"""Seconds between two looks at the other processes."""
GRACE = 5.0
"""Seconds that this process has to notice by itself that another one has failed."""

_started: list[subprocess.Popen[bytes]] = []  # by the first process of this script, for its first trainer of several processes


class Script(Started):
    """Runs the command of this process again, with the variables by which the environment numbers processes."""

    def launched(self, group: Group, body: Body) -> Body:
        if not group.environment.creates_processes_externally and not _started and group.per_node > 1:
            self.start(group)
        return super().launched(group, body)

    def start(self, group: Group) -> None:
        """Start the others of this node. Raises :class:`Unsupported` where the command cannot be run again."""
        command = command_of_this_process()
        address = os.environ.setdefault("MASTER_ADDR", group.environment.main_address)
        port = os.environ.setdefault("MASTER_PORT", str(free_port()))
        shared = {"MASTER_ADDR": address, "MASTER_PORT": port, "WORLD_SIZE": str(group.world), "NODE_RANK": str(group.node_rank)}
        for local_rank in range(1, group.per_node):
            own = {"LOCAL_RANK": str(local_rank), "RANK": str(group.node_rank * group.per_node + local_rank)}
            _started.append(subprocess.Popen(command, env={**os.environ, **shared, **own, "LEYDEN_PARENT": str(os.getpid())}))
        threading.Thread(target=_watch, name="leyden: other processes", daemon=True).start()


def command_of_this_process() -> list[str]:
    """What has to be run to do all of this again."""
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) is None or sys.argv[:1] in ([""], ["-c"]):
        raise Unsupported(
            "strategy='ddp' starts the script again for every process, and there is no script here (a notebook, an interactive "
            "session, or python -c). Use strategy='ddp_notebook' or 'ddp_fork', or put the code into a file."
        )
    spec = getattr(main, "__spec__", None)
    interpreter = [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]  # -X, -O, -W ...
    if spec is None:
        return [*interpreter, os.path.abspath(main.__file__ or sys.argv[0]), *sys.argv[1:]]
    module = spec.name.removesuffix(".__main__")
    return [*interpreter, "-m", module, *sys.argv[1:]]


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as found:
        found.bind(("", 0))
        number: int = found.getsockname()[1]
        return number


def _watch() -> None:
    """One of the others has failed: this process ends too, with the same code."""
    while True:
        time.sleep(WATCHED_EVERY)
        codes = [process.poll() for process in _started]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            time.sleep(GRACE)  # an error of this process's own says more
            for process in _started:
                process.kill()
            code = 128 - failed if failed < 0 else failed
            print(f"A process of this run ended with code {code}, and the run cannot go on.", file=sys.stderr, flush=True)
            os._exit(code)
        if all(code == 0 for code in codes):
            return


def stop_others(number: int = signal.SIGTERM) -> None:
    """Ask the processes that were started from here to end."""
    for process in _started:
        if process.poll() is None:
            process.send_signal(number)
