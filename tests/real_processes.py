"""Real processes with a gloo group, started by a server that has torch loaded: they begin in a tenth of a second."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from leyden.distributed.environment import free_port

HERE = Path(__file__).parent
LOADED = ["torch", "torch.distributed", "torch.distributed.checkpoint", "torch._dynamo", "leyden", "pytest", "hypothesis"]
TIMEOUT = 60.0
"""Seconds after which processes that have not ended are killed, and the test fails."""


def together(world: int, body: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
    """What ``body(*arguments)`` returned in each of ``world`` processes, by rank. Raises what the first one that failed raised.

    ``body`` is a function of a test file's top level; what it gets and returns has to be picklable. In each process the
    variables stand by which torchrun numbers its processes: a Trainer with ``devices=world`` joins the group.
    """
    outcomes = outcomes_together(world, body, *arguments, timeout=timeout)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def outcomes_together(world: int, body: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
    """As :func:`together`, with what was raised in place of what was not returned; an exit code where a process died."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        where = Path(sys.modules[body.__module__].__file__ or "")
        processes = [
            context.Process(target=_run, args=(rank, world, port, str(where), body.__qualname__, arguments, folder))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
        stuck = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
        outcomes: list[Any] = []
        for rank, process in enumerate(processes):
            left = Path(folder, str(rank))
            outcomes.append(pickle.loads(left.read_bytes()) if left.exists() else process.exitcode)
        assert not stuck, f"the processes {stuck} did not end within {timeout} s: {outcomes}"
        return outcomes


def _run(rank: int, world: int, port: int, file: str, name: str, arguments: Any, folder: str) -> None:
    gc.freeze()  # what the server has loaded is looked through by no collector here, which would copy it
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    sys.path.insert(0, str(HERE))
    try:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
        outcome: Any = getattr(module, name)(*arguments)
    except BaseException as error:
        traceback.print_exc()
        outcome = error
    try:
        content = pickle.dumps(outcome)
    except Exception:
        content = pickle.dumps(AssertionError(f"{type(outcome).__name__}: {outcome}"))
    Path(folder, str(rank)).write_bytes(content)
