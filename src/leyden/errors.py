"""Every error and warning that leyden raises, in one tree.

::

    LeydenError
     ├─ MisconfigurationException           something the caller wrote does not fit
     │   ├─ InvalidOption        (ValueError)       an argument has a wrong value
     │   │   └─ InvalidType      (TypeError)        an argument has a wrong type
     │   ├─ UnknownName          (TypeError, AttributeError)   a name that means nothing here, with the nearest right one
     │   │   └─ NotRegistered    (KeyError)         a registry has nothing under that name
     │   ├─ TakenName            (AttributeError, KeyError)   an attribute has a name that the base class needs
     │   ├─ NotConstructed       (AttributeError)   a subclass's ``__init__`` has not called ``super().__init__()``
     │   ├─ ConflictingOptions   (ValueError, RuntimeError)   two arguments that exclude each other
     │   ├─ Unsupported          (NotImplementedError, ValueError)   known, but not offered; names the alternative
     │   │   └─ NotOffered       (ImportError)      a name to import that Lightning has and leyden does not
     │   ├─ DeviceUnavailable    (RuntimeError)     a device was asked for that this machine lacks
     │   ├─ MissingMethod        (NotImplementedError)   a module or datamodule lacks a method that the verb needs
     │   │   ├─ MissingModel     (TypeError, AttributeError)   the trainer has no module yet
     │   │   └─ MissingExample   (ValueError)       an export needs an example of the module's input
     │   ├─ InvalidReturn        (TypeError, ValueError, RuntimeError)   a hook returned something that cannot be used
     │   ├─ InvalidLoader        (TypeError)        what was given as a loader is none
     │   ├─ EmptyLoader          (ValueError)       a loader yields no batch
     │   ├─ IllegalLog           (ValueError)       ``self.log`` in a place or with arguments that cannot work
     │   ├─ AmbiguousBatchSize   (RuntimeError)     the batch does not tell its size; pass ``batch_size=``
     │   ├─ MetricsDiffer        (RuntimeError)     processes that train together logged different names
     │   ├─ ModulesDiffer        (RuntimeError)     processes that train together have modules of different parameters
     │   ├─ TensorsDiffer        (RuntimeError)     processes bring tensors of different shapes or types to one exchange
     │   ├─ MissingMonitor       (RuntimeError, KeyError)   a monitored metric was never logged
     │   ├─ NotServable          (RuntimeError)     a module that is to be served does not answer, or not as it says
     │   ├─ MissingHyperparameter (TypeError, KeyError)   a checkpoint lacks an argument of the constructor
     │   ├─ MissingText          (FileNotFoundError)   a demo's text is not on disk, and could not be got
     │   └─ MissingPackage       (ModuleNotFoundError)   an optional package is not installed; gives the install line
     ├─ CheckpointError
     │   ├─ CheckpointMissing    (FileNotFoundError, ValueError)
     │   ├─ CheckpointDamaged    (RuntimeError)     truncated, or a checksum does not match
     │   ├─ CheckpointForeign    (RuntimeError)     not a checkpoint, or one that needs pickle to be read
     │   └─ CheckpointMismatch   (RuntimeError, ValueError)   does not fit the module, optimizers or loaders at hand
     │       └─ CheckpointPartial (KeyError)        holds weights only, where training's state is needed
     ├─ CheckpointWriteFailed    (OSError)          disk full, permission lost; the previous file is intact
     ├─ NonFiniteLoss            (RuntimeError, ValueError)   the training loss became NaN or infinite
     ├─ TrainingSpikeException   (RuntimeError)     the training loss jumped, and SpikeDetection was asked to watch it
     ├─ LeakedStopIteration      (RuntimeError)     user code let a StopIteration escape
     ├─ ProcessFailed            (RuntimeError)     another process of this run failed, was killed or has left; says which and why
     └─ TrainingTerminated       (SystemExit)       SIGTERM or SIGUSR1 arrived; state was saved; exit code 143

    LeydenWarning (UserWarning)
     ├─ IgnoredSetting       (RuntimeWarning)   what was written has no effect here
     ├─ LegacyNotice                        a name of an older Lightning was used; says today's name
     └─ PossibleUserWarning                 probably a mistake, harmless if meant

Each error also inherits from the builtin type that Lightning raises for the same mistake, so existing ``except`` clauses hold.
"""

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterable
from types import FrameType

