"""CSVLogger: metrics as one table in ``metrics.csv``, hyper-parameters in ``hparams.yaml``."""

import csv
import io
import os
import zlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from leyden.checkpoint.durable import put_in_place
from leyden.checkpoint.files import reach
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import InvalidOption, InvalidType, LeydenWarning, warn_user
from leyden.loggers.base import Logger, check_row, check_scalar, rank_zero_experiment
from leyden.loggers.folder import InFolder, RunFolder
from leyden.loggers.hyperparameters import as_dict
from leyden.loggers.yaml_text import to_yaml
from leyden.metrics.newest import read_numbers
from leyden.spelling import exact_arguments
from leyden.types import Path


@exact_arguments
class ExperimentWriter:
    """Writes the table and the hyper-parameters of one run.

    Rows are appended; only a new column makes the file anew, under a temporary name that then replaces it.
    """

    NAME_HPARAMS_FILE: ClassVar[str] = "hparams.yaml"
    NAME_METRICS_FILE: ClassVar[str] = "metrics.csv"

    def __init__(self, log_dir: str, prefix: str = "", flush_every_n_steps: int = 100) -> None:
        self.log_dir = log_dir
        self.hparams: dict[str, Any] = {}
        self._waiting: list[tuple[dict[str, Any], int]] = []
        self.metrics_file_path = os.path.join(log_dir, self.NAME_METRICS_FILE)
        self._prefix = prefix
        self.__every = flush_every_n_steps
        self.__enough = flush_every_n_steps  # more while the disk refuses, so that few attempts are made
        self._flushed = 0  # the step at the last flush
        self._hparams_wait = False
        self.is_full = False  # whether rows have waited long enough
        self._files, _ = reach(log_dir)
        self._remote = "://" in log_dir
        self._columns: list[str] = []
        self._rows = self._size = self._crc = 0
        self._look()

    def __getattr__(self, name: str) -> Any:
        known = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name.startswith("add_"):  # add_scalar, add_image, add_figure ...
            raise AttributeError(
                f"{known}: this is the experiment of a CSVLogger, which keeps numbers. {name} is TensorBoard's: pass "
                f"Trainer(logger=leyden.loggers.TensorBoardLogger('.')), or a list of both loggers."
            )
        raise AttributeError(known)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows that wait to be written, each with its ``step``."""
        return self._read()

    @property
    def metrics_keys(self) -> list[str]:
        """The columns."""
        return list(self._columns)

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row. Without a ``step`` rows are counted. Raises :class:`InvalidType` for a tensor of several numbers."""
        if type(metrics_dict) is not dict or type(step) is not int:
            check_row(metrics_dict, step)
        given: Mapping[Any, Any] = metrics_dict
        for name, value in given.items():
            if not isinstance(name, str):
                check_row(metrics_dict, step)
            if isinstance(value, Tensor) and value.numel() != 1:
                check_scalar(name, value)
        if step is None:
            step = self._rows + len(self._waiting)
        self._waiting.append((dict(metrics_dict), step))
        if step - self._flushed >= self.__enough or len(self._waiting) >= self.__enough or step < self._flushed:
            self._flushed = step
            self.is_full = True

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Add hyper-parameters."""
        self.hparams.update(params)
        self._hparams_wait = True

    def expect_hparams(self) -> None:
        """A run begins: its hyper-parameters' file is to be there, whatever stands in it."""
        self._hparams_wait = self._hparams_wait or not self._files.exists(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE))

    def save(self) -> None:
        """Write what waits. When the disk refuses, rows wait on, with a :class:`LeydenWarning`."""
        self.is_full = False
        try:
            if self._hparams_wait:
                self._replace(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE), to_yaml(self.hparams).encode())
                self._hparams_wait = False
            if self._waiting:
                self._write(self._read())
                self._waiting.clear()
            self.__enough = self.__every
        except OSError as error:
            self.__enough = 2 * max(self.__enough, len(self._waiting))
            warn_user(
                f"{self.metrics_file_path} cannot be written ({error}); {len(self._waiting)} rows wait for the next attempt.",
                LeydenWarning,
            )

    def position(self) -> dict[str, Any]:
        """How much stands in the file: rows, bytes, columns and a checksum."""
        self.save()
        if self._size and not self._remote:
            with open(self.metrics_file_path, "rb") as file:
                os.fsync(file.fileno())
        return {"rows": self._rows, "bytes": self._size, "columns": list(self._columns), "crc": self._crc}

    @property
    def has_rows(self) -> bool:
        """Whether the file holds any row."""
        return self._rows > 0

    def begin_with(self, path: str, position: Mapping[str, Any]) -> bool:
        """Let the file hold what stood in the table ``path`` at ``position``; false where that is not there any more."""
        kept = until(self._text(path), position)
        if kept is None:
            return False
        if path != self.metrics_file_path or kept != self._text():
            self._replace(self.metrics_file_path, kept)
        self._look()
        return True

    def _read(self) -> list[dict[str, Any]]:
        values = [value for metrics, _ in self._waiting for value in metrics.values()]
        numbers = iter(read_numbers(dict(enumerate(values))).values())
        return [{**{self._prefix + name: next(numbers) for name in metrics}, "step": step} for metrics, step in self._waiting]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if not self._remote:
            try:
                size = os.stat(self.metrics_file_path).st_size
            except FileNotFoundError:
                size = 0
            if self._size and not size:
                warn_user(
                    f"{self.metrics_file_path} is gone while the run goes on: {self._rows} rows are lost. It is made again.",
                    LeydenWarning,
                )
            if size != self._size:
                self._look()  # somebody else wrote
        new = {name for row in rows for name in row}.difference(self._columns)
        if new or self._remote:
            columns = sorted(new.union(self._columns)) if new else self._columns
            before = parse(self._text())[1]
            text = table(columns, [*before, *rows])
            self._replace(self.metrics_file_path, text)
            self._columns, self._size, self._crc = columns, len(text), zlib.crc32(text)
        else:
            text = table(self._columns, rows, header=False)
            self._append(text)
            self._size, self._crc = self._size + len(text), zlib.crc32(text, self._crc)
        self._rows += len(rows)

    def _look(self) -> None:
        text = self._text()
        if text and not text.endswith(b"\n"):
            text += b"\n"  # a killed process left half a line
            self._replace(self.metrics_file_path, text)
        self._columns, rows = parse(text)
        self._rows, self._size, self._crc = len(rows), len(text), zlib.crc32(text)

    def _text(self, path: str | None = None) -> bytes:
        """A file's content, by default this one's; nothing where there is none."""
        try:
            with self._files.open(path or self.metrics_file_path, "rb") as file:
                text: bytes = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        return text

    def _append(self, text: bytes) -> None:
        with open(self.metrics_file_path, "r+b", buffering=0) as file:
            try:
                file.seek(self._size)
                written = file.write(text)
                if written != len(text):
                    raise OSError(f"only {written} of {len(text)} bytes were written")
            except OSError:
                file.truncate(self._size)
                raise

    def _replace(self, path: str, text: bytes) -> None:
        self._files.makedirs(self.log_dir, exist_ok=True)
        if self._remote:
            self._files.pipe_file(path, text)
            return
        put_in_place(path, text)


