"""Logger: what a run asks of the place where its metrics go."""

import functools
import os
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar, overload

from torch import Tensor
from torch.nn import Module

from leyden.checked import check_number
from leyden.distributed.rank_zero import rank_zero_only as rank_zero_only
from leyden.errors import InvalidType, MissingMethod, UnknownName
from leyden.former_names import adopt_logger
from leyden.loggers.hyperparameters import tool_of_then, without_aggregation
from leyden.spelling import exact_arguments

T = TypeVar("T")


class _Settable(Generic[T]):
    """A property that a logger's author may also set, as ``self.save_dir = ...`` in ``__init__``."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self.read = read
        self.__doc__ = read.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, logger: None, owner: type) -> "_Settable[T]": ...
    @overload
    def __get__(self, logger: "Logger", owner: type) -> T: ...
    def __get__(self, logger: "Logger | None", owner: type) -> Any:
        return self if logger is None else self.read(logger)  # what was set is found before, in the logger itself


def _unsaid(logger: object, name: str) -> MissingMethod:
    kind = type(logger).__name__
    return MissingMethod(f"{kind} does not say its {name}: give it a property `{name}`, or set self.{name} in __init__.")


class Logger(ABC):
    """Base of all loggers. A logger of your own overrides ``name``, ``version``, ``log_metrics`` and ``log_hyperparams``."""

    leyden_takes_tensors: ClassVar[bool] = False
    """Whether :meth:`log_metrics` takes 0-dim tensors as they are, on their device, and reads them later in bulk.

    Such a tensor is the logger's to keep: nobody changes it afterwards. Where false, values come as Python numbers.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt_logger(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        args, kwargs = without_aggregation(self, Logger, args, kwargs)
        super().__init__(*args, **kwargs)

    def __getitem__(self, index: Any) -> Any:
        raise UnknownName(f"trainer.logger is one logger, the first, and has no [{index!r}]. Write trainer.loggers[{index!r}].")

    def __getattr__(self, name: str) -> Any:
        return tool_of_then(self, name)

    @_Settable
    def name(self) -> str | None:
        """The name of the experiment. A logger has to say it: by a property, or by setting it in ``__init__``."""
        raise _unsaid(self, "name")

    @_Settable
    def version(self) -> int | str | None:
        """The number or name of the run within the experiment. Said as :attr:`name` is."""
        raise _unsaid(self, "version")

    @_Settable
    def root_dir(self) -> str | None:
        """The folder that holds all versions of the experiment; ``None`` where the logger writes no local files."""
        return None

    @_Settable
    def log_dir(self) -> str | None:
        """The folder of this run; ``None`` where the logger writes no local files."""
        return None

    @_Settable
    def save_dir(self) -> str | None:
        """The folder under which everything stands; ``None`` where the logger writes no local files."""
        return None

    @property
    def group_separator(self) -> str:
        """What stands between a group's name and a metric's."""
        return "/"

    @property
    def experiment(self) -> Any:
        """The object underneath, for all that a logger does not cover; ``None`` where there is none."""
        return None

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write values by name. ``step`` is the x-axis; without it the logger counts by itself."""

    @abstractmethod
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write the hyper-parameters of the run."""

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Write the model's graph, where the logger can show one."""
        return

    def save(self) -> None:
        """Bring everything that was logged to its place."""
        return

    def finalize(self, status: str) -> None:
        """The verb has ended, ``status`` tells how: ``success`` or ``failed``. Another verb may follow."""
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A checkpoint was written; the callback knows where."""
        return

    @property
    def rank(self) -> int:
        """The number of this process. A subclass may set something of its own by this name."""
        own: int = self.__dict__.get("rank", rank_zero_only.rank or 0)
        return own

    @rank.setter
    def rank(self, rank: int) -> None:
        self.__dict__["rank"] = rank

    def close(self) -> None:
        """Write everything, and let go of files."""
        self.save()

    def leyden_run_folders(self, root: str) -> str | None:
        """A pattern of the folders in which runs of this logger keep checkpoints; below ``root`` where it has no folder itself.

        ``None`` where they are ``version_N`` below :attr:`root_dir`, or the one of this run's name and version.
        """
        return None

    def leyden_start(self, agree: Callable[[Any], Any] | None = None) -> None:
        """A verb begins: choose the place to write to and see that it can be written.

        Called on every process. ``agree`` returns the first process's argument on all processes; ``None`` when there is
        one process.
        """
        return

    def leyden_go_on(self, position: dict[str, Any]) -> None:
        """The run that ``position`` was taken from goes on in this process: take its place, where no other was asked for.

        Called before :meth:`leyden_start`.
        """
        return

    def leyden_give_way(self, folder: str) -> bool:
        """Another run has taken ``folder``, in which this one was going to write: take another, if none was asked for."""
        return False

    def leyden_start_over(self) -> None:
        """The run begins anew, in a place that may hold what was logged before its first checkpoint: set that aside.

        Called before :meth:`leyden_start`.
        """
        return

    def leyden_position(self) -> dict[str, Any]:
        """How far the logger has written, after writing all that it was given. Kept in a checkpoint: plain values only."""
        return {}

    def leyden_resume(self, position: dict[str, Any]) -> None:
        """Go on from where :meth:`leyden_position` was taken: what was written after it goes, so that no row is there twice."""
        return


def check_scalar(name: str, value: Any) -> None:
    """Raise :class:`InvalidType` for a value that holds more, or less, than one number."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise InvalidType(
            f"metrics[{name!r}]", f"tensor of shape {tuple(value.shape)}", "one number", "Reduce it first, such as by .mean()."
        )


