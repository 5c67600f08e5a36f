"""MLFlowLogger: runs of MLflow, on a server, in a database or in a folder, through the package ``mlflow``."""

import glob
import os
import random
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from leyden.checked import check_text
from leyden.checkpoint.files import local_path
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import IgnoredSetting, InvalidOption, InvalidType, LeydenWarning, warn_user
from leyden.loggers.background import Background
from leyden.loggers.base import Logger, check_row, number_of, rank_zero_experiment
from leyden.loggers.hyperparameters import as_dict, flat
from leyden.loggers.services import (
    Found,
    LogModel,
    Row,
    SentCheckpoints,
    Waiting,
    apart,
    check_log_model,
    check_writable,
    need,
    now,
    plain_name,
    prefixed,
    read_rows,
)
from leyden.loggers.yaml_text import to_yaml
from leyden.spelling import exact_arguments
from leyden.types import Path

_FOLDER, _WHERE = "file:", "MLFLOW_TRACKING_URI"
_METRICS, _PARAMS = 1000, 100  # what MLflow takes in one batch
_LONGEST = 250  # characters of a parameter's value, which every version of MLflow takes
_LARGEST = 1.7976931348623157e308  # what databases hold in place of infinity
_SETTINGS = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only", "_every_n_train_steps", "_every_n_val_epochs")
_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED", "aborted": "KILLED"}
_THAT_DRAW = ("utils.name_utils", "utils.request_utils", "utils.rest_utils", "store.tracking.sqlalchemy_store")


