"""CometLogger: experiments of Comet, through the package ``comet_ml``."""

import glob
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import Module

from leyden.checkpoint.files import local_path
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import ConflictingOptions, InvalidOption
from leyden.loggers.base import Logger, check_row, rank_zero_experiment
from leyden.loggers.hyperparameters import as_dict
from leyden.loggers.services import Waiting, apart, need, now, on_a_device, read_rows
from leyden.notices import notice
from leyden.spelling import exact_arguments

_FRAMEWORK = "pytorch-lightning"  # as Comet knows the kind of program, and chooses its panels by
_MODES = ("get_or_create", "get", "create")
_FORMER = {"experiment_name": "name", "project_name": "project", "offline": "online", "save_dir": "offline_directory"}


@exact_arguments
class CometLogger(Logger):
    """Write to an experiment of Comet. ``logger.experiment`` is Comet's object. It begins when the logger is made.

    Args:
        api_key: The key. By default the one that ``comet login`` has kept, or the environment variable ``COMET_API_KEY``.
        workspace: The workspace. By default the user's own.
        project: The project.
        experiment_key: Key of the experiment, 32 to 50 letters and digits: one to go on with, or for the new one.
        mode: ``"get_or_create"``, ``"get"`` (go on with ``experiment_key``) or ``"create"``.
        online: ``False``: write to disk only, for ``comet upload``.
        prefix: Stands before each metric's name, with a ``_`` between.
        kwargs: For ``comet_ml.ExperimentConfig``, such as ``name``, ``tags``, ``offline_directory``.

    Raises:
        MissingPackage: ``comet_ml`` is not installed.
    """

    leyden_takes_tensors: ClassVar[bool] = True

    def __init__(
        self,
        *,
        api_key: str | None = None,
        workspace: str | None = None,
        project: str | None = None,
        experiment_key: str | None = None,
        mode: Literal["get_or_create", "get", "create"] | None = None,
        online: bool | None = None,
        prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        need("comet_ml", "CometLogger", package="comet-ml")
        if mode is not None and mode not in _MODES:
            raise InvalidOption("mode", mode, f"one of {', '.join(map(repr, _MODES))}, or None")
        given = {"project": project, "online": online, **kwargs}
        for former, today in _FORMER.items():
            if former not in kwargs:
                continue
            if given.get(today) is not None:
                raise ConflictingOptions(
                    f"CometLogger was given {former}= and {today}=, which mean the same. Pass {today}= alone."
                )
            notice(f"CometLogger({former}=...)", f"CometLogger({today}=...)")
            value = given.pop(former)
            given[today] = not value if former == "offline" else value
        if given.get("offline_directory") is not None:
            given["offline_directory"] = local_path(os.fspath(given["offline_directory"]))
        self._project_name: str | None = given.pop("project")
        self._online: bool | None = given.pop("online")
        self._api_key, self._workspace, self._mode, self._prefix = api_key, workspace, mode, prefix
        self._experiment_key: str | None = experiment_key
        self._kwargs: dict[str, Any] = given
        self._experiment: Any = None
        self.__asked = experiment_key is not None or mode == "create"
        self.__waiting = Waiting()
        self.__in_verb = False
        # before comet_ml is imported: it would log what torch does by itself
        os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
        with apart():
            import comet_ml

            self._comet_config = comet_ml.ExperimentConfig(**given, **({"disabled": True} if self._online is False else {}))
        if not rank_zero_only.rank:
            self.__create()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the experiment, which a copy goes on with by its key."""
        self.save()
        key = self._experiment_key if self._experiment is None else self._experiment.get_key()
        return {**self.__dict__, "_experiment": None, "_experiment_key": key, "_CometLogger__in_verb": False}

    def __create(self) -> None:
        with apart():
            import comet_ml

            self._experiment = comet_ml.start(
                api_key=self._api_key,
                workspace=self._workspace,
                project=self._project_name,
                experiment_key=self._experiment_key,
                mode=self._mode,
                online=self._online,
                experiment_config=self._comet_config,
            )
            if self._experiment is None:
                raise comet_ml.exceptions.ExperimentNotFound(
                    f"Comet has no experiment for experiment_key={self._experiment_key!r} and mode={self._mode!r}."
                )
            self._experiment_key = self._experiment.get_key()
            self._project_name = self._experiment.project_name
            self._experiment.log_other("Created from", _FRAMEWORK)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Comet's experiment, for images, audio, models and all that it offers."""
        if self._experiment is None:
            self.__create()
        self.save()
        return self._experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any) -> None:
        """Write hyper-parameters, nested ones by their path."""
        if rank_zero_only.rank:
            return
        self.experiment.__internal_api__log_parameters__(
            parameters=as_dict(params), framework=_FRAMEWORK, flatten_nested=True, source="manual"
        )

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row: numbers or tensors. A value called ``epoch`` is the row's epoch.

        Values on a device wait until they are read in bulk: 100 rows or a second at most.
        """
        check_row(metrics, step)
        if rank_zero_only.rank:
            return
        if self.__in_verb and on_a_device(metrics):
            if self.__waiting.add(dict(metrics), step, now()):
                self.save()
            return
        experiment = self.experiment
        row = {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        if self.__in_verb:
            ((row, _, _),) = read_rows([(row, step, now())])
        self.__send(experiment, row, step)

    def __send(self, experiment: Any, row: dict[str, Any], step: int | None) -> None:
        epoch = row.pop("epoch", None)
        experiment.__internal_api__log_metrics__(row, step=step, epoch=epoch, prefix=self._prefix, framework=_FRAMEWORK)

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Write the model's layers."""
        if self._experiment is not None and not rank_zero_only.rank:
            self._experiment.__internal_api__set_model_graph__(graph=model, framework=_FRAMEWORK)

    def save(self) -> None:
        """Hand to Comet what waits."""
        if self.__waiting:
            for row, step, _ in self.__waiting.take():
                self.__send(self._experiment, row, step)

    def finalize(self, status: str) -> None:
        """A verb has ended: see that Comet has all that was logged. The experiment goes on."""
        self.__in_verb = False
        if self._experiment is not None and not rank_zero_only.rank:
            self.save()
            self._experiment.flush()

    @property
    def save_dir(self) -> str | None:
        """The folder of an offline experiment."""
        folder: str | None = self._comet_config.offline_directory
        return folder

    @property
    def name(self) -> str | None:
        """The project's name."""
        return self._project_name

    @property
    def version(self) -> str | None:
        """The experiment's key, where it has begun."""
        if self._experiment is None:
            return None
        key: str = self._experiment.get_key()
        return key

    # -- what a run of ours asks
    def leyden_run_folders(self, root: str) -> str | None:
        folder = os.path.join(self.save_dir or root, self._project_name or "")
        return os.path.join(glob.escape(folder), glob.escape(str(self._experiment_key)) if self.__asked else "*")

    def leyden_start(self, agree: Callable[[Any], Any] | None = None) -> None:
        _ = self.experiment
        self.__in_verb = True
        if agree is not None:
            self._experiment_key = agree(self._experiment_key)

    def leyden_go_on(self, position: dict[str, Any]) -> None:
        """Go on with the experiment of ``position``, where no other was asked for. The one that was begun stays empty."""
        key = position.get("comet")
        if self.__asked or key in (None, self._experiment_key) or position.get("project") != self._project_name:
            return
        self._experiment_key, self.__asked = str(key), True
        if self._experiment is not None:
            self._experiment.end()
            self.__create()

    def leyden_position(self) -> dict[str, Any]:
        if rank_zero_only.rank or self._experiment is None:
            return {}
        self.save()
        return {"comet": str(self.version), "project": self._project_name}
