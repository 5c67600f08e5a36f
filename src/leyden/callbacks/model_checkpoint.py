"""ModelCheckpoint: when to write a checkpoint, under which name, and which files to keep."""

from __future__ import annotations

import difflib
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from leyden.callbacks.checkpoint import Checkpoint
from leyden.callbacks.monitor import Monitor, validates_at_epoch_end
from leyden.checkpoint.durable import clean_leftovers, duplicate
from leyden.checkpoint.files import is_remote, local_path
from leyden.checkpoint.naming import KeepBest, format_name
from leyden.distributed.rank_zero import rank_zero_info, rank_zero_warn
from leyden.errors import CheckpointWriteFailed, ConflictingOptions, InvalidOption, InvalidType, PossibleUserWarning
from leyden.module import LightningModule
from leyden.options import check_bool, check_count, read_duration
from leyden.schedule import EveryDuration, EveryN
from leyden.state.run import Run
from leyden.types import STEP_OUTPUT, Path

_FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")


class ModelCheckpoint(Checkpoint):
    """Write checkpoints by a rhythm, and keep the best ``save_top_k`` by ``monitor``.

    Args:
        dirpath: The folder. ``None``: the folder ``checkpoints`` in the logger's folder, or in ``default_root_dir`` without a
            logger. It is made at the first save, and nothing that was in it before is touched.
        filename: The files' name with the places of metrics, such as ``"{epoch}-{val_loss:.2f}"``. ``None``:
            ``"{epoch}-{step}"``.
        monitor: The metric that says which files are the best. ``None``: the newest is the best. NaN counts as the worst.
        verbose: Whether to log each save.
        save_last: Whether ``last.ckpt`` is kept, with the newest state: of the newest save, and of training's end. It is a file
            of its own and loads by itself; where it holds the same as a file of the best, it is a hard link to it. ``"link"``
            means the same.
        save_top_k: How many of the best to keep; ``-1`` for all, ``0`` for none.
        save_on_exception: Whether to write a checkpoint when training is ended by an exception.
        save_weights_only: Whether to leave optimizers, schedulers and progress out of the files.
        mode: ``"min"`` (a smaller metric is better) or ``"max"``.
        auto_insert_metric_name: Whether ``{epoch}`` in ``filename`` becomes ``epoch=3`` (or just ``3``).
        every_n_train_steps: Save after every so many optimizer steps.
        train_time_interval: Save after the batch at which so much time has passed since the last save.
        every_n_epochs: Save after every so many epochs. Where nothing else is given, after each.
        save_on_train_epoch_end: Save at the end of the training epoch (``True``) or after validation (``False``). ``None``: at
            the epoch's end if validation runs exactly there, else after validation.
        enable_version_counter: Whether a file that is already there, and not this run's to replace, gives the new one the
            suffix ``-v1``, ``-v2`` ...; if false it is replaced.
        clock: Tells seconds that never go back. For tests.

    Attributes:
        best_model_path: The best file so far, ``""`` before the first.
        best_model_score: Its score, a 0-dim tensor, or ``None``.
        best_k_models: The files that are kept by their score, path to score.
        kth_best_model_path, kth_value: The worst of them.
        last_model_path: The file of ``save_last``.
        current_score: The newest score.

    Raises:
        InvalidOption: an argument with a value that cannot be used.
        ConflictingOptions: more than one rhythm, or several best files without a ``monitor``.
        MissingMonitor: (in training) a save is due, and ``monitor`` was not logged.
        CheckpointWriteFailed: (in training) the file could not be written; those written before are intact.
    """

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    CHECKPOINT_NAME_INTERRUPTED = "interrupted"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    def __init__(
        self,
        dirpath: Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | str | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | str | Mapping[str, float] | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dirpath = _read_folder(dirpath)
        self.filename = _read_text("filename", filename, "a name such as '{epoch}-{val_loss:.2f}', or None")
        self.monitor = _read_text("monitor", monitor, "the name of a logged metric, or None")
        self.verbose = verbose
        if save_last not in (None, True, False, "link"):
            raise InvalidOption("save_last", save_last, 'True, False, "link" or None')
        self.save_last = save_last
        self.save_top_k = check_count("save_top_k", save_top_k, -1, "a number of files >= 0, or -1 for all")
        self.save_on_exception = check_bool("save_on_exception", save_on_exception)
        self.save_weights_only = check_bool("save_weights_only", save_weights_only)
        if mode not in ("min", "max"):
            raise InvalidOption("mode", mode, '"min" (smaller is better) or "max"')
        self.mode = mode
        self.auto_insert_metric_name = auto_insert_metric_name
        self._save_on_train_epoch_end = save_on_train_epoch_end
        self._enable_version_counter = enable_version_counter
        if self.monitor is None and self.save_top_k > 1:
            raise ConflictingOptions(
                f"save_top_k={save_top_k} keeps the best by a metric, and monitor=None names none. Name one, or use save_top_k "
                f"-1 (all), 0 (none) or 1 (the newest)."
            )
        self._set_rhythm(every_n_train_steps, every_n_epochs, train_time_interval)
        self._clock = clock
        self._given_dirpath = self.dirpath
        self._chooses_monitor = False
        self._key_monitor = self.monitor
        self._metric = Monitor(self.monitor or "")
        self._has_run = False
        self._agrees = False  # whether several processes have to agree on the time
        self._begin()

    def _set_rhythm(self, steps: int | None, epochs: int | None, interval: Any) -> None:
        if steps is not None:
            check_count("every_n_train_steps", steps, 0, "a number of steps >= 0, or None")
        if epochs is not None:
            check_count("every_n_epochs", epochs, 0, "a number of epochs >= 0, or None")
        duration = read_duration("train_time_interval", interval)
        if duration is not None and duration < timedelta(0):
            raise InvalidOption("train_time_interval", interval, "a time that is not negative")
        given = {"every_n_train_steps": steps, "train_time_interval": duration, "every_n_epochs": epochs}
        rhythms = {name: value for name, value in given.items() if value is not None and value != 0}
        if len(rhythms) > 1:
            shown = " and ".join(f"{name}={value!r}" for name, value in rhythms.items())
            raise ConflictingOptions(
                f"{shown} are mutually exclusive: each says when to save. Give one, or use two ModelCheckpoint callbacks."
            )
        nothing_given = steps is None and epochs is None and duration is None
        self._every_n_train_steps = steps or 0
        self._every_n_epochs = 1 if nothing_given else epochs or 0
        self._train_time_interval = duration
        self._time = None if duration is None else EveryDuration(duration.total_seconds())

    def _begin(self) -> None:
        """Start books for a new fit."""
        self.current_score: Tensor | None = None
        self.best_k_models: dict[str, Tensor] = {}
        self.kth_best_model_path = ""
        self.kth_value: Tensor = self._worst()
        self.best_model_score: Tensor | None = None
        self.best_model_path = ""
        self.last_model_path = ""
        self._interim = ""  # what a signal made us write, until the next save
        self._outdated: list[str] = []  # ours, no longer wanted, and perhaps still on the disk
        self._written: set[str] = set()  # in this process
        self._last_moment_saved: int | None = None
        self._saved_at: tuple[int, bool] | None = None  # the count of batches, and whether their epoch was ended
        self._resumed = False
        self._resumed_here = False  # and the run resumed saved to this folder
        self._resumed_at: float | None = None  # when the file that was resumed from was written
        self._pending = False  # a save waits for the validation that follows this batch
        self._warned = False
        self._doubted: set[str] = set()
        self._metric.forget()

    def _worst(self) -> Tensor:
        return torch.tensor(math.inf if self.mode == "min" else -math.inf)

    @property
    def every_n_epochs(self) -> int:
        """Epochs between saves; 0 where another rhythm holds."""
        return self._every_n_epochs

    @property
    def state_key(self) -> str:
        return self._generate_state_key(
            monitor=self._key_monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    # -- when to save
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self._has_run:  # another fit has its own best, and its own files
            self._begin()
            self._has_run = False
        if self._given_dirpath is None:
            folder = trainer.log_dir or trainer.default_root_dir
            folder = trainer.strategy.broadcast(os.path.join(folder, "checkpoints"))
            self.dirpath = _read_folder(folder)

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if trainer.is_global_zero and self.dirpath is not None and not is_remote(self.dirpath):
            clean_leftovers(local_path(self.dirpath))
        if self._resumed:
            self._settle(trainer)

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._has_run = True
        self._agrees = trainer.world_size > 1
        if self._time is not None:
            self._time.last = self._clock()
        if not self._resumed:
            self._warn_if_not_empty(trainer)

    def hears(self, hook: str) -> bool:
        by_steps = bool(self._every_n_train_steps) or self._time is not None
        mine = type(self).on_train_batch_end is ModelCheckpoint.on_train_batch_end
        return hook != "on_train_batch_end" or by_steps or not mine

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        steps = self._every_n_train_steps
        if steps:
            step = trainer.progress.step
            if step % steps or step == 0:
                return
        elif self._time is None or not self._is_time(trainer):
            return
        if self._should_skip_saving_checkpoint(trainer):
            return
        if self.monitor is not None and trainer.validation_follows:
            self._pending = True  # the metric will be this step's, and no older one
            return
        self._save(trainer, epoch_over=False)

    def _is_time(self, trainer: Run) -> bool:
        assert self._time is not None
        due = self._time(self._clock())
        return bool(trainer.strategy.broadcast(due)) if self._agrees else due  # clocks differ, and all have to save

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.fitting:
            self._metric.validation_starts(trainer)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.fitting:
            return
        self._metric.validation_ends(trainer)
        if self._should_skip_saving_checkpoint(trainer):
            return
        pending, self._pending = self._pending, False
        if pending or (not self._should_save_on_train_epoch_end(trainer) and self._is_epoch_due(trainer)):
            self._save(trainer, epoch_over=False)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if (
            self._is_epoch_due(trainer)
            and self._should_save_on_train_epoch_end(trainer)
            and not self._should_skip_saving_checkpoint(trainer)
        ):
            self._save(trainer, epoch_over=True)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        batches = trainer.progress.batches
        keeps_last = (self.save_last or self._chooses_monitor) and not trainer.fast_dev_run
        if keeps_last and batches and self._saved_at != (batches, True):
            # a run that is started again has to know that it is over
            self._write(trainer, None, self._last_path(trainer, self._monitor_candidates(trainer)))
            self._remove_outdated(trainer)
        self._drop_interim(trainer)

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        if not self.save_on_exception or isinstance(exception, CheckpointWriteFailed):
            return
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        path = self._free_path(trainer, candidates, None, ())
        self._write(trainer, path, self._last_path(trainer, candidates) if self.save_last else None, planned=False)

    def save_now(self, trainer: Run) -> None:
        """Write the present state: the run is about to be ended by a signal.

        It goes to ``last.ckpt`` where that is kept, else to ``interrupted.ckpt``, which the next save removes.
        """
        if not trainer.fitting or trainer.fast_dev_run or self.dirpath is None:
            return
        if self.save_last or self._chooses_monitor:
            self._write(trainer, None, self._last_path(trainer, self._monitor_candidates(trainer)), planned=False)
        else:
            self._interim = os.path.join(self.dirpath, self.CHECKPOINT_NAME_INTERRUPTED + self.FILE_EXTENSION)
            trainer.save_checkpoint(self._interim)

    def _drop_interim(self, trainer: Run) -> None:
        if self._interim:
            self._remove_checkpoint(trainer, self._interim)
            self._interim = ""

    def _should_skip_saving_checkpoint(self, trainer: Run) -> bool:
        return (
            not trainer.fitting
            or trainer.sanity_checking
            or bool(trainer.fast_dev_run)
            or self._last_moment_saved == _moment(trainer)
        )

    def _should_save_on_train_epoch_end(self, trainer: Run) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        return validates_at_epoch_end(trainer)

    def _is_epoch_due(self, trainer: Run) -> bool:
        return EveryN(self._every_n_epochs)(trainer.current_epoch + 1)

    # -- what to save
    def _save(self, trainer: Run, epoch_over: bool) -> None:
        """A save is due: write what is wanted, and remove what is not any more."""
        if self._chooses_monitor and self.monitor is None:
            self._choose_monitor(trainer)
        candidates = self._monitor_candidates(trainer)
        books = self.state_dict()
        path = self._take_in(trainer, candidates, epoch_over)
        last = self._last_path(trainer, candidates) if self.save_last or self._chooses_monitor else None
        if path is None and last is None:
            return
        try:
            self._write(trainer, path, last)
        except BaseException:
            self._read_books(books)
            raise
        if path is not None and self.verbose:
            score = "" if self.monitor is None else f": {self.monitor} = {float(self.best_k_models[path]):.6g}"
            rank_zero_info(f"Epoch {trainer.current_epoch}, step {trainer.global_step}{score}; saved {path!r}.")
        self._remove_outdated(trainer)
        self._drop_interim(trainer)

    def _take_in(self, trainer: Run, candidates: dict[str, Tensor], epoch_over: bool) -> str | None:
        """Enter the present state into the books; the path under which to write it, ``None`` where it is not wanted."""
        if self.save_top_k == 0:
            return None
        if self.monitor is None:
            replaced = [self.best_model_path] if self.save_top_k == 1 and self.best_model_path else []
            path = self._free_path(trainer, candidates, self.filename, replaced)
            self._outdated += [old for old in replaced if old != path]
            self.best_model_path = path
            return path
        score = self._score(trainer, candidates, epoch_over)
        if score is None:
            return None
        self.current_score = score
        kept = self._kept()
        if not kept.would_keep(float(score)):
            if self.verbose:
                rank_zero_info(f"{self.monitor} = {float(score):.6g} is not among the best {self.save_top_k}.")
            return None
        leaves = [kept.kth] if kept.kth is not None and len(self.best_k_models) == self.save_top_k else []
        path = self._free_path(trainer, candidates, self.filename, leaves)
        self.best_k_models.pop(path, None)
        self.best_k_models[path] = score
        self._rank()
        return path

    def _score(self, trainer: Run, candidates: dict[str, Tensor], epoch_over: bool) -> Tensor | None:
        assert self.monitor is not None
        if self.monitor not in candidates:
            if not self._metric.may_still_come(trainer, epoch_over):
                raise self._metric.missing("ModelCheckpoint", trainer)
            if not self._warned:
                self._warned = True
                rank_zero_warn(
                    f"ModelCheckpoint was to save by {self.monitor!r}, which has not been logged yet. Until it is, no best file "
                    f"is written.",
                    category=PossibleUserWarning,
                )
            return None
        if not self._metric.is_new(trainer):
            return None
        self._metric.taken(trainer)
        score = candidates[self.monitor].detach().cpu().squeeze()
        return self._worst() if math.isnan(float(score)) else score

    def _kept(self) -> KeepBest:
        kept = KeepBest(self.save_top_k, self.mode)
        for path, score in self.best_k_models.items():
            kept.offer(path, float(score))
        return kept

    def _rank(self) -> None:
        """Let go of what is not among the best any more, and say which of the others are the best and the worst."""
        kept = self._kept()
        self._outdated += [path for path in self.best_k_models if path not in kept.scores]
        self.best_k_models = {path: self.best_k_models[path] for path in kept.scores}
        if kept.best is not None and kept.kth is not None:
            self.best_model_path, self.best_model_score = kept.best, self.best_k_models[kept.best]
            if self.save_top_k == -1 or len(self.best_k_models) == self.save_top_k:
                self.kth_best_model_path, self.kth_value = kept.kth, self.best_k_models[kept.kth]

    def _choose_monitor(self, trainer: Run) -> None:
        name = validation_loss(trainer.callback_metrics)
        if name is not None:
            self._monitor_by(name)
            if self.best_model_path:  # the newest so far, which has no score
                self._outdated.append(self.best_model_path)
            self.best_model_path = ""

    def _monitor_by(self, name: str) -> None:
        self.monitor = self._metric.name = name

    def _monitor_candidates(self, trainer: Run) -> dict[str, Tensor]:
        """Everything that a name or ``monitor`` may ask for: the metrics, ``epoch`` and ``step``."""
        candidates = dict(trainer.callback_metrics)
        for name, count in (("epoch", trainer.current_epoch), ("step", trainer.global_step)):
            logged = candidates.get(name)
            candidates[name] = torch.tensor(count) if logged is None else logged.int()
        return candidates

    # -- under which name
    def format_checkpoint_name(
        self,
        metrics: dict[str, Tensor],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        """The path of a file, with the metrics' values in their places.

        ``"{epoch:02d}-{val_loss:.2f}"`` becomes ``epoch=03-val_loss=0.42.ckpt``. A metric that is not there counts as 0.
        ``ver`` adds ``-v`` and the number; ``prefix`` stands in front.
        """
        join, equals = self.CHECKPOINT_JOIN_CHAR, self.CHECKPOINT_EQUALS_CHAR
        template = filename or self.filename or f"{{epoch}}{join}{{step}}"
        insert = self.auto_insert_metric_name
        if insert and equals != "=":
            template, insert = _FIELD.sub(lambda match: _without_folder(match[1]) + equals + match[0], template), False
        name = format_name(template, metrics, auto_insert_metric_name=insert, extension="")
        name = join.join([*([prefix] if prefix else []), name, *([] if ver is None else [f"v{ver}"])])
        name += self.FILE_EXTENSION
        return name if self.dirpath is None else os.path.join(self.dirpath, name)

    def _free_path(self, trainer: Run, candidates: dict[str, Tensor], filename: str | None, replaced: Collection[str]) -> str:
        """The first name, counting versions, that is free or this run's to replace."""
        self._doubt_names(filename or self.filename or "", candidates)
        path = self.format_checkpoint_name(candidates, filename)
        version = self.STARTING_VERSION
        while self._enable_version_counter and path not in replaced and self._is_taken(trainer, path):
            path = self.format_checkpoint_name(candidates, filename, ver=version)
            version += 1
        return path

    def _doubt_names(self, template: str, candidates: Mapping[str, Tensor]) -> None:
        """Say once where a name in ``template`` is no metric, and a metric has nearly that name."""
        for name, _ in _FIELD.findall(template):
            known = name in candidates or name in self._doubted
            near = [] if known else difflib.get_close_matches(name, candidates, n=1, cutoff=0.85)
            if near:
                self._doubted.add(name)
                rank_zero_warn(
                    f"The filename {template!r} of ModelCheckpoint names {name!r}, which is not among the logged metrics and "
                    f"counts as 0. Did you mean {near[0]!r}?",
                    category=PossibleUserWarning,
                )

    def _is_taken(self, trainer: Run, path: str) -> bool:
        if path in self._outdated:
            return False
        if path in self._written or path in self.best_k_models or any(_holds(other, path) for other in self._others(trainer)):
            return True
        return self.file_exists(path, trainer) and not trainer.strategy.broadcast(self._is_from_abandoned_future(path))

    def _others(self, trainer: Run) -> list[Any]:
        return [writer for writer in trainer.checkpoint_callbacks if writer is not self]

    def _is_from_abandoned_future(self, path: str) -> bool:
        """Whether the run that was resumed wrote ``path`` after the point from which it goes on: it is about to do so again."""
        return self._resumed_at is not None and not is_remote(path) and os.path.getmtime(local_path(path)) >= self._resumed_at

    def _last_path(self, trainer: Run, candidates: dict[str, Tensor]) -> str:
        """Where the newest state goes. Enters it into the books."""
        path = self._free_path(trainer, candidates, self.CHECKPOINT_NAME_LAST, (self.last_model_path,))
        if self.last_model_path and self.last_model_path != path:
            self._outdated.append(self.last_model_path)
        self.last_model_path = path
        if self._chooses_monitor and self.monitor is None and not self.best_model_path:
            self.best_model_path = path
        return path

    def file_exists(self, filepath: Path, trainer: Run) -> bool:
        """Whether the first process sees a file at ``filepath``. All processes get its answer."""
        path = os.fspath(filepath)
        if is_remote(path):
            import fsspec  # type: ignore[import-untyped]  # it ships no types

            filesystem, place = fsspec.core.url_to_fs(path)
            there = trainer.is_global_zero and bool(filesystem.exists(place))
        else:
            there = trainer.is_global_zero and os.path.exists(local_path(path))
        return bool(trainer.strategy.broadcast(there))

    # -- to the disk
    def _write(self, trainer: Run, path: str | None, last: str | None, planned: bool = True) -> None:
        if planned:  # else what is due at this moment is still to come
            self._last_moment_saved = _moment(trainer)
        self._saved_at = trainer.progress.batches, trainer.progress.epoch_ended or trainer.progress.batch == 0
        self._outdated = [old for old in self._outdated if old not in (path, last)]
        if path is not None:
            self._save_checkpoint(trainer, path)
            self._written.add(path)
        if last is not None:
            if path is not None and _can_be_linked(trainer, path):
                if trainer.is_global_zero:
                    duplicate(local_path(path), local_path(last))
                trainer.strategy.barrier("last checkpoint")
            else:
                self._save_checkpoint(trainer, last)
            self._written.add(last)

    def _save_checkpoint(self, trainer: Run, filepath: str) -> None:
        """Write the present state to ``filepath``, and tell the loggers."""
        trainer.save_checkpoint(filepath, self.save_weights_only)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def _remove_checkpoint(self, trainer: Run, filepath: str) -> None:
        """Remove a file of this run that is no longer wanted."""
        trainer.remove_checkpoint(filepath)

    def _remove_outdated(self, trainer: Run, spare: str | None = None) -> None:
        wanted = {*self.best_k_models, self.best_model_path, self.last_model_path, spare}
        for path in dict.fromkeys(self._outdated):
            if path not in wanted and self.dirpath is not None and path.startswith(os.path.join(self.dirpath, "")):
                self._remove_checkpoint(trainer, path)
                self._written.discard(path)
        self._outdated = [path for path in self._outdated if path == spare]

    def _settle(self, trainer: Run) -> None:
        """After a resume: finish what a crash between writing and removing left undone."""
        source = trainer.ckpt_path
        if source is None or is_remote(source) or self.dirpath is None or is_remote(self.dirpath):
            self._remove_outdated(trainer, spare=source)
            return
        source = os.path.abspath(local_path(source))
        mine = source.startswith(os.path.join(local_path(self.dirpath), ""))
        if os.path.isfile(source) and (mine or self._resumed_here):
            self._resumed_at = os.path.getmtime(source)
        if os.path.isfile(source) and mine:
            last = local_path(self.last_model_path) if self.save_last and self.last_model_path else source
            behind = not os.path.exists(last) or os.path.getmtime(last) < os.path.getmtime(source)
            if behind and trainer.is_global_zero:
                duplicate(source, last)
        self._remove_outdated(trainer, spare=source)

    def _warn_if_not_empty(self, trainer: Run) -> None:
        folder = self._given_dirpath
        if folder is None or is_remote(folder) or self.save_top_k == 0 or trainer.fast_dev_run or trainer.ckpt_path:
            return
        if os.path.isdir(folder) and os.listdir(folder):
            rank_zero_warn(
                f"The checkpoint folder {folder!r} is not empty. What is in it stays; new files get other names where they must.",
                category=PossibleUserWarning,
            )

    def to_yaml(self, filepath: Path | None = None) -> None:
        """Write ``best_k_models``, path to score, as YAML to ``filepath`` or ``dirpath/best_k_models.yaml``."""
        if filepath is None:
            if self.dirpath is None:
                raise InvalidOption("filepath", filepath, "a path: dirpath is not known before training")
            filepath = os.path.join(self.dirpath, "best_k_models.yaml")
        lines = [f"{_quoted(path)}: {float(score)!r}\n" for path, score in self.best_k_models.items()]
        with open(filepath, "w", encoding="utf-8") as file:
            file.write("".join(lines) or "{}\n")

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "current_score": self.current_score,
            "dirpath": self.dirpath,
            "best_k_models": dict(self.best_k_models),
            "kth_best_model_path": self.kth_best_model_path,
            "kth_value": self.kth_value,
            "last_model_path": self.last_model_path,
            "outdated": list(self._outdated),
            "interim": self._interim,
            "pending": self._pending,
            "last_moment_saved": self._last_moment_saved,
            "saved_at": None if self._saved_at is None else list(self._saved_at),
            "metric": self._metric.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, Lightning's too.

        Files in another folder count among the best, and are never removed: there the logger of a resumed run has begun a
        folder of its own. Where ``dirpath`` itself was set to another folder, only ``best_model_path`` is taken.
        """
        self._begin()
        self._has_run = False
        state = self._moved(state_dict)
        elsewhere = self.dirpath is not None and state.get("dirpath", self.dirpath) != self.dirpath
        if elsewhere and self._given_dirpath is not None:
            self.best_model_path = state["best_model_path"]
            warnings.warn(
                f"The run that wrote the checkpoint saved to {state['dirpath']!r}, and this one saves to {self.dirpath!r}. "
                f"The files there are left alone, and the best are counted anew; only best_model_path is taken over.",
                PossibleUserWarning,
                stacklevel=2,
            )
            return
        self._resumed, self._resumed_here = True, not elsewhere
        self._read_books(state)
        if elsewhere:
            self.best_k_models = {path: score for path, score in self.best_k_models.items() if _may_exist(path)}
        if self.monitor is not None:
            self._rank()  # fewer are kept where save_top_k was lowered

    def _read_books(self, state: Mapping[str, Any]) -> None:
        self.best_model_score = state["best_model_score"]
        self.best_model_path = state["best_model_path"]
        self.current_score = state.get("current_score")
        self.best_k_models = dict(state.get("best_k_models", {}))
        self.kth_best_model_path = state.get("kth_best_model_path", "")
        self.kth_value = state.get("kth_value", self._worst())
        self.last_model_path = state.get("last_model_path", "")
        self._outdated = list(state.get("outdated", ()))
        self._interim = state.get("interim", "")
        self._pending = bool(state.get("pending", False))
        self._last_moment_saved = state.get("last_moment_saved")
        saved_at = state.get("saved_at")
        self._saved_at = None if saved_at is None else (int(saved_at[0]), bool(saved_at[1]))
        self._metric.load_state_dict(state.get("metric", {}))
        if self._chooses_monitor and state.get("monitor") is not None:
            self._monitor_by(state["monitor"])

    def _moved(self, state: dict[str, Any]) -> dict[str, Any]:
        """``state`` with its paths in the present folder, where the whole folder was moved to it."""
        before, now = state.get("dirpath"), self.dirpath
        if before is None or now is None or before == now or is_remote(before) or is_remote(now) or os.path.isdir(before):
            return state

        def new(path: str) -> str:
            return os.path.join(now, os.path.relpath(path, before)) if path else path

        kept = {new(path): score for path, score in state.get("best_k_models", {}).items()}
        if not all(os.path.exists(path) for path in (*kept, new(state["best_model_path"])) if path):
            return state
        paths = {name: new(state.get(name, "")) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        return {**state, **paths, "dirpath": now, "best_k_models": kept, "outdated": [new(p) for p in state.get("outdated", ())]}


def default_checkpoint(dirpath: Path | None = None) -> ModelCheckpoint:
    """What a Trainer without a checkpoint callback gets.

    With a validation loss among the metrics (see :func:`validation_loss`) the best file by it and ``last.ckpt`` are kept,
    else the newest under both names, ``epoch=0-step=100.ckpt`` and ``last.ckpt``. Which of the two is decided at the first
    save that finds such a loss.
    """
    callback = ModelCheckpoint(dirpath, save_last=True)
    callback._chooses_monitor = True
    return callback


def validation_loss(metrics: Collection[str]) -> str | None:
    """The one metric that is the validation loss: ``val_loss``, else the only one with ``val`` and ``loss`` in its name."""
    if "val_loss" in metrics:
        return "val_loss"
    found = [name for name in metrics if "val" in name.lower() and "loss" in name.lower()]
    # one that is logged by step and by epoch stands there under three names
    found = [name for name in found if not any(name == other + end for other in found for end in ("_step", "_epoch"))]
    return found[0] if len(found) == 1 else None


def _holds(writer: Any, path: str) -> bool:
    """Whether another checkpoint callback has ``path`` in its books: to keep, or to remove."""
    kept = (*getattr(writer, "best_k_models", ()), getattr(writer, "best_model_path", ""), getattr(writer, "last_model_path", ""))
    return path in kept or path in getattr(writer, "_outdated", ())


def _moment(run: Run) -> int:
    # without an optimizer the steps stay at 0, and the batches tell moments apart
    return run.progress.step or -run.progress.batches


def _can_be_linked(run: Run, path: str) -> bool:
    # a checkpoint that is a folder, is elsewhere, or is still being written has to be saved again instead
    whole = not is_remote(path) and not hasattr(run.strategy.checkpoint_io, "wait") and os.path.isfile(local_path(path))
    return bool(run.strategy.broadcast(whole))


def _read_folder(given: Path | None) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise InvalidType("dirpath", given, "a path, an URL, or None")
    path = os.fspath(given)
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(local_path(path)))


def _read_text(name: str, given: str | None, expected: str) -> str | None:
    if given is not None and not isinstance(given, str):
        raise InvalidType(name, given, expected)
    return given


def _may_exist(path: str) -> bool:
    return is_remote(path) or os.path.exists(local_path(path))


def _without_folder(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
