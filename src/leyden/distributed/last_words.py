"""What a process leaves behind when it cannot go on, and how the others tell it from its echoes."""

from __future__ import annotations

import json
import multiprocessing.process
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal

import torch

from leyden.distributed.signals import PRESSED_AGAIN, PRESSED_EXIT_CODE
from leyden.errors import ProcessFailed, TrainingTerminated

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
"""The folder of this package."""
_NOT_THE_USERS = (HERE, os.path.dirname(os.path.abspath(torch.__file__)) + os.sep, os.path.dirname(os.__file__) + os.sep)
_ECHOES = (
    *(
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "Connection refused",
        "Connection was likely closed",
    ),
    *(
        "gloo/transport",
        "Timed out waiting",
        "Socket Timeout",
        "NCCL error",
        "ncclRemoteError",
        "failed to recv",
        "DistNetworkError",
    ),
)
_CODES: dict[int, int] = {signal.SIGKILL: 137, signal.SIGTERM: 143, signal.SIGINT: PRESSED_EXIT_CODE}

Kind = Literal["failed", "signal", "killed", "left", "hung"]


@dataclass(frozen=True)
class LastWords:
    """Why a process ended before the others.

    Args:
        rank: whose words these are.
        kind: ``"failed"``: an exception; ``"signal"``: it obeyed one; ``"killed"``: it got no chance to speak; ``"left"``: it
            ended as if all were done; ``"hung"``: nothing moved any more.
        reason: the exception in a line, or what happened.
        place: where it was: epoch, step, batch and hook, in words.
        trace: the traceback, or nothing.
        code: with which a job ends that ends because of this.
    """

    rank: int
    kind: Kind
    reason: str
    place: str = ""
    trace: str = ""
    code: int = 1

    def dumped(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | bytes) -> LastWords:
        return cls(**json.loads(text))

    @property
    def line(self) -> str:
        """What happened, in a line."""
        verb = {"failed": "failed", "signal": "was ended", "killed": "was ended", "left": "has left", "hung": "hangs"}[self.kind]
        return f"process {self.rank} {verb}{f' ({self.place})' if self.place else ''}: {self.reason}"

    def shown(self, world: int) -> str:
        """All of it, for whoever reads the job's output."""
        head = self.line.replace(f"process {self.rank}", f"process {self.rank} of {world}", 1)
        return f"\n{head}\n{self.trace}".rstrip() + "\n"

    def as_error(self) -> ProcessFailed:
        """For the processes that cannot go on because of it."""
        return ProcessFailed(f"This run cannot go on: {self.line}\n{self.trace}".rstrip(), self.rank, self.code)


def of_error(rank: int, error: BaseException, place: str, alone: bool = True) -> LastWords:
    """The words of a process that is ended by ``error``, which is its own ``alone`` or was raised by all of them."""
    if isinstance(error, TrainingTerminated):
        return LastWords(rank, "signal", str(error), place, code=143)
    pressed = isinstance(error, KeyboardInterrupt)
    if pressed and (not alone or error.args == (PRESSED_AGAIN,)):
        return LastWords(rank, "signal", str(error) or "Ctrl-C", place, code=PRESSED_EXIT_CODE)
    if isinstance(error, SystemExit):
        return LastWords(
            rank, "left", f"sys.exit({error.code!r}) was called", place, whole_traceback(error), code=_exit_code(error)
        )
    reason = "".join(traceback.format_exception_only(error)).strip()
    return LastWords(rank, "failed", reason, place, whole_traceback(error), code=PRESSED_EXIT_CODE if pressed else 1)


def of_exit(rank: int, code: int, place: str) -> LastWords:
    """The words of a process that ended with ``code`` (negative: a signal's) and left none."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return LastWords(rank, "killed", f"{name} ended it{_advice(-code)}", place, code=_CODES.get(-code, 1))
    if code == 0:
        return LastWords(rank, "left", "it ended with exit code 0 while the others were still at work", place)
    return LastWords(rank, "killed", f"it ended with exit code {code} and without a word", place, code=code)


def of_silence(rank: int, then: str) -> LastWords:
    """The words of a process that is gone, and whose exit code goes to somebody else."""
    return LastWords(rank, "killed", f"it left no word (killed, perhaps for lack of memory, or os._exit was called); {then}")


def is_echo(error: BaseException) -> bool:
    """Whether ``error`` only says that another process does not answer."""
    if isinstance(error, ProcessFailed):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if type(error).__name__ in ("DistNetworkError", "DistBackendError", "DistError", "DistStoreError"):
        return True
    text = str(error)
    return any(echo in text for echo in _ECHOES)


def hook_of(error: BaseException) -> str:
    """The user's function in which ``error`` was raised: the first one that was called from here."""
    return _first_of_the_users(error.__traceback__)


def whole_traceback(error: BaseException) -> str:
    """The traceback as Python shows it where nobody catches ``error``: with the frames that are still to be unwound."""
    shown = traceback.TracebackException.from_exception(error)
    if error.__traceback__ is not None:
        outer = traceback.extract_stack(error.__traceback__.tb_frame.f_back)
        for place, frame in enumerate(outer):  # a fork stands on the stack of the process that it is a copy of
            if frame.name == "_bootstrap" and frame.filename == multiprocessing.process.__file__:
                outer = traceback.StackSummary.from_list(outer[place + 1 :])
                break
        shown.stack = traceback.StackSummary.from_list([*outer, *shown.stack])
    return "".join(shown.format())


def say(text: str) -> None:
    """Onto standard error, at once and in one piece."""
    try:
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # a stream that is closed, full or missing
        pass


def say_instead(error: BaseException, text: str, code: int) -> None:
    """Should nobody catch ``error``: write ``text`` in place of its traceback, and end the process with ``code``."""
    before = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> Any:
        if value is not error:
            return before(kind, value, trace)
        say(text)
        if code != 1:
            raise SystemExit(code)  # Python takes it for the exit code of the process
        return None

    sys.excepthook = hook


def is_users(file: str) -> bool:
    """Whether code of ``file`` is the user's: none of ours, of torch or of Python's library."""
    return not file.startswith((*_NOT_THE_USERS, "<frozen"))


def _first_of_the_users(trace: TracebackType | None) -> str:
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_users(code.co_filename):
            return code.co_name
        trace = trace.tb_next
    return ""


def _advice(number: int) -> str:
    if number == signal.SIGKILL:
        return " (the system does so when memory runs out)"
    if number == signal.SIGABRT:
        return " (an exchange whose size differs between processes does so)"
    return ""


def _exit_code(error: SystemExit) -> int:
    return error.code if isinstance(error.code, int) and error.code else 1
