"""WandbLogger: runs of Weights & Biases, through the package ``wandb``."""

import glob
import importlib
import inspect
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch.nn import Module

from leyden.checkpoint.files import local_path
from leyden.checkpoint.random_state import preserved_random_state
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, LeydenWarning, warn_user
from leyden.loggers.background import Background
from leyden.loggers.base import Logger, check_row, rank_zero_experiment
from leyden.loggers.services import (
    Found,
    LogModel,
    Row,
    SentCheckpoints,
    Waiting,
    apart,
    check_log_model,
    check_writable,
    hyperparameters,
    is_plain,
    need,
    now,
    prefixed,
    read_rows,
)
from leyden.loggers.wandb_files import STEP, Journal, earlier_folders, set_aside, take_up
from leyden.spelling import arguments_of, exact_arguments, unknown_argument
from leyden.types import Path

_SETTINGS = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only", "_every_n_train_steps")


@exact_arguments
class WandbLogger(Logger):
    """Write to a run of Weights & Biases. ``logger.experiment`` is the ``wandb.Run``.

    The run begins with the first verb of the Trainer, or when :attr:`experiment` is first asked for, and ends with the process or
    with ``wandb.finish()``: several verbs write to one run. Where ``wandb.run`` is under way already, that one is taken.

    Args:
        name: The run's name on display.
        save_dir: The folder under which ``wandb`` writes.
        version: The run's id. A run that has it is gone on with.
        offline: Write to disk only; ``wandb sync`` sends it later. Nothing touches the network.
        dir: The same as ``save_dir``, for which ``save_dir=None`` makes room.
        id: The same as ``version``.
        anonymous: Passed on; today's ``wandb`` does nothing with it.
        project: The project. By default the environment variable ``WANDB_PROJECT``, else ``lightning_logs``.
        log_model: Whether the files of a ModelCheckpoint become artifacts, the newest as ``latest`` and the best as ``best``:
            ``True`` at the end of training (with ``save_top_k=-1`` as they are written), ``"all"`` as they are written.
        experiment: A run to write to.
        prefix: Stands before each metric's name, with a ``-`` between.
        checkpoint_name: The artifact's name. By default ``model-`` and the run's id.
        add_file_policy: ``"mutable"``: the file is copied before it is sent. ``"immutable"``: it is not.
        kwargs: For ``wandb.init``, such as ``entity``, ``group``, ``tags``, ``mode``.

    Raises:
        MissingPackage: ``wandb`` is not installed.
        ConflictingOptions: ``log_model`` and ``offline`` were both given.
        InvalidOption: at the start of a run, the folder cannot be written.
    """

    leyden_takes_tensors: ClassVar[bool] = True
    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self,
        name: str | None = None,
        save_dir: Path | None = ".",
        version: str | None = None,
        offline: bool = False,
        dir: Path | None = None,
        id: str | None = None,
        anonymous: bool | None = None,
        project: str | None = None,
        log_model: LogModel = False,
        experiment: Any = None,
        prefix: str = "",
        checkpoint_name: str | None = None,
        add_file_policy: Literal["mutable", "immutable"] = "mutable",
        **kwargs: Any,
    ) -> None:
        need("wandb", "WandbLogger", "wandb")
        self._log_model = check_log_model(log_model)
        if offline and log_model:
            raise ConflictingOptions(
                f"WandbLogger was given offline=True and log_model={log_model!r}: artifacts are sent to the server, which an "
                f"offline run does not touch. Leave one of them out."
            )
        if add_file_policy not in ("mutable", "immutable"):
            raise InvalidOption("add_file_policy", add_file_policy, '"mutable" or "immutable"')
        for word, folder in (("save_dir", save_dir), ("dir", dir)):
            if folder is not None and not isinstance(folder, str | os.PathLike):
                raise InvalidType(word, folder, "a path, or None")
        self._offline = bool(offline)
        self._prefix = prefix
        if experiment is not None and not callable(getattr(experiment, "log", None)):
            raise InvalidType("experiment", experiment, "a run of W&B, which has log, or None")
        self._experiment = experiment
        self.add_file_policy = add_file_policy
        chosen = save_dir if save_dir is not None else dir
        self._wandb_init: dict[str, Any] = {
            "name": name,
            "project": project or os.environ.get("WANDB_PROJECT", "lightning_logs"),
            "dir": None if chosen is None else local_path(os.fspath(chosen)),
            "id": version or id,
            "resume": "allow",
            "anonymous": "allow" if anonymous else None,
            **({"mode": "offline"} if offline else {}),
            **kwargs,
        }
        if kwargs:
            _refuse_unknown(kwargs)
        self._project: str | None = self._wandb_init["project"]
        self._save_dir: str | None = self._wandb_init["dir"]
        self._name: str | None = self._wandb_init["name"]
        self._id: str | None = self._wandb_init["id"]
        self._attach_id: str | None = None
        self._checkpoint_name = checkpoint_name
        self.__checkpoints = SentCheckpoints(self._log_model, _SETTINGS)
        self.__waiting = Waiting()
        self.__background: Background | None = None
        self.__journal: Journal | None = None
        self.__in_verb = False
        self.__anew = False

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the run, which a copy finds again by its id."""
        self.save()
        state = {**self.__dict__, "_experiment": None}
        state |= {"_WandbLogger__journal": None, "_WandbLogger__background": None, "_WandbLogger__in_verb": False}
        if self._experiment is not None:
            state["_id"] = getattr(self._experiment, "id", None)
            state["_attach_id"] = getattr(self._experiment, "_attach_id", None)
            state["_name"] = getattr(self._experiment, "name", None)
        return state

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``wandb.Run``, for images, tables, artifacts and all that it offers. It begins where there is none."""
        self.save()
        return self.__run()

    def __run(self) -> Any:
        if self._experiment is not None:
            return self._experiment
        wandb = _package()
        running = wandb.run
        if running is not None:
            if self._id is None or getattr(running, "id", None) != self._id:
                warn_user(
                    "A run of wandb is already in progress, and this WandbLogger writes to it. For a run of its own call "
                    "wandb.finish() first.",
                    UserWarning,
                )
            self._experiment = running
            return running
        with apart():
            if self._attach_id is not None and hasattr(wandb, "_attach"):
                self._experiment = wandb._attach(self._attach_id)
            else:
                self._experiment = wandb.init(**_arguments(wandb.init, self._wandb_init))
                define = getattr(self._experiment, "define_metric", None)
                if define is not None and self._wandb_init.get("sync_tensorboard"):
                    define("*", step_metric="global_step")
                elif define is not None:
                    define(STEP)
                    define("*", step_metric=STEP, step_sync=True)
        return self._experiment

    def watch(self, model: Module, log: str | None = "gradients", log_freq: int = 100, log_graph: bool = True) -> None:
        """Log histograms every ``log_freq`` batches: of ``"gradients"``, of ``"parameters"``, or of ``"all"``.

        ``log_graph`` adds the model's layers. ``logger.experiment.unwatch(model)`` ends it.
        """
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any) -> None:
        """Put hyper-parameters into the run's config. Classes and functions stand there by name, other objects as their text."""
        if rank_zero_only.rank:
            return
        plain = {name: value if _is_json(value) else str(value) for name, value in hyperparameters(params).items()}
        self.experiment.config.update(plain, allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row: numbers, tensors, or anything that ``wandb`` shows. The step goes along as ``trainer/global_step``.

        While a verb of the Trainer runs, numbers are collected for a second and written in the background. They are there when a
        checkpoint is saved, when :attr:`experiment` is asked for, and when the verb ends.
        """
        check_row(metrics, step)
        if rank_zero_only.rank:
            return
        row = prefixed(metrics, self._prefix and self._prefix + self.LOGGER_JOIN_CHAR)
        at = now()
        if self.__in_verb and is_plain(row):
            if self.__waiting.add(row, step, at):
                self.__hand_over()
            return
        self.save()
        for numbers, _, _ in read_rows([(row, step, at)]):
            self.__send(numbers, step, at)

    def __hand_over(self) -> None:
        """Give what waits to the thread."""
        if self.__background is None:
            self.__background = Background(self.__write)
        self.__background.give(self.__waiting.take())

    def __write(self, rows: list[Row]) -> None:
        while rows:
            row, step, at = rows[0]
            self.__send(row, step, at)
            del rows[0]

    def __send(self, row: dict[str, Any], step: int | None, at: float) -> None:
        if step is not None and not self._wandb_init.get("sync_tensorboard"):
            row[STEP] = step
        self.__run().log(row)
        if self.__journal is not None:
            self.__journal.note(row, at)

    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table: ``columns`` and rows of ``data``, or a pandas ``dataframe``. Cells may be ``wandb.Image``s."""
        if rank_zero_only.rank:
            return
        with preserved_random_state(devices=False):
            wandb = _package()
            self.log_metrics({key: wandb.Table(columns=columns, data=data, dataframe=dataframe)}, step)

    def log_text(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[str]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log text as a table, as :meth:`log_table` does."""
        self.log_table(key, columns, data, dataframe, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log images: tensors, numpy arrays, PIL images or paths of files.

        ``kwargs`` are lists with an item for each image (``caption``, ``masks``, ``boxes``).
        """
        self.__log_media("images", "Image", key, images, step, kwargs)

    def log_audio(self, key: str, audios: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log audio: arrays or paths of files. ``kwargs`` are lists with an item for each (``caption``, ``sample_rate``)."""
        self.__log_media("audios", "Audio", key, audios, step, kwargs)

    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log videos: arrays or paths of files. ``kwargs`` are lists with an item for each (``caption``, ``fps``, ``format``)."""
        self.__log_media("videos", "Video", key, videos, step, kwargs)

    def __log_media(self, what: str, kind: str, key: str, given: list[Any], step: int | None, each: Mapping[str, Any]) -> None:
        if rank_zero_only.rank:
            return
        if not isinstance(given, list):
            raise InvalidType(what, given, "a list", f"Pass {what}=[...].")
        for word, values in each.items():
            if len(values) != len(given):
                raise InvalidOption(word, values, f"a list of {len(given)}, one for each of {what}")
        with preserved_random_state(devices=False):
            make = getattr(_package(), kind)
            made = [make(item, **{word: values[index] for word, values in each.items()}) for index, item in enumerate(given)]
            self.log_metrics({key: made}, step)

    @property
    def save_dir(self) -> str | None:
        """The folder under which ``wandb`` writes."""
        return self._save_dir

    @property
    def name(self) -> str | None:
        """The project's name. The run's own is ``logger.experiment.name``."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's id; before it has begun, the one that was asked for."""
        return self._experiment.id if self._experiment is not None else self._id

    @staticmethod
    def download_artifact(
        artifact: str, save_dir: Path | None = None, artifact_type: str | None = None, use_artifact: bool | None = True
    ) -> str:
        """Download an artifact from the server, and return the folder it is in.

        Args:
            artifact: Its path, such as ``user/project/model-run:best``.
            save_dir: The folder. By default one that ``wandb`` chooses.
            artifact_type: Its type.
            use_artifact: Whether the run that is under way, if any, counts as one that uses it.
        """
        if rank_zero_only.rank:
            return ""
        wandb = _package()
        if wandb.run is not None and use_artifact:
            found = wandb.run.use_artifact(artifact)
        else:
            found = wandb.Api().artifact(artifact, type=artifact_type)
        folder: str = found.download(root=None if save_dir is None else local_path(os.fspath(save_dir)))
        return folder

    def use_artifact(self, artifact: str, artifact_type: str | None = None) -> Any:
        """Let the run count as one that uses ``artifact`` (a path, as ``user/project/name:alias``), and return that artifact."""
        return self.experiment.use_artifact(artifact, type=artifact_type)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A checkpoint was written: where ``log_model`` says so, it becomes an artifact."""
        self.__send_checkpoints(self.__checkpoints.note(checkpoint_callback))

    def __send_checkpoints(self, files: list[Found]) -> None:
        if not files:
            return
        run = self.experiment
        with preserved_random_state(devices=False):
            wandb = _package()
            for path, aliases, metadata in files:
                if not self._checkpoint_name:
                    self._checkpoint_name = f"model-{run.id}"
                artifact = wandb.Artifact(name=self._checkpoint_name, type="model", metadata=metadata)
                add = artifact.add_dir if os.path.isdir(path) else artifact.add_file
                add(path, name="model.ckpt", policy=self.add_file_policy)
                run.log_artifact(artifact, aliases=aliases)

    def save(self) -> None:
        """Hand to ``wandb`` what waits."""
        if self.__waiting:
            self.__hand_over()
        if self.__background is not None and self.__background.wait():
            warn_user(f"Rows cannot be written to W&B: {self.__background.error}. They wait for the next attempt.", LeydenWarning)

    def finalize(self, status: str) -> None:
        """A verb has ended. After a success, checkpoints that ``log_model`` left for now become artifacts. The run goes on."""
        self.__in_verb = False
        if rank_zero_only.rank:
            return
        self.save()
        if self.__background is not None:
            self.__background.end()
            self.__background = None
        if self.__journal is not None:
            self.__journal.close()
        if status == "success" and self._experiment is not None:
            self.__send_checkpoints(self.__checkpoints.at_the_end())

    # -- what a run of ours asks
    def leyden_run_folders(self, root: str) -> str | None:
        folder = os.path.join(self._save_dir or root, self._project or "")
        return os.path.join(glob.escape(folder), glob.escape(str(self._id)) if self._id is not None else "*")

    def leyden_start(self, agree: Callable[[Any], Any] | None = None) -> None:
        if not rank_zero_only.rank:
            if self._experiment is None and self._save_dir is not None and self._wandb_init.get("mode") != "disabled":
                check_writable("save_dir", self._save_dir, "Give another save_dir, or logger=False.")
                inside = os.path.join(self._save_dir, "wandb")
                if os.path.lexists(inside):
                    check_writable("save_dir", inside, "Give another save_dir, or logger=False.")
            run = self.__run()
            if getattr(run, "_is_finished", False) is True:
                raise ConflictingOptions(
                    f"The W&B run {run.id} was ended by finish(), and this WandbLogger writes to it. Make another WandbLogger; "
                    f"with id={run.id!r} it goes on with that run."
                )
            self.__begin_journal(run)
        self.__in_verb = True
        if agree is not None:
            self._id = agree(self.version)

    def __begin_journal(self, run: Any) -> None:
        folder = getattr(run, "dir", None)
        if self.__journal is not None or getattr(run, "offline", False) is not True or not isinstance(folder, str):
            return
        folder = os.path.dirname(folder)
        if os.path.isdir(folder):
            if self.__anew:
                set_aside(earlier_folders(folder, str(run.id)))
                self.__anew = False
            self.__journal = Journal(folder)

    def leyden_start_over(self) -> None:
        self.__anew = self._experiment is None and self._id is not None

    def leyden_go_on(self, position: dict[str, Any]) -> None:
        """Take the run's id, where none was asked for."""
        if self._experiment is None and self._id is None and position.get("project") == self._project and "wandb" in position:
            self._id = self._wandb_init["id"] = str(position["wandb"])

    def leyden_position(self) -> dict[str, Any]:
        if rank_zero_only.rank or self._experiment is None:
            return {}
        self.save()
        step = getattr(self._experiment, "step", None)
        position = {"wandb": str(self.version), "project": self._project, "at_step": step if isinstance(step, int) else 0}
        if self.__journal is not None:
            self.__journal.sync()
            position["journaled"] = self.__journal.number
        return position

    def leyden_resume(self, position: dict[str, Any]) -> None:
        """Go on in the run that ``position`` was taken from, where it was offline.

        What other processes wrote to it is cut to the position, and rows until there that a kill has lost are written again. A
        run on the server keeps what it has got.
        """
        run = self._experiment
        if rank_zero_only.rank or self.__journal is None or "journaled" not in position or str(run.id) != position.get("wandb"):
            return
        if self.__journal.number:
            return  # the same process goes on: its file is open
        folder = os.path.dirname(run.dir)
        earlier = earlier_folders(folder, str(run.id))
        if not earlier and position["at_step"]:
            warn_user(
                f"{os.path.dirname(folder)} does not hold what the run {run.id} had written when the checkpoint was made. It "
                f"goes on without.",
                LeydenWarning,
            )
        lost = take_up(earlier, position["journaled"], position["at_step"])
        if position["at_step"] > len(lost):
            run.log({}, step=position["at_step"] - len(lost), commit=False)
        for at, row in lost:
            run.log({**row, "_timestamp": at})
        self.__journal.number = position["journaled"]


def _package() -> Any:
    if "wandb" not in sys.modules:
        with apart():
            importlib.import_module("wandb")
    return sys.modules["wandb"]


def _is_json(value: Any) -> bool:
    if isinstance(value, list | dict):
        return True  # wandb looks into them
    try:
        json.dumps(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _arguments(init: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """``given`` without ``anonymous``, where it was not asked for and ``init`` warns whenever it is there."""
    known = inspect.signature(init).parameters.get("anonymous")
    if given["anonymous"] is None and known is not None and known.default is not None:
        return {name: value for name, value in given.items() if name != "anonymous"}
    return given


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    """Raise :class:`UnknownName` for a word that neither the logger nor ``wandb.init`` takes."""
    known = inspect.signature(_package().init).parameters
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return
    for word in given:
        if word not in known:
            raise unknown_argument("WandbLogger", word, [*arguments_of(WandbLogger.__init__), *known])
