"""Processes of :mod:`multiprocessing`, which carry a verb out and bring back what came of it."""

from __future__ import annotations

import functools
import multiprocessing.process
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.distributed.environment import free_port
from leyden.distributed.group import Group, Launcher, Started
from leyden.distributed.last_words import LastWords, of_exit, say, say_instead
from leyden.distributed.launchers.lifeline import tie_to
from leyden.distributed.launchers.pickled import culprit, error_of, make_own, of_session
from leyden.distributed.launchers.threads import share_threads
from leyden.distributed.launchers.verb import outcome_of, taken_over
from leyden.distributed.restarts import again, for_attempt
from leyden.distributed.signals import EXIT_CODE, PRESSED_EXIT_CODE, is_default
from leyden.distributed.watch import watched
from leyden.errors import ProcessFailed, TrainingTerminated, Unsupported

if TYPE_CHECKING:
    from leyden.distributed.processes import Body

_FORWARDED = ("SIGINT", "SIGTERM", "SIGUSR1")
_GRACE, _GRACE_OF_SAVES = 40.0, 310.0
"""Seconds that the others have once one has failed, or has obeyed a signal: more than their own watch gives them."""
_AGREED = (EXIT_CODE, PRESSED_EXIT_CODE)
"""What a process ends with that has obeyed a signal, as all do."""
_RUNNING: list[Any] = []
"""The processes of the verb that runs."""
_AT_ONCE = 1.0
"""Seconds that they have when it is asked for a second time."""


