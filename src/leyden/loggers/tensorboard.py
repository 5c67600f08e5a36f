"""TensorBoardLogger: event files for TensorBoard, through PyTorch's SummaryWriter."""

import csv
import importlib
import importlib.util
import os
import shutil
import struct
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from leyden.checkpoint.durable import put_in_place
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import InvalidOption, LeydenWarning, MissingPackage, warn_user
from leyden.loggers.base import Logger, check_row, number_of, rank_zero_experiment
from leyden.loggers.folder import InFolder, RunFolder
from leyden.loggers.hyperparameters import as_dict, flat
from leyden.loggers.undisturbed import undisturbed
from leyden.loggers.yaml_text import to_yaml
from leyden.metrics.newest import read_numbers
from leyden.spelling import arguments_of, exact_arguments, unknown_argument
from leyden.tree import tree_map
from leyden.types import Path

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
else:
    SummaryWriter = Any  # importing it takes a second

ROWS = 200
"""Rows that wait at most before they are written."""
SECONDS = 10.0
"""Seconds that a row waits at most, so that TensorBoard shows a slow run too."""


_WRITERS_ARGUMENTS = ("comment", "purge_step", "max_queue", "flush_secs", "filename_suffix")
"""What ``torch.utils.tensorboard.SummaryWriter`` takes beside the folder. It is not asked: importing it takes a second."""


def load_packages() -> None:
    """Import what writing takes, where that has not happened. Raises :class:`InvalidOption` where it cannot be imported.

    What the packages warn of, their own dependencies, is not shown. (Once only: whoever touches the filters makes Python show
    again what it has shown.)
    """
    missing = [name for name in ("torch.utils.tensorboard", "tensorboard.compat.proto.event_pb2") if name not in sys.modules]
    if not missing:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in missing:
            try:
                importlib.import_module(package)
            except Exception as error:  # a broken installation raises whatever it wants
                raise InvalidOption(
                    "logger",
                    "TensorBoardLogger",
                    "a package tensorboard that can be imported",
                    f"Importing it raised {type(error).__name__}: {error}. Mend the installation, or pass logger=CSVLogger('.').",
                ) from error