@exact_arguments
class MLFlowLogger(Logger):
    """Write to a run of MLflow. ``logger.experiment`` is the ``MlflowClient``, and :attr:`run_id` the run.

    While a verb of the Trainer runs, rows are collected for a second and written in the background. They are there when a
    checkpoint is saved, when :attr:`experiment` is asked for, and when the verb ends. At other times a row is written at once.

    Args:
        experiment_name: The experiment. It is created where there is none.
        run_name: The run's name, in place of a tag ``mlflow.runName``.
        tracking_uri: A server's or a database's address, or ``file:FOLDER``. By default the environment variable
            ``MLFLOW_TRACKING_URI``, else ``file:`` and ``save_dir``.
        tags: Tags of the run.
        save_dir: The folder, where ``tracking_uri`` is not given.
        log_model: Whether the files of a ModelCheckpoint become artifacts: ``True`` at the end of training (with
            ``save_top_k=-1`` as they are written), ``"all"`` as they are written.
        prefix: Stands before each metric's name, with a ``-`` between.
        artifact_location: Where artifacts go, for an experiment that is created.
        run_id: A run that there is, to go on with.
        synchronous: ``True``: each row is written while the step waits. ``False``: rows go to MLflow's own queue. By default they
            are collected as above.

    Raises:
        MissingPackage: ``mlflow`` is not installed.
        InvalidOption: at the start of a run, the folder cannot be written, or ``run_id`` or the experiment cannot be used.
    """

    leyden_takes_tensors: ClassVar[bool] = True
    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
        save_dir: Path | None = "./mlruns",
        log_model: LogModel = False,
        prefix: str = "",
        artifact_location: str | None = None,
        run_id: str | None = None,
        synchronous: bool | None = None,
    ) -> None:
        need("mlflow", "MLFlowLogger", "mlflow")
        if not check_text("experiment_name", experiment_name, "the name of an experiment"):
            raise InvalidOption("experiment_name", experiment_name, "the name of an experiment")
        if tags is not None and not isinstance(tags, Mapping):
            raise InvalidType("tags", tags, "a dict of names and values, or None")
        if not (synchronous is None or isinstance(synchronous, bool)):
            raise InvalidType("synchronous", synchronous, "True, False or None")
        tracking_uri = tracking_uri or os.environ.get(_WHERE) or None
        if tracking_uri is None and not isinstance(save_dir, str | os.PathLike):
            raise InvalidType("save_dir", save_dir, "a path, where no tracking_uri is given")
        self._experiment_name = experiment_name
        self._experiment_id: str | None = None
        self._tracking_uri = tracking_uri or f"{_FOLDER}{local_path(os.fspath(save_dir or ''))}"
        self._run_name = run_name
        self._run_id = run_id
        self.tags = tags
        self._log_model = check_log_model(log_model)
        self._prefix = prefix
        self._artifact_location = artifact_location
        self._log_batch_kwargs: dict[str, Any] = {} if synchronous is None else {"synchronous": synchronous}
        self._initialized = False
        self._mlflow_client: Any = None
        self.__checkpoints = SentCheckpoints(self._log_model, _SETTINGS, "Checkpoint")
        self.__asked = self.__has_params = run_id is not None
        self.__terminated = False
        self.__in_verb = False
        self.__anew = False
        self.__at = 0  # when the last row was logged, in milliseconds: no two rows share one
        self.__there: Counter[tuple[str, int, float | str]] = Counter()  # what a killed process logged, and this one will again
        self.__renamed: set[str] = set()
        self.__waiting = Waiting()
        self.__background: Background | None = None
        self.__queued: list[Any] = []  # what MLflow's own queue has not yet said of rows

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the client and the thread. A copy writes to the same run."""
        self.save()
        gone: dict[str, Any] = {"_mlflow_client": None, "_initialized": False}
        for name, value in (("background", None), ("queued", []), ("in_verb", False)):
            gone[f"_MLFlowLogger__{name}"] = value
        return {**self.__dict__, **gone}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``MlflowClient``, for images, figures, artifacts and all that it offers. Experiment and run are created first."""
        client = self.__ready()
        if self.__waiting or self.__background is not None:
            self.save()
        return client

    @property
    def run_id(self) -> str | None:
        """The run's id. The run is created where there is none."""
        self.__ready()
        return self._run_id

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id. It is created where there is none."""
        self.__ready()
        return self._experiment_id

    def __client(self) -> Any:
        if self._mlflow_client is None:
            if self.save_dir is not None:
                check_writable("save_dir", self.save_dir, "Give another save_dir, or logger=False.")
            if self._tracking_uri.startswith(_FOLDER) or "://" not in self._tracking_uri:
                # a folder is what was asked for, and what Lightning takes: MLflow of today wants to hear it twice
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            with apart():
                from mlflow.tracking import MlflowClient

                self._mlflow_client = MlflowClient(self._tracking_uri)
                _own_random_numbers()
        return self._mlflow_client

    def __ready(self) -> Any:
        """The client, when experiment and run are there."""
        if self._initialized or rank_zero_only.rank:
            return self._mlflow_client
        with apart():
            client = self.__client()
            import mlflow

            asked = os.environ.get(_WHERE)
            mlflow.set_tracking_uri(self._tracking_uri)
            os.environ.pop(_WHERE, None)  # MLflow puts it there, and the next logger would take it for the user's wish
            if asked is not None:
                os.environ[_WHERE] = asked
            if self._run_id is not None:
                try:
                    self._experiment_id = client.get_run(self._run_id).info.experiment_id
                except mlflow.exceptions.MlflowException as error:
                    raise InvalidOption(
                        "run_id", self._run_id, f"a run at {self._tracking_uri}", f"MLflow says: {error}"
                    ) from error
            else:
                self._experiment_id = self.__experiment(client, mlflow)
                if self._run_name is not None:
                    self.tags = {**(self.tags or {}), "mlflow.runName": self._run_name}
                run = client.create_run(experiment_id=self._experiment_id, tags=_with_context(self.tags))
                self._run_id = run.info.run_id
            self._initialized = True
        return client

    def __experiment(self, client: Any, mlflow: Any) -> str:
        """The id of the experiment, which is created where there is none."""
        for attempt in (1, 2):
            found = client.get_experiment_by_name(self._experiment_name)
            if found is not None and found.lifecycle_stage != "deleted":
                there: str = found.experiment_id
                return there
            try:
                created: str = client.create_experiment(name=self._experiment_name, artifact_location=self._artifact_location)
                return created
            except mlflow.exceptions.MlflowException as error:
                if found is not None or attempt == 2:  # else another process may have been quicker
                    raise InvalidOption(
                        "experiment_name",
                        self._experiment_name,
                        "an experiment that there is, or can be created",
                        f"MLflow says: {error}",
                    ) from error
        raise AssertionError("unreachable")

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any) -> None:
        """Write hyper-parameters, nested ones by their path, as text of 250 characters at most.

        MLflow never changes a parameter: one that the run has with another value keeps it, with a :class:`LeydenWarning`.
        """
        if rank_zero_only.rank:
            return
        level = flat(as_dict(params), into_lists=True)
        texts = {self.__named(str(name)): str(value)[:_LONGEST] for name, value in level.items()}
        client = self.experiment
        if self.__has_params and texts:
            had = client.get_run(self._run_id).data.params
            other = {name: had[name] for name, text in texts.items() if had.get(name, text) != text}
            if other:
                shown = ", ".join(f"{name}={texts[name]!r} (the run has {value!r})" for name, value in other.items())
                warn_user(f"MLflow keeps a run's parameters as they were first logged; not written: {shown}.", LeydenWarning)
                texts = {name: text for name, text in texts.items() if name not in other}
        from mlflow.entities import Param

        listed = [Param(key=name, value=text) for name, text in texts.items()]
        for start in range(0, len(listed), _PARAMS):
            client.log_batch(run_id=self._run_id, params=listed[start : start + _PARAMS], **self._log_batch_kwargs)
        self.__has_params = True

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row: numbers, or tensors that hold one. Text is left out, with a warning."""
        check_row(metrics, step)
        if rank_zero_only.rank:
            return
        metrics = {name: value if isinstance(value, str) else number_of(name, value) for name, value in metrics.items()}
        row = prefixed(metrics, self._prefix and self._prefix + self.LOGGER_JOIN_CHAR)
        at = now()
        if self.__in_verb and not self._log_batch_kwargs:
            if self.__waiting.add(row, step, at):
                self.__hand_over()
            return
        if self.__waiting or self.__background is not None:
            self.save()
        self.__ready()
        self.__write(self.__entities(read_rows([(row, step, at)])))

    def __hand_over(self) -> None:
        """Give what waits to the thread."""
        self.__ready()
        if self.__background is None:
            self.__background = Background(self.__write)
        elif self.__background.error is not None:
            self.__warn(f"{self.__background.error}. They wait for the next attempt")
        self.__background.give(self.__entities(self.__waiting.take()))

    def __warn(self, why: str) -> None:
        warn_user(f"Rows cannot be written to {self._tracking_uri}: {why}.", LeydenWarning)

    def __entities(self, rows: list[Row]) -> list[Any]:
        """Rows as MLflow's metrics, without what the run has from a process that was killed."""
        from mlflow.entities import Metric

        made = []
        for row, step, seconds in rows:
            self.__at = max(int(1000 * seconds), self.__at + 1)
            for name, value in row.items():
                if isinstance(value, str):
                    warn_user(f"MLflow's metrics are numbers: {name}={value!r} is left out.", IgnoredSetting)
                    continue
                key = self.__named(name)
                if self.__there:
                    seen = _seen(key, step or 0, value)
                    if self.__there[seen] > 0:
                        self.__there[seen] -= 1
                        continue
                made.append(Metric(key=key, value=value, timestamp=self.__at, step=step or 0))
        return made

    def __named(self, name: str) -> str:
        plain = plain_name(name)
        if plain != name and name not in self.__renamed:
            self.__renamed.add(name)
            warn_user(
                f"MLflow's names are made of letters, digits, blanks and the special characters _ / . and -: {name!r} is logged "
                f"as {plain!r}.",
                IgnoredSetting,
            )
        return plain

    def __write(self, metrics: list[Any]) -> None:
        while metrics:
            said = self._mlflow_client.log_batch(run_id=self._run_id, metrics=metrics[:_METRICS], **self._log_batch_kwargs)
            del metrics[:_METRICS]
            if said is not None:
                self.__queued.append(said)

    def save(self) -> None:
        """Write what waits, and see that it is written."""
        if self.__waiting:
            self.__hand_over()
        if self.__background is not None and self.__background.wait():
            self.__warn(f"{self.__background.error}. They wait for the next attempt")
        queued, self.__queued = self.__queued, []
        for each in queued:
            each.wait()

    def finalize(self, status: str = "success") -> None:
        """A verb has ended: write what waits, and give the run its status. Logging on is possible."""
        self.__in_verb = False
        if rank_zero_only.rank or not self._initialized:
            return
        if self.__background is None:
            self.save()
        else:
            if self.__waiting:
                self.__hand_over()
            if missing := self.__background.wait():
                self.__warn(f"{self.__background.error}. The last {missing} values are lost")
            self.__background.end()
            self.__background = None
        self.__send_checkpoints(self.__checkpoints.at_the_end())
        if self._mlflow_client.get_run(self._run_id):
            self._mlflow_client.set_terminated(self._run_id, _STATUS.get(status, status))
            self.__terminated = True

    @property
    def save_dir(self) -> str | None:
        """The folder of all experiments, where ``tracking_uri`` is one; else ``None``."""
        return self._tracking_uri[len(_FOLDER) :] if self._tracking_uri.startswith(_FOLDER) else None

    @property
    def name(self) -> str | None:
        """The experiment's id."""
        return self.experiment_id

    @property
    def version(self) -> str | None:
        """The run's id."""
        return self.run_id

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A checkpoint was written: where ``log_model`` says so, it becomes an artifact, in a folder of its name."""
        if not rank_zero_only.rank:
            self.__send_checkpoints(self.__checkpoints.note(checkpoint_callback))

    def __send_checkpoints(self, files: list[Found]) -> None:
        if not files:
            return
        client = self.experiment
        for path, aliases, metadata in files:
            folder = os.path.splitext(os.path.basename(path))[0]
            if os.path.isdir(path):
                client.log_artifacts(self._run_id, path, f"{folder}/{os.path.basename(path)}")
            else:
                client.log_artifact(self._run_id, path, folder)
            with tempfile.TemporaryDirectory() as beside:
                for name, text in (("metadata.yaml", to_yaml(metadata)), ("aliases.txt", str(aliases))):
                    with open(os.path.join(beside, name), "w", encoding="utf-8") as file:
                        file.write(text)
                client.log_artifacts(self._run_id, beside, folder)

    # -- what a run of ours asks
    def leyden_run_folders(self, root: str) -> str | None:
        if rank_zero_only.rank:
            return None
        experiment = self._experiment_id
        if experiment is None:
            found = self.__client().get_experiment_by_name(self._experiment_name)
            experiment = None if found is None else found.experiment_id
        folder = os.path.join(glob.escape(self.save_dir or root), "*" if experiment is None else glob.escape(str(experiment)))
        return os.path.join(folder, "*" if self._run_id is None else glob.escape(self._run_id))

    def leyden_start(self, agree: Callable[[Any], Any] | None = None) -> None:
        if not rank_zero_only.rank:
            client = self.__ready()
            if self.__asked or self.__terminated:
                if client.get_run(self._run_id).info.status != "RUNNING":
                    client.update_run(self._run_id, status="RUNNING")
                self.__terminated = False
            if self.__anew:
                self.__look_what_is_there(-1)
                self.__anew = False
        self.__in_verb = True
        if agree is not None:
            self._run_id, self._experiment_id = agree([self._run_id, self._experiment_id])

    def leyden_start_over(self) -> None:
        self.__anew = self.__asked

    def leyden_go_on(self, position: dict[str, Any]) -> None:
        """Take the run's id, where none was asked for."""
        where = (position.get("tracking_uri"), position.get("experiment_name"))
        if self._run_id is None and where == (self._tracking_uri, self._experiment_name):
            self._run_id = str(position["mlflow"])
            self.__asked = self.__has_params = True

    def leyden_position(self) -> dict[str, Any]:
        if rank_zero_only.rank or not self._initialized:
            return {}
        self.save()
        where = {"tracking_uri": self._tracking_uri, "experiment_name": self._experiment_name}
        return {"mlflow": self._run_id, "at": self.__at, **where}

    def leyden_resume(self, position: dict[str, Any]) -> None:
        """Go on in the run that ``position`` was taken from. What it has got since is not written a second time."""
        if rank_zero_only.rank or not self._initialized or position.get("mlflow") != self._run_id:
            return
        self.save()
        self.__look_what_is_there(int(position["at"]))

    def __look_what_is_there(self, after: int) -> None:
        client = self._mlflow_client
        self.__there.clear()
        self.__at = max(self.__at, after)
        for key in client.get_run(self._run_id).data.metrics:
            for metric in client.get_metric_history(self._run_id, key):
                if metric.timestamp > after:
                    self.__there[_seen(key, metric.step, metric.value)] += 1
                    self.__at = max(self.__at, metric.timestamp)


def _seen(name: str, step: int, value: Any) -> tuple[str, int, float | str]:
    number = float(value)
    return name, int(step), "nan" if number != number else min(max(number, -_LARGEST), _LARGEST)


def _with_context(tags: dict[str, Any] | None) -> Any:
    """``tags`` and those by which MLflow itself says who runs what."""
    try:
        from mlflow.tracking.context.registry import resolve_tags
    except ImportError:
        return tags
    return resolve_tags(tags)


def _own_random_numbers() -> None:
    """Let MLflow choose names, and how long it waits, by random numbers of its own: training's are drawn by nobody else."""
    for name in _THAT_DRAW:
        module = sys.modules.get(f"mlflow.{name}")
        if getattr(module, "random", None) is random:
            module.random = random.Random()  # type: ignore[union-attr]  # it is there, as it has the attribute