@exact_arguments
class CSVLogger(InFolder, Logger):
    """Write metrics to ``save_dir/name/version_N/metrics.csv``: a column for each metric and ``step``, in alphabetical order.

    Args:
        save_dir: The folder under which everything stands. It is created when a run starts.
        name: The experiment's folder; ``None`` or ``""`` for none.
        version: The run's folder: a number (``version_3``), or a string taken as it is. By default the next free number.
            A folder that exists is gone on with: rows are appended.
        prefix: Stands before each metric's name, with a ``-`` between.
        flush_logs_every_n_steps: Rows are written after this many steps, and when a verb ends or a checkpoint is saved.

    Raises :class:`InvalidOption` at the start of a run when the folder cannot be written.
    """

    leyden_takes_tensors: ClassVar[bool] = True
    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self,
        save_dir: Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        if isinstance(flush_logs_every_n_steps, bool) or not isinstance(flush_logs_every_n_steps, int):
            raise InvalidType("flush_logs_every_n_steps", flush_logs_every_n_steps, "a number of steps >= 1")
        if flush_logs_every_n_steps < 1:
            raise InvalidOption("flush_logs_every_n_steps", flush_logs_every_n_steps, "a number of steps >= 1")
        self._chosen = RunFolder(save_dir, name, version, writes=_is_table)
        self._prefix = f"{prefix}{self.LOGGER_JOIN_CHAR}" if prefix else ""
        self.__every = flush_logs_every_n_steps
        self.__writer: ExperimentWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The object that writes the files."""
        if self.__writer is None:
            self._folder.claim()
            self.__writer = ExperimentWriter(self._folder.path, prefix=self._prefix, flush_every_n_steps=self.__every)
        return self.__writer

    def leyden_start(self, agree: Callable[[Any], Any] | None = None) -> None:
        self._folder.agree(agree)
        self.experiment.expect_hparams()

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row: numbers, or 0-dim tensors that are read from their device when rows are written."""
        writer = self.__writer or self.experiment
        writer.log_metrics(metrics, step)
        if writer.is_full:
            self.save()

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any) -> None:
        """Add hyper-parameters, and write them all to ``hparams.yaml``."""
        self.experiment.log_hparams(as_dict(params))
        self.save()

    def save(self) -> None:
        """Write what waits. Nothing is created where nothing was logged."""
        if self.__writer is not None:
            self.__writer.save()

    def finalize(self, status: str) -> None:
        self.save()

    def leyden_start_over(self) -> None:
        if self.__writer is None:
            self._folder.set_aside(_is_table)

    def leyden_position(self) -> dict[str, Any]:
        if rank_zero_only.rank or not self._folder.claimed:
            return {}
        return {"version": self._folder.version, "folder": self._folder.absolute, **self.experiment.position()}

    def leyden_resume(self, position: dict[str, Any]) -> None:
        """Go on in the run that ``position`` was taken from.

        In the same folder the file is cut to it. A run in another folder begins with a copy of the rows written until
        then, unless rows stand there already. Where these rows are not found any more, a :class:`LeydenWarning` says so.
        """
        if rank_zero_only.rank or "rows" not in position:
            return
        writer = self.experiment
        here = self._folder.absolute == position["folder"]
        if not here and position["rows"] == 0:
            return
        for folder in [writer.log_dir] if here else self._folder.earlier(position):
            if writer.has_rows and folder != writer.log_dir:
                return
            if writer.begin_with(os.path.join(folder, ExperimentWriter.NAME_METRICS_FILE), position):
                return
        warn_user(
            f"{position['folder']} does not hold the {position['rows']} rows that were written when the checkpoint was made. "
            f"{writer.metrics_file_path} goes on without them.",
            LeydenWarning,
        )


def table(columns: list[str], rows: list[dict[str, Any]], *, header: bool = True) -> bytes:
    """Rows as lines of CSV; what a row lacks stays empty."""
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, restval="", extrasaction="ignore", lineterminator="\r\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return "".join(lines).encode()


class _Lines(list[str]):
    """Lines that end in a line feed. The writer is told a carriage return too: it quotes names that hold what ends a line."""

    def write(self, line: str) -> None:
        self.append(f"{line[:-2]}\n")


def parse(text: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a table."""
    reader = csv.reader(io.StringIO(text.decode(errors="replace"), newline=""))
    columns = next(reader, [])
    return columns, [dict(zip(columns, row, strict=False)) for row in reader]


def until(text: bytes, position: Mapping[str, Any]) -> bytes | None:
    """What a table held at ``position``; ``None`` where it does not hold that any more."""
    kept = text[: position["bytes"]]
    if len(kept) != position["bytes"] or zlib.crc32(kept) != position["crc"]:
        # columns that came later made the file anew
        kept = table(position["columns"], parse(text)[1][: position["rows"]])
    return kept if zlib.crc32(kept) == position["crc"] else None


def _is_table(name: str) -> bool:
    return name == ExperimentWriter.NAME_METRICS_FILE