@exact_arguments
class TensorBoardLogger(InFolder, Logger):
    """Write metrics to event files in ``save_dir/name/version_N[/sub_dir]``.

    Args:
        save_dir: The folder under which everything stands. It is created when a run starts.
        name: The experiment's folder; ``None`` or ``""`` for none.
        version: The run's folder: a number (``version_3``), or a string taken as it is. By default the next free number.
        log_graph: Whether :meth:`log_graph` writes the model's graph, which needs an ``example_input_array``.
        default_hp_metric: Whether hyper-parameters come with a metric ``hp_metric`` of -1 where none is given: TensorBoard
            shows hyper-parameters only with a metric.
        prefix: Stands before each metric's name, with a ``-`` between.
        sub_dir: A folder below the run's, for the event files.
        kwargs: For ``torch.utils.tensorboard.SummaryWriter``.

    Raises :class:`MissingPackage` without the package ``tensorboard``, and :class:`InvalidOption` at the start of a run
    when the folder cannot be written.
    """

    leyden_takes_tensors: ClassVar[bool] = True
    LOGGER_JOIN_CHAR: ClassVar[str] = "-"
    NAME_HPARAMS_FILE: ClassVar[str] = "hparams.yaml"
    NAME_CSV_TAGS: ClassVar[str] = "meta_tags.csv"

    def __init__(
        self,
        save_dir: Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: Path | None = None,
        **kwargs: Any,
    ) -> None:
        for word in kwargs:
            if word not in _WRITERS_ARGUMENTS:
                raise unknown_argument(type(self).__name__, word, [*arguments_of(TensorBoardLogger), *_WRITERS_ARGUMENTS])
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingPackage("tensorboard", "TensorBoardLogger", "tensorboard")
        self._chosen = RunFolder(save_dir, name, version, sub_dir, writes=_is_of_another_process)
        self._log_graph = log_graph
        self._default_hp_metric = default_hp_metric
        self._prefix = f"{prefix}{self.LOGGER_JOIN_CHAR}" if prefix else ""
        self._kwargs = kwargs
        self.__writer: SummaryWriter | None = None
        self._rows: list[tuple[dict[str, Any], int, float]] = []
        self._enough = ROWS  # that wait before they are written; more while the disk refuses, so that few attempts are made
        self._counted = 0
        self._written_at = time.monotonic()
        self._files: dict[str, None] = {}  # event files of this run, in order, relative to its folder
        self.hparams: dict[str, Any] = {}
        self._hparams_wait: list[tuple[dict[str, Any], int, bool]] = []  # metrics, step, whether they are drawn: also among _rows
        self._yaml_waits = False
        self._hparams_written = False

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open file, after what waits was written: a copy makes a file of its own."""
        self.save()
        self.__note_files()
        return {**self.__dict__, "_TensorBoardLogger__writer": None}

    @property
    def sub_dir(self) -> str | None:
        """The folder below the run's in which event files stand."""
        return self._folder.sub_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The ``SummaryWriter``, for images, histograms, text and the like."""
        if self.__writer is None:
            self._folder.claim()
            load_packages()
            from torch.utils.tensorboard import SummaryWriter

            self.__writer = SummaryWriter(log_dir=self._folder.path, **self._kwargs)
            self._yaml_waits = self._yaml_waits or not self.__there(self.NAME_HPARAMS_FILE)
        return self.__writer

    def leyden_start(self, agree: Callable[[Any], Any] | None = None) -> None:
        self._folder.agree(agree)
        if not rank_zero_only.rank:
            self._yaml_waits = self._yaml_waits or not self.__there(self.NAME_HPARAMS_FILE)
            load_packages()  # now, and not in the middle of training when the first rows are written

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row: numbers, 0-dim tensors that are read from their device when rows are written, or dicts of such.

        A dict of values is one chart with several lines. Raises :class:`InvalidType` for what is no number.
        """
        check_row(metrics, step)
        if not self._rows and self.__writer is None and rank_zero_only.rank:
            return
        if step is None:
            step = self._counted
        self._rows.append((_as_numbers(metrics), step, time.time()))
        self._counted += 1
        if len(self._rows) >= self._enough or time.monotonic() - self._written_at >= SECONDS:
            self.__write()

    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace | None = None,
        metrics: dict[str, Any] | float | None = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Add hyper-parameters, and write them all to ``hparams.yaml``; to the event file with the next :meth:`save`.

        ``metrics`` are values to compare runs by: a number (``hp_metric``) or numbers by name, drawn at ``step`` (0).
        """
        if rank_zero_only.rank:
            return
        self.hparams.update(as_dict(params))
        self._yaml_waits = True
        if metrics is None:
            compared: dict[str, Any] = {"hp_metric": -1} if self._default_hp_metric else {}
        else:
            compared = dict(metrics) if isinstance(metrics, Mapping) else {"hp_metric": metrics}
        if compared:
            drawn = metrics is not None or not self._hparams_written
            self._hparams_wait.append((compared, step or 0, drawn))
            if drawn:
                self._rows.append((compared, step or 0, time.time()))  # now: its place is before what is logged later
            self._hparams_written = True
        _ = self.experiment
        self.__write_yaml()

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Write the model's graph, where the logger was made with ``log_graph=True``.

        The forward that this takes leaves random state, buffers and modes as they were.
        """
        if not self._log_graph or rank_zero_only.rank:
            return
        example = getattr(model, "example_input_array", None) if input_array is None else input_array
        if example is None:
            warn_user(
                "log_graph=True needs an input: set example_input_array on the module, or pass input_array. No graph is written.",
                LeydenWarning,
            )
            return
        place = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        example = tree_map(example, Tensor, lambda tensor: tensor.to(place))
        try:
            with undisturbed(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracing warns of every Python branch
                self.experiment.add_graph(model, example)
        except Exception as error:  # whatever the model's own code, or the tracer, raises
            warn_user(
                f"The graph of {type(model).__name__} is not written: its example input cannot be traced ({error}). Make "
                f"example_input_array a tensor, or a tuple of tensors, that forward takes.",
                LeydenWarning,
            )

    def save(self) -> None:
        """Write what waits. Nothing is created where nothing was logged."""
        if rank_zero_only.rank:
            return
        self.__write()
        if self.__writer is not None:
            try:
                self.__writer.flush()
            except OSError as error:
                self.__refused(error)
        if self._yaml_waits:
            self.__write_yaml()

    def __refused(self, error: OSError) -> None:
        """The disk refuses: what waits goes on waiting. A writer whose thread has died of that writes nothing any more."""
        self._enough = 2 * max(self._enough, len(self._rows))
        warn_user(
            f"{self._folder.path} cannot be written ({error}); {len(self._rows)} rows wait for the next attempt.", LeydenWarning
        )
        writer = self.__writer
        if writer is not None and writer._get_file_writer().event_writer._async_writer._worker.exception is not None:
            self.__note_files()
            self.__writer = None

    def __write_yaml(self) -> None:
        self._folder.claim()
        try:
            if not self._folder.remote:
                path = os.path.join(self._folder.path, self.NAME_HPARAMS_FILE)
                os.makedirs(self._folder.path, exist_ok=True)
                put_in_place(path, to_yaml(self.hparams).encode())
                with open(os.path.join(self._folder.path, self.NAME_CSV_TAGS), "w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([("key", "value"), *self.hparams.items()])  # as 0.7.1 kept them
            self._yaml_waits = False
        except OSError as error:
            self.__refused(error)

    def finalize(self, status: str) -> None:
        """Write what waits, close the files and end the threads that write them. Logging on makes a new file."""
        self.save()
        if self.__writer is not None:
            self.__note_files()
            try:
                self.__writer.close()
            except OSError as error:
                self.__refused(error)
            self.__writer = None

    def leyden_start_over(self) -> None:
        if self.__writer is None:
            self._folder.set_aside(_is_events)

    def leyden_position(self) -> dict[str, Any]:
        if rank_zero_only.rank or self._folder.remote:
            return {}
        self.save()
        self.__note_files()
        sizes = {name: os.path.getsize(os.path.join(self._folder.path, name)) for name in self._files if self.__there(name)}
        return {
            "version": self._folder.version,
            "folder": self._folder.absolute,
            "files": sizes,
            "counted": self._counted,
            "hparams": self._hparams_written,
        }

    def leyden_resume(self, position: dict[str, Any]) -> None:
        """Go on in the run that ``position`` was taken from.

        In the same folder its files are cut to it, and later event files beside them go. A run in another folder begins
        with a copy of what was written until then, unless event files stand there already. Where that is not found any
        more, a :class:`LeydenWarning` says so.
        """
        if rank_zero_only.rank or "files" not in position or self._folder.remote:
            return
        sizes: dict[str, int] = position["files"]
        here = self._folder.path
        before = [here] if self._folder.absolute == position["folder"] else self._folder.earlier(position) if sizes else []
        there = next((folder for folder in before if _holds(folder, sizes)), None)
        self.__note_files()
        mine = set(self._files)
        if not before or (there != here and here not in before[:1] and self.__event_files({""}) - mine):
            return
        if there is None:
            warn_user(
                f"{position['folder']} does not hold the {sum(sizes.values())} bytes of events that were written when the "
                f"checkpoint was made. {here} goes on without them.",
                LeydenWarning,
            )
            return
        if self.__writer is not None:
            self.__writer.close()
            self.__writer = None
        later = self.__event_files({os.path.dirname(name) for name in sizes} | {""}) - set(sizes)
        for name in later - (set() if position["hparams"] else mine):
            os.unlink(os.path.join(here, name))
        self._folder.claim()
        for name, size in sizes.items():
            path = os.path.join(here, name)
            if there != here:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.copyfile(os.path.join(there, name), path)
            if os.path.getsize(path) != size:
                os.truncate(path, size)
        self._files = dict.fromkeys(sizes)
        self._counted = position["counted"]
        if position["hparams"]:
            self._hparams_written = True
            self._hparams_wait.clear()
        self._rows = [(metrics, step, time.time()) for metrics, step, drawn in self._hparams_wait if drawn]

    def __event_files(self, folders: set[str]) -> set[str]:
        """The event files in some folders below the run's, named from there."""
        found = set()
        for folder in folders:
            where = os.path.join(self._folder.path, folder)
            for entry in os.listdir(where) if os.path.isdir(where) else []:
                if entry.startswith("events.out.tfevents."):
                    found.add(os.path.join(folder, entry))
        return found

    def __look_for_files(self) -> None:
        """See that the open file still has its name: what is written to a deleted file is lost."""
        if self.__writer is None or self._folder.remote:
            return
        path = self.__writer._get_file_writer().event_writer._file_name
        if not os.path.isfile(path):
            warn_user(f"{path} is gone while the run goes on: what it held is lost. A new one is made.", LeydenWarning)
            self.__writer.close()
            self.__writer = None
            self._folder.claimed = False

    def __there(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self._folder.path, name))

    def __note_files(self) -> None:
        if self.__writer is None:
            return
        writers: dict[str, Any] = self.__writer.all_writers  # type: ignore[assignment]  # declared None, filled by its constructor
        for writer in writers.values():
            path = writer.event_writer._file_name
            self._files[os.path.relpath(path, self._folder.path)] = None

    def __write(self) -> None:
        """Hand all rows to the event writer. When the disk refuses, they wait on, with a :class:`LeydenWarning`."""
        self._written_at = time.monotonic()
        rows, hparams = self._rows, self._hparams_wait
        try:
            self.__write_rows()
            self._enough = ROWS
        except OSError as error:
            self._hparams_wait = hparams if self._rows is rows else self._hparams_wait
            self._rows = rows
            self.__refused(error)

    def __write_rows(self) -> None:
        """One record a row."""
        if self._hparams_wait:
            self.__write_hparams()
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        self.__look_for_files()
        writer = self.experiment
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values_of = [value for metrics, _, _ in rows for value in metrics.values()]
        parts = [part for value in values_of for part in (value.values() if isinstance(value, Mapping) else (value,))]
        numbers = iter(read_numbers(dict(enumerate(parts))).values())
        records = []
        for metrics, step, at in rows:
            values = []
            for name, value in metrics.items():
                if isinstance(value, Mapping):
                    writer.add_scalars(self._prefix + name, {key: next(numbers) for key in value}, step, at)
                else:
                    values.append(Summary.Value(tag=self._prefix + name, simple_value=float(next(numbers))))
            if values:
                event = Event(wall_time=at, step=int(step), summary=Summary(value=values))
                records.append(event.SerializeToString())
        if records:
            self._append(writer, records)

    def _append(self, writer: SummaryWriter, records: list[bytes]) -> None:
        """Put records into the event file, in its frame of lengths and checksums.

        By hand, and not through the writer's queue of ten: passing each record to its thread takes longer than all the rest.
        """
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        heads: dict[int, bytes] = {}
        frames: list[bytes] = []
        for record in records:
            size = len(record)
            if size not in heads:
                length = struct.pack("<Q", size)
                heads[size] = length + struct.pack("<I", masked_crc32c(length))
            frames += (heads[size], record, struct.pack("<I", masked_crc32c(record)))
        events = writer._get_file_writer().event_writer
        events.flush()  # its thread has nothing to write now
        size = 0 if self._folder.remote else os.path.getsize(events._file_name)
        try:
            events._general_file_writer.write(b"".join(frames))
            events._general_file_writer.flush()
        except OSError:
            if not self._folder.remote:  # no half of a record, behind which nobody would read on
                os.truncate(events._file_name, size)
            raise

    def __write_hparams(self) -> None:
        waiting, self._hparams_wait = self._hparams_wait, []
        from torch.utils.tensorboard.summary import hparams

        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flat(self.hparams).items()
        }
        compared: dict[str, Any] = {}
        for metrics, _, _ in waiting:
            compared.update({self._prefix + name: value for name, value in metrics.items()})
        for summary in hparams(plain, compared):
            self.experiment._get_file_writer().add_summary(summary)


def _as_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a row in which each value is a number, a tensor of one, or a dict of such."""
    row: dict[str, Any] = {}
    for name, value in metrics.items():
        several = isinstance(value, Mapping)
        row[name] = {key: number_of(name, part) for key, part in value.items()} if several else number_of(name, value)
    return row


def _holds(folder: str, sizes: Mapping[str, int]) -> bool:
    paths = [(os.path.join(folder, name), size) for name, size in sizes.items()]
    return all(os.path.isfile(path) and os.path.getsize(path) >= size for path, size in paths)


def _is_events(name: str) -> bool:
    return name.startswith("events.out.tfevents.")


def _is_of_another_process(name: str) -> bool:
    """Whether another process wrote this event file: its name says by which it was made. The user may have made one here."""
    return _is_events(name) and f".{os.getpid()}." not in name