# Where a warning is never pointed at: our own files, and what calls them back.
_LIBRARY = os.path.dirname(contextlib.__file__)
_NOT_THE_USERS = (
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    contextlib.__file__,
    os.path.join(_LIBRARY, "multiprocessing") + os.sep,
)
_LONGEST_SHOWN = 160  # characters of a value in a message


class LeydenError(Exception):
    """Root of all errors raised by leyden."""

    def __init__(self, *args: object) -> None:  # builtin ones tell no signature
        super().__init__(*args)

    def __str__(self) -> str:
        # KeyError's own __str__ would show the message quoted and escaped.
        return str(self.args[0]) if len(self.args) == 1 else Exception.__str__(self)

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own would hand the message to an __init__ that makes one of several arguments.
        return _made_again, (type(self), self.args, dict(vars(self)))


def _made_again(kind: type[LeydenError], args: tuple[object, ...], attributes: dict[str, object]) -> LeydenError:
    """An error that another process has raised."""
    error = kind.__new__(kind, *args)
    LeydenError.__init__(error, *args)
    vars(error).update(attributes)
    return error


class MisconfigurationException(LeydenError):
    """Something the caller wrote does not fit. Lightning's name for all of its option errors."""


class InvalidOption(MisconfigurationException, ValueError):
    """An argument has a value that cannot be used."""

    def __init__(self, name: str, given: object, expected: str, advice: str = "") -> None:
        self.name = name
        shown = repr(given)
        if len(shown) > _LONGEST_SHOWN:
            shown = f"{shown[:_LONGEST_SHOWN]}... ({type(given).__name__})"
        super().__init__(f"{name}={shown} cannot be used: expected {expected}.{' ' + advice if advice else ''}")


class InvalidType(InvalidOption, TypeError):
    """An argument has a type that cannot be used."""


class UnknownName(MisconfigurationException, TypeError, AttributeError):
    """A name that means nothing here: a misspelt keyword, hook, key or method."""


class NotRegistered(UnknownName, KeyError):
    """A registry was asked for a name under which it has nothing."""


class TakenName(MisconfigurationException, AttributeError, KeyError):
    """An attribute was given a name that its base class needs."""


class NotConstructed(MisconfigurationException, AttributeError):
    """A subclass's ``__init__`` has not called ``super().__init__()``, and what that sets is missing."""


class ConflictingOptions(MisconfigurationException, ValueError, RuntimeError):
    """Two arguments that exclude each other were both given."""


class Unsupported(MisconfigurationException, NotImplementedError, ValueError):
    """A feature that is known but not offered. The message names the alternative."""


class NotOffered(Unsupported, ImportError):
    """A name that Lightning has and leyden does not. As an ``ImportError`` it is heeded by code that has an alternative."""


class DeviceUnavailable(MisconfigurationException, RuntimeError):
    """A device was asked for that this machine does not have."""


class MissingMethod(MisconfigurationException, NotImplementedError):
    """A module or datamodule lacks a method that the verb needs."""


class MissingModel(MissingMethod, TypeError, AttributeError):
    """The trainer was asked for something that needs a module, and it has none yet."""


class MissingExample(MissingMethod, ValueError):
    """An export needs an example of what ``forward`` gets, and has none."""


class InvalidReturn(MisconfigurationException, TypeError, ValueError, RuntimeError):
    """A hook returned something that cannot be used."""


class InvalidLoader(MisconfigurationException, TypeError):
    """What was given as a loader cannot be iterated for batches."""


class EmptyLoader(MisconfigurationException, ValueError):
    """A loader yields no batch at all."""


class IllegalLog(MisconfigurationException, ValueError):
    """``self.log`` was called where, or with what, it cannot work."""


class AmbiguousBatchSize(MisconfigurationException, RuntimeError):
    """An epoch mean needs the batch's size, and the batch does not tell it."""


class MetricsDiffer(MisconfigurationException, RuntimeError):
    """Processes that train together logged different names, or the same name in different ways."""


class ModulesDiffer(MisconfigurationException, RuntimeError):
    """Processes that train together have modules whose parameters or buffers differ in name, shape or type."""


class TensorsDiffer(MisconfigurationException, RuntimeError):
    """Processes that train together called one exchange with tensors of different shapes or types, or different exchanges."""


class MissingMonitor(MisconfigurationException, RuntimeError, KeyError):
    """A callback or scheduler monitors a metric that was never logged."""


class NotServable(MisconfigurationException, RuntimeError):
    """A module that is to be served does not answer, or answers something else than it says."""


class MissingHyperparameter(MisconfigurationException, TypeError, KeyError):
    """A checkpoint lacks an argument that the class's constructor requires."""


