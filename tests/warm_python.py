"""Python processes that have PyTorch and leyden loaded when they begin: forked from one that has, in a hundredth of the time.

To the program it is a process of its own: ``__main__``, ``sys.argv``, folder, environment, output, exit code and random numbers
are as if ``python`` had been started. What shows how *importing* goes needs a fresh one (``kit.in_a_fresh_process``).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any

LOADED = ("torch", "torch._dynamo", "torch.utils.data", "leyden.testing", "sklearn.datasets", "sklearn.model_selection")
"""What is loaded beforehand. Every program that trains comes to ``torch._dynamo``."""
_MOST = 1 << 20
_server: Server | None = None


def python(
    *words: str | Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdout: IO[str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """What ``python`` with these words came to, run in ``folder``, with nothing in its environment but ``environment``.

    Of Python's own options it knows ``-W`` with an action, ``-c`` and ``-m``. ``stdout`` is a file to write to in place of what
    is returned. A program that takes more than ``timeout`` seconds is killed, which raises ``subprocess.TimeoutExpired``.
    """
    global _server
    command = [str(word) for word in words]
    where, variables = str(folder or Path.cwd()), dict(os.environ if environment is None else environment)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = (stdout or out, err)
        if not hasattr(os, "pidfd_open") or "COVERAGE_PROCESS_START" in os.environ:  # which is measured where Python starts
            code = subprocess.run(
                [sys.executable, *command], cwd=where, env=variables, stdout=streams[0], stderr=err, timeout=timeout
            ).returncode
        else:
            if _server is None:
                _server = Server()
                atexit.register(_server.close)
            code = _server.run({"words": command, "folder": where, "environment": variables}, streams, timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


class Server:
    """The process that is forked, one for each process that runs tests."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # more threads than cores would wait for each other
            )

    def run(self, request: dict[str, Any], streams: tuple[IO[str], IO[str]], timeout: float) -> int:
        """The exit code of a program, negative where a signal ended it."""
        socket.send_fds(self.socket, [json.dumps(request).encode()], [stream.fileno() for stream in streams])
        self.socket.settimeout(None)
        child = json.loads(self.socket.recv(_MOST))
        self.socket.settimeout(timeout)
        try:
            return int(json.loads(self.socket.recv(_MOST)))
        except TimeoutError:
            os.kill(child, signal.SIGKILL)  # the server has not waited for it yet, so that it is still the same process
            self.socket.settimeout(None)
            self.socket.recv(_MOST)
            raise subprocess.TimeoutExpired(request["words"], timeout) from None

    def close(self) -> None:
        self.socket.close()
        self.process.wait(60)


# -- in the server
def serve(own: socket.socket) -> dict[str, Any]:
    """Fork for each request, and tell how that ended. Returns in the forked process alone, with what is asked of it."""
    while True:
        asked, streams, _, _ = socket.recv_fds(own, _MOST, 2)
        if not asked:
            sys.exit()
        child = os.fork()
        if not child:
            own.close()
            for number, stream in enumerate(streams, start=1):
                os.dup2(stream, number)
                os.close(stream)
            request: dict[str, Any] = json.loads(asked)
            return request
        for stream in streams:
            os.close(stream)
        own.send(json.dumps(child).encode())
        own.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def become(words: list[str], folder: str, environment: dict[str, str], usual_path: list[str]) -> None:
    """Run the program that ``words`` name, as Python does that was started with them."""
    sys.orig_argv = [sys.executable, *words]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name in ("random", "numpy.random"):
        import_module(name).seed()  # a fork has the numbers of its parent
    while words[0] == "-W":
        sys.warnoptions.append(words[1])
        warnings.simplefilter(words[1])  # type: ignore[arg-type]  # the action
        words = words[2:]
    first, sys.argv = words[0], words
    in_path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [str(Path(first).resolve().parent) if first[0] != "-" else folder, *in_path, *usual_path]
    if first == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if first == "-c":
        sys.argv = ["-c", *words[2:]]
        code = compile(words[1], "<string>", "exec")
    else:
        main.__file__ = first
        code = compile(Path(first).read_bytes(), first, "exec")
    exec(code, main.__dict__)


if __name__ == "__main__":
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    usual = [entry for entry in sys.path[1:] if entry not in given]
    for each in LOADED:
        import_module(each)
    gc.collect()
    gc.freeze()  # what is loaded is looked through by no program's collector: where it ends, that would copy all of it
    with socket.socket(fileno=int(sys.argv[1])) as theirs:
        task = serve(theirs)
    become(task["words"], task["folder"], task["environment"], usual)