class Multiprocess(Launcher):
    """All processes of this node are new ones; the one that called the verb waits for them.

    Args:
        start_method: ``"spawn"`` needs all that the verb gets to be picklable; ``"fork"`` does not, but CUDA must not be in use.
    """

    def __init__(self, start_method: Literal["spawn", "fork", "forkserver"]) -> None:
        self.start_method = start_method
        self.name = f"this process ({start_method})"
        self.is_interactive_compatible = start_method == "fork"

    @property
    def procs(self) -> list[Any]:
        return [process for process in _RUNNING if process.is_alive()]

    def launched(self, group: Group, body: Body) -> Body:
        if dist.is_initialized():  # in one of the processes that were started
            return Started().launched(group, body)

        @functools.wraps(body, assigned=())
        def elsewhere(*args: Any, **kwargs: Any) -> Any:
            self._check(body, args, kwargs)
            environment = group.environment
            meeting = {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
            with tempfile.TemporaryDirectory(prefix="leyden-") as folder, _set(meeting):
                self._run_attempts(group, (group, body, args, kwargs, _chance()), folder)
                outcome = torch.load(Path(folder, "brought"), map_location="cpu", weights_only=False)
            return taken_over(body, outcome, *args, **kwargs)

        return elsewhere  # type: ignore[return-value]  # it is called as `body` is

    def _run_attempts(self, group: Group, arguments: Any, folder: str) -> None:
        """Run the processes, and again where some failed, as often as ``max_restarts`` allows."""
        since, restarts = time.time() - 1.0, group.vigilance.restarts
        for number in range(restarts + 1):
            place = Path(folder, str(number))
            place.mkdir()
            variables = for_attempt(number, since) if restarts else {}
            if number:
                variables["MASTER_PORT"] = str(free_port())  # of the attempt before it may not be free yet
            try:
                with _set(variables):
                    self._run_all((*arguments, str(place)), group.per_node, str(place))
            except (KeyboardInterrupt, TrainingTerminated, Unsupported):
                raise
            except Exception as error:
                if number == restarts:
                    found = _first_error(error, str(place))
                    if isinstance(found, ProcessFailed):
                        say_instead(found, f"\n{found}\n", found.code)
                    raise found from (found.__cause__ or error)
                say(again(number, restarts))
            else:
                os.replace(place / "brought", Path(folder, "brought"))
                return

    def _run_all(self, arguments: Any, count: int, folder: str) -> None:
        """Start the processes and wait for them. Raises what the first of them raised that failed."""
        context = mp.start_processes(  # type: ignore[attr-defined,no-untyped-call]  # torch has no types for it
            _run, arguments, nprocs=count, start_method=self.start_method, join=False
        )
        asked: list[int] = []
        _RUNNING[:] = context.processes
        try:
            with _passed_on(context.processes, asked):
                _let_end(context, folder, asked)
                while not context.join():
                    pass
        except mp.ProcessExitedException as error:  # type: ignore[attr-defined]  # as above
            if signal.SIGINT in asked or error.exit_code == PRESSED_EXIT_CODE:
                raise KeyboardInterrupt from error
            if asked or error.exit_code == EXIT_CODE:
                words = _words_in(folder)
                raise TrainingTerminated(words[0].reason if words else "A process of this run was asked to end.") from error
            if not any(Path(folder).glob("began*")):
                raise Unsupported(
                    "The new processes ended before they had anything to do: their own message stands above. They import the "
                    "script that was started: what it does has to stand below if __name__ == '__main__':, and what it defines "
                    "in a file. Or use strategy='ddp_fork', which imports nothing again."
                ) from error
            raise
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()

    def _check(self, body: Any, args: Any, kwargs: Any) -> None:
        if self.start_method == "fork":
            if torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork():
                raise Unsupported(
                    "CUDA is in use in this process already, so it cannot be forked. Make tensors on the GPU only inside the "
                    "module, or use strategy='ddp_spawn'. (In a notebook, restart the kernel.)"
                )
            return
        if getattr(multiprocessing.process.current_process(), "_inheriting", False):
            raise Unsupported(
                "A process that was started to train has come to the call that starts processes: it imports the script first. "
                "Let what the script does stand below if __name__ == '__main__':, or use strategy='ddp' or 'ddp_fork'."
            )
        parts = {"trainer": body.trainer} if hasattr(body, "trainer") else {"the function": body}
        for job in args:
            module, datamodule = getattr(job, "module", None), getattr(job, "datamodule", None)
            loaders = getattr(job, "loaders", {})
            parts |= {
                "model": module,
                "datamodule": datamodule,
                **{f"{name}_dataloaders": each for name, each in loaders.items()},
            }
        error = error_of((body, args, kwargs))
        if error is None:
            name = of_session((body, args, kwargs))
            if name is not None:
                raise Unsupported(
                    f"strategy='ddp_{self.start_method}' hands the module, its data and the trainer to new processes, which "
                    f"cannot import {name}: it is defined in this session (a notebook, an interactive one). Put it into a file "
                    f"and import it, or use strategy='ddp_notebook'."
                )
            return
        found = next((culprit(part, name) for name, part in reversed(parts.items()) if error_of(part) is not None), "an argument")
        raise Unsupported(
            f"strategy='ddp_{self.start_method}' hands the module, its data and the trainer to new processes, and {found} cannot "
            f"be pickled: {error}. Define it at the top of a file, or use strategy='ddp' or 'ddp_fork'."
        ) from error


@contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Variables of the environment, until the processes that get them have ended."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _let_end(context: Any, folder: str, asked: Sequence[int]) -> None:
    """Wait until all have ended: after the first that has not as it should, only for a while.

    Of one that left no word it is said at once what ended it: the others hear of it, or an exchange with it fails. Where it
    was the first one they are ended too, because the store in which they could hear of it is gone.
    """
    until, alive = float("inf"), dict(context.sentinels)
    while alive and time.monotonic() < until:
        for sentinel in wait(list(alive), min(1.0, until - time.monotonic())):
            rank = alive.pop(sentinel)
            process = context.processes[rank]
            process.join()  # it is a moment later that its exit code is known
            silent = not asked and _is_silent(rank, process.exitcode, context, folder)
            if (process.exitcode or silent) and until == float("inf"):
                until = time.monotonic() + (_GRACE_OF_SAVES if process.exitcode in _AGREED else _GRACE)
            if silent:
                until = until if rank else 0.0
                words = of_exit(rank, process.exitcode, "")
                say(words.shown(len(context.processes)))
                Path(folder, f"words {rank}").write_text(words.dumped())
    for sentinel, rank in alive.items():
        context.processes[rank].kill()
        context.processes[rank].join()
        del context.sentinels[sentinel]  # it is not the one that has failed


def _is_silent(rank: int, code: int, context: Any, folder: str) -> bool:
    """Whether ``code`` is all that is known of the end of a process that had begun, and of that of any other."""
    raised = os.access(context.error_files[rank], os.R_OK)
    began = Path(folder, f"began{rank}").exists()
    done = code == 0 and Path(folder, "brought").exists()  # none ends with 0 before that is there
    return not done and code not in _AGREED and began and not raised and not _words_in(folder)


@contextmanager
def _passed_on(processes: Sequence[Any], asked: list[int]) -> Iterator[None]:
    """While this process waits, signals go to the first of the others, which agree on what to do about them.

    One that comes a second time ends a process, and then all: here, where they do not do so by themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end_all() -> None:
        for process in processes:
            process.kill()

    last_resort = threading.Timer(_AT_ONCE, end_all)
    last_resort.daemon = True

    def pass_on(number: int, frame: object) -> None:
        if number in asked and last_resort.ident is None:
            last_resort.start()
        asked.append(number)
        with suppress(ProcessLookupError):
            os.kill(processes[0].pid, number)

    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    standing = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number in numbers if is_default(number, standing[number])]
    for number in ours:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        last_resort.cancel()
        for number in ours:
            signal.signal(number, standing[number])


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def _words_in(folder: str) -> list[LastWords]:
    """What processes have left there, in the order in which they did."""
    return [LastWords.read(path.read_text()) for path in sorted(Path(folder).glob("words *"), key=_age)]


def _first_error(error: Exception, folder: str) -> Exception:
    """What the process that failed first has raised, or what ended it."""
    words = _words_in(folder)
    if words:
        raised = Path(folder, f"error {words[0].rank}")
        if raised.exists():
            with suppress(Exception):
                found = pickle.loads(raised.read_bytes())
                found.__cause__ = words[0].as_error()
                return found  # type: ignore[no-any-return]  # an exception was written
        return words[0].as_error()
    if isinstance(error, mp.ProcessExitedException):  # type: ignore[attr-defined]  # torch has no types for it
        named = getattr(error, "signal_name", None)
        code = -int(signal.Signals[named]) if named else error.exit_code
        rank = error.error_index
        return of_exit(rank, code, "").as_error()
    return error


def _chance() -> tuple[int, dict[str, Any]]:
    """The seed and the state of this process's random generators, from which new processes go on."""
    state = random_state()
    state.pop("cuda", None)  # to set it, each process would have to use each device: the seed does
    return torch.initial_seed(), state


def _run(local_rank: int, group: Group, body: Any, args: Any, kwargs: Any, chance: Any, folder: str) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches the process that waits, which passes it on once
    for name in _FORWARDED:  # a fork has the handlers of the process that waits
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    tie_to(os.getppid())
    Path(folder, f"began{local_rank}").touch()
    seed, state = chance
    threads = share_threads(group.per_node)
    if group.launcher.name.endswith("(fork)"):
        torch.set_num_threads(1)  # what another process's threads were doing, this one's would wait for
    else:
        make_own((body, args, kwargs))
        torch.manual_seed(seed)
    set_random_state(state)  # also in a fork: Python seeds its own generator anew there
    os.environ.update(
        threads,
        LOCAL_RANK=str(local_rank),
        RANK=str(group.node_rank * group.per_node + local_rank),
        WORLD_SIZE=str(group.world),
        LOCAL_WORLD_SIZE=str(group.per_node),
        NODE_RANK=str(group.node_rank),
    )
    group.number()
    group.begin()
    group.words_folder = folder
    try:
        with watched(group, body):
            result = body(*args, **kwargs)
    except TrainingTerminated as error:
        raise SystemExit(EXIT_CODE) from error  # an Exception becomes a 1, and an interrupt a 0
    except KeyboardInterrupt as error:
        raise SystemExit(PRESSED_EXIT_CODE) from error
    except Exception as error:
        with suppress(Exception):
            Path(folder, f"error {group.rank}").write_bytes(pickle.dumps(error))
        raise
    if local_rank == 0:
        torch.save(outcome_of(body, result), Path(folder, "brought"))
    sys.stdout.flush()
    group.barrier()
    dist.destroy_process_group()
