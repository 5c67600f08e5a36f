"""ModelCheckpoint: when to write a checkpoint, by which metric, and under which name."""

import os
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor

from leyden.callbacks.checkpoint import Checkpoint, GivenFolder, store_of, usual_folder
from leyden.callbacks.monitor import Monitor, validates_at_epoch_end, validation_loss
from leyden.callbacks.older import FormerCheckpointNames, checkpoint_arguments, say_not_called
from leyden.callbacks.trigger import Moments, moment, read_trigger, refuse_unranked
from leyden.checked import check_bool, check_text
from leyden.checkpoint.files import absolute
from leyden.checkpoint.naming import check_template, format_name
from leyden.checkpoint.retention import Recorded, Retention
from leyden.checkpoint.upkeep import Upkeep, holds
from leyden.distributed.rank_zero import rank_zero_info
from leyden.errors import CheckpointError, CheckpointWriteFailed, InvalidOption
from leyden.module import LightningModule
from leyden.schedule import EveryDuration, EveryN
from leyden.spelling import for_tests
from leyden.state.run import Run
from leyden.strategies.own_exchanges import decided
from leyden.types import STEP_OUTPUT, Path


@for_tests("clock")
class ModelCheckpoint(FormerCheckpointNames, Checkpoint):
    """Write checkpoints by one trigger, and keep the best ``save_top_k`` by ``monitor``.

    Args:
        dirpath: The folder. ``None``: the folder ``checkpoints`` in the first logger's folder, or in ``default_root_dir`` without
            a logger. It is made at the first save, and nothing that was in it before is touched.
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
        legacy: Arguments of older Lightnings: ``filepath``, ``prefix``, ``period``, ``save_best_only``.

    Attributes:
        best_model_path: The best file so far, ``""`` before the first.
        best_model_score: Its score, a 0-dim tensor, or ``None``.
        best_k_models: The files that are kept by their score, path to score.
        kth_best_model_path, kth_value: The worst of them.
        last_model_path: The file of ``save_last``.
        current_score: The score of the file that was kept by its score last.

    Raises:
        InvalidOption: an argument with a value that cannot be used.
        ConflictingOptions: more than one trigger, or several best files without a ``monitor``.
        MissingMonitor: (in training) a save is due, and ``monitor``, or a metric in ``filename``, was not logged.
        CheckpointWriteFailed: (in training) the file could not be written; those written before are intact.
    """

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    CHECKPOINT_NAME_INTERRUPTED = "interrupted"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    dirpath: Any = GivenFolder()
    save_top_k = Recorded[int]("k")
    mode = Recorded[str]("mode")
    best_model_path = Recorded[str]("best")
    best_model_score = Recorded[Tensor | None]("best_score")
    best_k_models = Recorded[dict[str, Tensor]]("scores")
    kth_best_model_path = Recorded[str]("kth")
    kth_value = Recorded[Tensor]("kth_score")
    last_model_path = Recorded[str]("last")
    current_score = Recorded[Tensor | None]("current")

    def __init__(
        self,
        dirpath: Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: Literal["min", "max"] = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | str | Mapping[str, float] | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        *,
        clock: Callable[[], float] = time.monotonic,
        **legacy: Any,
    ) -> None:
        given: Any = {"dirpath": dirpath, "filename": filename, "monitor": monitor, "save_top_k": save_top_k, "mode": mode}
        given = checkpoint_arguments(ModelCheckpoint, legacy, {**given, "every_n_epochs": every_n_epochs})
        dirpath, filename, _, save_top_k, mode, every_n_epochs = given.values()
        self.dirpath = dirpath
        self.filename = check_template(filename)
        self.monitor = check_text("monitor", monitor, "the name of a logged metric, or None", empty=False)
        self.verbose = verbose
        if save_last not in (None, True, False, "link"):
            raise InvalidOption("save_last", save_last, 'True, False, "link" or None')
        self.save_last = save_last
        self.save_on_exception = check_bool("save_on_exception", save_on_exception)
        self.save_weights_only = check_bool("save_weights_only", save_weights_only)
        self.retention = Retention(save_top_k, mode)
        self.auto_insert_metric_name = auto_insert_metric_name
        self._save_on_train_epoch_end = save_on_train_epoch_end
        self._enable_version_counter = enable_version_counter
        trigger = read_trigger(every_n_train_steps, every_n_epochs, train_time_interval)
        self._every_n_train_steps, self._every_n_epochs, self._train_time_interval = trigger
        self.__time = None if trigger.interval is None else EveryDuration(trigger.interval.total_seconds())
        self.__clock = clock
        self.__chooses_monitor = False
        self.__key_monitor = self.monitor
        self.__metric = Monitor(self.monitor or "")
        self.__has_run = False
        self.__upkeep = Upkeep(self.retention)
        self.__begin()

    def choose_monitor(self) -> None:
        """Watch the validation loss, where there is one and no monitor was named: the best by it is kept, not the newest."""
        self.__chooses_monitor = self.monitor is None and self.save_top_k >= 1

    def __begin(self) -> None:
        """Start records for a new fit."""
        self.__upkeep.forget()
        self.__moments = Moments()
        self.__metric.forget()

    @property
    def every_n_epochs(self) -> int:
        """Epochs between saves; 0 where another trigger holds."""
        return self._every_n_epochs

    @property
    def state_key(self) -> str:
        return self._generate_state_key(
            monitor=self.__key_monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    # -- when to save
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        say_not_called(type(self))
        refuse_unranked(self.monitor, self.save_top_k, self.__chooses_monitor)
        self.__upkeep.store = store_of(trainer)
        if self.__has_run:  # another fit has its own best, and its own files
            self.__begin()
            self.__has_run = False
        if self._given_dirpath is None:
            vars(self)["dirpath"] = trainer.strategy.broadcast(usual_folder(trainer))  # not given: another fit has another

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if self.dirpath is not None:
            self.__upkeep.store.clean(self.dirpath, chosen=self._given_dirpath is None)
        if self.__upkeep.resumed:
            source = None if trainer.ckpt_path is None else absolute(trainer.ckpt_path)
            if source is not None and self.dirpath is not None:
                self.__upkeep.settle(source, self.dirpath, keeps_last=bool(self.save_last))
            self.__remove_outdated(trainer, spare=source)

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__has_run = True
        if self.__time is not None:
            self.__time.last = self.__now(trainer)
        folder, begins = self._given_dirpath, not trainer.ckpt_path and not self.__upkeep.resumed
        if folder is not None and begins and self.save_top_k != 0 and not trainer.fast_dev_run:
            self.__upkeep.warn_if_not_empty(folder)

    def leyden_wants(self, hook: str) -> bool:
        by_steps = bool(self._every_n_train_steps) or self.__time is not None
        mine = type(self).on_train_batch_end is ModelCheckpoint.on_train_batch_end
        return hook != "on_train_batch_end" or by_steps or not mine

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        steps = self._every_n_train_steps
        if steps:
            step = trainer.leyden_fit.progress.step
            if step % steps or step == 0:
                return
        elif self.__time is None or not self.__time(self.__now(trainer)):
            return
        if self._should_skip_saving_checkpoint(trainer):
            return
        if self.monitor is not None and trainer.leyden_fit.validation_follows:
            self.__moments.pending = True  # the metric will be this step's, and no older one
            return
        self.__save(trainer, epoch_over=False)

    def __now(self, trainer: Run) -> float:
        """Seconds on the clock that all processes agree on; alone, on this callback's own."""
        course = trainer.leyden_fit.course
        return self.__clock() if course.alone else course.talks.now_for(self.__time)

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.leyden_fitting:
            self.__metric.validation_starts(trainer)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.leyden_fitting:
            return
        self.__metric.validation_ends(trainer)
        if self._should_skip_saving_checkpoint(trainer):
            return
        pending, self.__moments.pending = self.__moments.pending, False
        if pending or (not self._should_save_on_train_epoch_end(trainer) and self.__is_epoch_due(trainer)):
            self.__save(trainer, epoch_over=False)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        due = self.__is_epoch_due(trainer) and self._should_save_on_train_epoch_end(trainer)
        if due and not self._should_skip_saving_checkpoint(trainer):
            self.__save(trainer, epoch_over=True)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        progress = trainer.leyden_fit.progress
        unjudged = bool(self.monitor and self.save_top_k) and not self.best_model_path and self.__metric.is_unjudged(trainer)
        keeps_last = (self.save_last or unjudged) and not trainer.fast_dev_run
        if keeps_last and progress.batches and self.__moments.batches != (progress.batches, True):
            candidates = self._monitor_candidates(trainer)
            if "epoch" not in trainer.callback_metrics:  # the trainer's is the next one's by now
                candidates["epoch"] = torch.tensor(progress.epoch - (progress.batch == 0))
            # a run that is started again has to know that it is over
            self.__write(trainer, None, self.__last_path(trainer, candidates))
            self.__remove_outdated(trainer)
        self.__drop_interim(trainer)

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        if not self.save_on_exception or isinstance(exception, CheckpointWriteFailed | CheckpointError):
            return  # no state of training: it could not be written, or not be put back
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        path = self.__free_path(trainer, candidates, None, ())
        self.__write(trainer, path, self.__last_path(trainer, candidates) if self.save_last else None, planned=False)

    def save_now(self, trainer: Run) -> None:
        """Write the present state: the run is about to be ended by a signal.

        It goes to ``last.ckpt`` where that is kept, else to ``interrupted.ckpt``, which the next save removes.
        """
        if not trainer.leyden_fitting or trainer.fast_dev_run or self.dirpath is None:
            return
        if self.save_last:
            self.__write(trainer, None, self.__last_path(trainer, self._monitor_candidates(trainer)), planned=False)
        else:
            self.retention.interim = os.path.join(self.dirpath, self.CHECKPOINT_NAME_INTERRUPTED + self.FILE_EXTENSION)
            trainer.save_checkpoint(self.retention.interim)

    def __drop_interim(self, trainer: Run) -> None:
        if self.retention.interim:
            self._remove_checkpoint(trainer, self.retention.interim)
            self.retention.interim = ""

    def _should_skip_saving_checkpoint(self, trainer: Run) -> bool:
        dry = trainer.sanity_checking or bool(trainer.fast_dev_run)
        return dry or not trainer.leyden_fitting or self.__moments.is_saved(trainer)

    def _should_save_on_train_epoch_end(self, trainer: Run) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        return validates_at_epoch_end(trainer)

    def check_monitor_top_k(self, trainer: Run, current: Tensor | None = None) -> bool:
        """Whether a file with the score ``current`` would be among the best that are kept. No other process is asked."""
        return self.retention.admits(current)

    def __is_epoch_due(self, trainer: Run) -> bool:
        return EveryN(self._every_n_epochs)(trainer.current_epoch + 1)

    # -- what to save
    def __save(self, trainer: Run, epoch_over: bool) -> None:
        """A save is due: write what is wanted, and remove what is not any more."""
        if self.__chooses_monitor and self.monitor is None:
            self.__choose_monitor(trainer)
        candidates = self.__metric.all_named(self, self._monitor_candidates(trainer), trainer, epoch_over)
        before = ModelCheckpoint.state_dict(self)
        path = self.__take_in(trainer, candidates, epoch_over)
        last = self.__last_path(trainer, candidates) if self.save_last else None
        if path is None and last is None:
            return
        try:
            self.__write(trainer, path, last)
        except BaseException:
            self.retention.load_state_dict(before)
            self.__read(before)
            raise
        if path is not None and self.verbose:
            score = "" if self.monitor is None else f": {self.monitor} = {float(self.best_k_models[path]):.6g}"
            rank_zero_info(f"Epoch {trainer.current_epoch}, step {trainer.global_step}{score}; saved {path!r}.")
        self.__remove_outdated(trainer)
        self.__drop_interim(trainer)

    def __take_in(self, trainer: Run, candidates: dict[str, Tensor], epoch_over: bool) -> str | None:
        """Enter the present state into the records; the path under which to write it, ``None`` where it is not wanted."""
        if self.save_top_k == 0:
            return None
        score = None
        if self.monitor is not None:
            score = self.__score(trainer, candidates, epoch_over)
            if score is None:
                return None
            wanted = self.retention.wants(score)
            if not (decided(trainer.strategy, wanted, all=True) and wanted):
                if self.verbose:
                    rank_zero_info(f"{self.monitor} = {float(score):.6g} is not among the best {self.save_top_k}.")
                return None
        path = self.__free_path(trainer, candidates, self.filename, self.retention.replaced(score))
        self.retention.offer(path, score, keeps_last=bool(self.save_last))
        return path

    def __score(self, trainer: Run, candidates: dict[str, Tensor], epoch_over: bool) -> Tensor | None:
        assert self.monitor is not None
        if self.monitor not in candidates:
            self.__metric.wait_for_first(trainer, epoch_over, "ModelCheckpoint", "no best file is written")
            return None
        if not self.__metric.is_new(trainer):
            return None
        self.__metric.taken(trainer)
        return self.retention.judge(candidates[self.monitor])

    def __choose_monitor(self, trainer: Run) -> None:
        if (name := validation_loss(trainer.callback_metrics)) is not None:
            self.__monitor_by(name)
            self.retention.start_ranking()

    def __monitor_by(self, name: str) -> None:
        self.monitor = self.__metric.name = name

    def _monitor_candidates(self, trainer: Run) -> dict[str, Tensor]:
        """Everything that a name or ``monitor`` may ask for: the metrics, ``epoch`` and ``step``."""
        candidates = dict(trainer.callback_metrics)
        for name, count in (("epoch", trainer.current_epoch), ("step", trainer.global_step)):
            logged = candidates.get(name)
            candidates[name] = torch.tensor(count) if logged is None else logged.int()
        return candidates

    # -- under which name
    def format_checkpoint_name(
        self, metrics: dict[str, Tensor], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """The path of a file, with the metrics' values in their places.

        ``"{epoch:02d}-{val_loss:.2f}"`` becomes ``epoch=03-val_loss=0.42.ckpt``. A metric that is not there counts as 0.
        ``ver`` adds ``-v`` and the number; ``prefix`` stands in front.
        """
        name = format_name(
            filename or self.filename or None,
            metrics,
            auto_insert_metric_name=self.auto_insert_metric_name,
            prefix=prefix or "",
            version=ver,
            extension=self.FILE_EXTENSION,
            join=self.CHECKPOINT_JOIN_CHAR,
            equals=self.CHECKPOINT_EQUALS_CHAR,
        )
        return name if self.dirpath is None else os.path.join(self.dirpath, name)

    def __free_path(self, trainer: Run, candidates: dict[str, Tensor], filename: str | None, replaced: Collection[str]) -> str:
        """The first name, counting versions, that is free or this run's to replace."""
        path, version = self.format_checkpoint_name(candidates, filename), self.STARTING_VERSION
        while self._enable_version_counter and path not in replaced and self.__is_taken(trainer, path):
            path = self.format_checkpoint_name(candidates, filename, ver=version)
            version += 1
        return path

    def __is_taken(self, trainer: Run, path: str) -> bool:
        if path in self.retention.outdated:
            return False
        if self.retention.holds(path) or any(holds(each, path) for each in trainer.leyden_keepers if each is not self):
            return True
        return self.file_exists(path, trainer) and not self.__upkeep.is_given_up(path)

    def __last_path(self, trainer: Run, candidates: dict[str, Tensor]) -> str:
        """Where the newest state goes. Enters it into the records."""
        path = self.__free_path(trainer, candidates, self.CHECKPOINT_NAME_LAST, (self.last_model_path,))
        self.retention.renew_last(path)
        if self.__chooses_monitor and self.monitor is None and not self.best_model_path:
            self.best_model_path = path
        return path

    def file_exists(self, filepath: Path, trainer: Run) -> bool:
        """Whether the first process sees a file at ``filepath``. All processes get its answer."""
        return store_of(trainer).exists(os.fspath(filepath))

    # -- to the disk
    def __write(self, trainer: Run, path: str | None, last: str | None, planned: bool = True) -> None:
        if planned:  # else what is due at this moment is still to come
            self.__moments.planned = moment(trainer)
        self.__moments.batches = trainer.leyden_fit.progress.batches, trainer.leyden_fit.progress.epoch_ended
        self.retention.claim((path, last))
        if path is not None:
            self._save_checkpoint(trainer, path)
            self.retention.written.add(path)
        if last is not None:
            copies = type(self)._save_checkpoint is ModelCheckpoint._save_checkpoint  # else the subclass writes it too
            if path is None or not (copies and self.__upkeep.store.duplicate(path, last, just_saved=True)):
                self._save_checkpoint(trainer, last)
            self.retention.written.add(last)

    def _save_checkpoint(self, trainer: Run, filepath: str) -> None:
        """Write the present state to ``filepath``, and tell the loggers."""
        trainer.save_checkpoint(filepath, self.save_weights_only)
        if trainer.is_global_zero:
            for logger in (each for each in trainer.loggers if hasattr(each, "after_save_checkpoint")):
                logger.after_save_checkpoint(self)

    def _remove_checkpoint(self, trainer: Run, filepath: str) -> None:
        """Remove a file of this run that is no longer wanted."""
        trainer.leyden_remove_checkpoint(filepath)

    def __remove_outdated(self, trainer: Run, spare: str | None = None) -> None:
        if trainer.leyden_ckpt_is_named and trainer.ckpt_path is not None:
            spare = absolute(trainer.ckpt_path)  # the same command may be given again
        for path in self.retention.unwanted(self.dirpath, spare):
            self._remove_checkpoint(trainer, path)
            self.retention.written.discard(path)
        self.retention.removed(spare)

    def to_yaml(self, filepath: Path | None = None) -> None:
        """Write ``best_k_models``, path to score, as YAML to ``filepath`` or ``dirpath/best_k_models.yaml``."""
        self.__upkeep.write_yaml(filepath, self.dirpath)

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "dirpath": self.dirpath,
            **self.retention.state_dict(),
            **self.__moments.state_dict(),
            "metric": self.__metric.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, Lightning's too.

        Files in another folder count among the best, and are never removed: there the logger of a resumed run has begun a
        folder of its own. Where ``dirpath`` itself was set to another folder, only ``best_model_path`` is taken.
        """
        self.__begin()
        self.__has_run = False
        if self.__upkeep.take_over(state_dict, self.dirpath, fixed=self._given_dirpath is not None):
            self.__read(state_dict)
            if self.monitor is not None:
                self.retention.trim()  # fewer are kept where save_top_k was lowered

    def __read(self, state: Mapping[str, Any]) -> None:
        self.__moments.load_state_dict(state)
        self.__metric.load_state_dict(state.get("metric", {}))
        if self.__chooses_monitor and state.get("monitor") is not None:
            self.__monitor_by(state["monitor"])