class MissingText(MisconfigurationException, FileNotFoundError):
    """The text that a demo learns is not on disk, and could not be got."""


class MissingPackage(MisconfigurationException, ModuleNotFoundError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, needed_for: str, extra: str = "") -> None:
        line = f"pip install 'leyden[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{needed_for} needs the package {package!r}, which is not installed. Run: {line}")


class CheckpointError(LeydenError):
    """A checkpoint cannot be used."""


class CheckpointMissing(CheckpointError, FileNotFoundError, ValueError):
    """There is no checkpoint where one was asked for."""


class CheckpointDamaged(CheckpointError, RuntimeError):
    """A checkpoint is truncated, or a checksum in it does not match."""


class CheckpointForeign(CheckpointError, RuntimeError):
    """A file is no checkpoint, or can only be read by running code that stands in it."""


class CheckpointMismatch(CheckpointError, RuntimeError, ValueError):
    """A checkpoint does not fit the module, optimizers or loaders it is loaded into."""


class CheckpointPartial(CheckpointMismatch, KeyError):
    """A checkpoint holds weights only, and training cannot go on from it."""


class CheckpointWriteFailed(LeydenError, OSError):
    """A checkpoint could not be written. What was on disk before is intact."""


class NonFiniteLoss(LeydenError, RuntimeError, ValueError):
    """The training loss became NaN or infinite."""


class TrainingSpikeException(LeydenError, RuntimeError):
    """SpikeDetection found a loss that is far off those before it."""

    def __init__(self, batch_idx: int, *args: object) -> None:
        self.batch_idx = batch_idx
        super().__init__(f"Training spike detected in batch {batch_idx}", *args)


class LeakedStopIteration(LeydenError, RuntimeError):
    """A ``StopIteration`` escaped from user code, where it would have ended the epoch unnoticed."""


class ProcessFailed(LeydenError, RuntimeError):
    """Another process of this run failed, was killed or has left, so that this one cannot go on. The text says which, and why."""

    def __init__(self, message: str, rank: int | None = None, code: int = 1) -> None:
        super().__init__(message)
        self.rank = rank  # of the process that failed first; None where that is not known
        self.code = code  # with which a script ends that does not catch this: 137 after SIGKILL, 143 after SIGTERM, else 1


class TrainingTerminated(LeydenError, SystemExit):
    """SIGTERM or SIGUSR1 arrived while a verb ran. The state was saved; as a ``SystemExit`` it ends the process with 143."""

    def __init__(self, message: str, signal: int | None = None) -> None:
        super().__init__(message)
        self.code = 143
        self.signal = signal  # its number; None where another process got it

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.signal), vars(self)


class LeydenWarning(UserWarning):
    """Root of all warnings issued by leyden."""

    def __init__(self, *args: object) -> None:  # as above
        super().__init__(*args)


class IgnoredSetting(LeydenWarning, RuntimeWarning):
    """What was written has no effect in this run."""


class LegacyNotice(LeydenWarning):
    """A name of an older Lightning was used. It works; the text says today's name. Issued once per name and process."""


class PossibleUserWarning(LeydenWarning):
    """What was written is probably a mistake, and harmless if it was meant."""


def warn_user(text: str | Warning, category: type[Warning] = LeydenWarning) -> None:
    """Warn, pointing at the newest line on the stack that is neither ours nor of the libraries that call us back."""
    frame: FrameType | None = sys._getframe(1)
    level, torch = 2, sys.modules.get("torch")
    passed = _NOT_THE_USERS if torch is None else (*_NOT_THE_USERS, os.path.dirname(str(torch.__file__)))
    while frame is not None and frame.f_code.co_filename.startswith(passed):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level if frame is not None else 2)


def did_you_mean(given: str, known: Iterable[str], former: Iterable[str] = ()) -> str:
    """A sentence that names the nearest known name, or nothing when none is near.

    ``former`` are names that work too and are no longer today's: one of them is named where none of ``known`` is rather near.
    """
    known, former = list(known), list(former)
    close = difflib.get_close_matches(str(given), known, n=1, cutoff=0.7) or difflib.get_close_matches(
        str(given), [*known, *former], n=1, cutoff=0.6
    )
    return f" Did you mean {close[0]!r}?" if close else ""


def disable_possible_user_warnings(module: str = "") -> None:
    """Show no :class:`PossibleUserWarning` from modules whose name matches the regular expression ``module`` (all of them)."""
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)