def check_row(metrics: Any, step: Any) -> None:
    """Raise :class:`InvalidType` for what is no row of named values, or no step. The values are looked at by each logger."""
    if not isinstance(metrics, Mapping):
        raise InvalidType("metrics", metrics, "a dict of names and values")
    for name in metrics:
        if not isinstance(name, str):
            raise InvalidType("a name in metrics", name, "a text")
    if step is not None and type(step) is not int:
        check_number("step", step, "the number of a step, or None")


def number_of(name: str, value: Any) -> Any:
    """``value`` as a number, or the tensor that holds one. Raises :class:`InvalidType` for what is none; a text is none."""
    check_scalar(name, value)
    if isinstance(value, int | float) or (isinstance(value, Tensor) and not value.is_complex()):
        return value
    try:
        # of an array that holds one too; of a text there is none, whatever stands in it
        one: Any = None if isinstance(value, str | bytes) else value.item() if hasattr(value, "item") else value
        return float(one)
    except (TypeError, ValueError) as error:
        raise InvalidType(f"metrics[{name!r}]", value, "a number", "Write other things through logger.experiment.") from error


LIKE_A_LOGGER = ("log_metrics", "log_hyperparams", "save", "finalize", "name", "version")


def is_logger(given: object) -> bool:
    """Whether ``given`` is a logger, or has what makes one: the methods of Lightning's, whatever its class."""
    if isinstance(given, Logger):
        return True
    return not isinstance(given, type) and all(hasattr(type(given), name) or hasattr(given, name) for name in LIKE_A_LOGGER)


def keeps_place(logger: object) -> bool:
    """Whether ``logger`` has what :class:`Logger` adds to Lightning's methods. One that merely looks like it is not asked."""
    return issubclass(type(logger), Logger)


def folder_of(logger: Any, which: str = "log_dir") -> str | None:
    """The logger's folder under the name ``which``; ``None`` where it has none."""
    folder = getattr(logger, which, None)
    return os.fspath(folder) if isinstance(folder, str | os.PathLike) else None


def run_folder_of(logger: Any, root: str) -> str:
    """The folder of the run that ``logger`` logs.

    Its own, else below its ``save_dir``, or ``root`` where it has none, by the names of experiment and version that it gives.
    """
    own = folder_of(logger, "leyden_run_dir") or folder_of(logger)
    if own is not None:
        return own
    folder, name, version = folder_of(logger, "save_dir") or root, getattr(logger, "name", None), getattr(logger, "version", None)
    if isinstance(name, str) and name:
        folder = os.path.join(folder, name)
    if isinstance(version, int | str) and version != "":
        folder = os.path.join(folder, version if isinstance(version, str) else f"version_{version}")
    return folder


def rank_zero_experiment(fn: Callable[[Any], T]) -> Callable[[Any], T]:
    """For an ``experiment`` property: the real object on the first process, elsewhere one that takes any call."""

    @functools.wraps(fn)
    def experiment(self: Any) -> T:
        if rank_zero_only.rank:
            return DummyExperiment()  # type: ignore[return-value]  # it answers to every name
        return fn(self)

    return experiment


class DummyExperiment:
    """Answers to every name and takes every call, and does nothing."""

    def __getattr__(self, name: str) -> "DummyExperiment":
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # copy and pickle ask for these
        return self

    def nop(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> "DummyExperiment":
        return self

    def __getitem__(self, index: Any) -> "DummyExperiment":
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        pass

    def __enter__(self) -> "DummyExperiment":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@exact_arguments
class DummyLogger(Logger):
    """Stands for the user's loggers in ``fast_dev_run``: takes everything, writes nothing."""

    leyden_takes_tensors = True

    def __init__(self) -> None:
        self._experiment = DummyExperiment()

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> "DummyExperiment":
        return self._experiment

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getitem__(self, index: int) -> "DummyExperiment":
        return self._experiment

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._experiment


@exact_arguments
class LoggerCollection(Logger):
    """Several loggers as one: what it is told, it tells each of them."""

    def __init__(self, logger_iterable: Iterable[Logger]) -> None:
        self._loggers = list(logger_iterable)

    def __getitem__(self, index: int) -> Logger:
        return self._loggers[index]

    def __len__(self) -> int:
        return len(self._loggers)

    @property
    def name(self) -> str:
        return "_".join(str(logger.name) for logger in self._loggers)

    @property
    def version(self) -> str:
        return "_".join(str(logger.version) for logger in self._loggers)

    @property
    def save_dir(self) -> str | None:
        return self._loggers[0].save_dir if self._loggers else None

    @property
    def log_dir(self) -> str | None:
        return self._loggers[0].log_dir if self._loggers else None

    @property
    def experiment(self) -> list[Any]:
        return [logger.experiment for logger in self._loggers]

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        for logger in self._loggers:
            logger.log_metrics(metrics, step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        for logger in self._loggers:
            logger.log_hyperparams(params, *args, **kwargs)

    def save(self) -> None:
        for logger in self._loggers:
            logger.save()

    def finalize(self, status: str) -> None:
        for logger in self._loggers:
            logger.finalize(status)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


LightningLoggerBase = Logger  # its name until 1.9
