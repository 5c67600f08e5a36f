"""BatchSizeFinder: look for the largest batch size that fits into memory, and go on with it."""

from typing import Any, ClassVar

from leyden.callback import Callback
from leyden.callbacks.lr_finder import goes_on, put_value
from leyden.distributed.rank_zero import rank_zero_info
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.making import load_train
from leyden.state.run import Run
from leyden.state.stage import STAGES, TRAIN, Stage
from leyden.tuner.batch_size_scaling import MODES, check_run, check_scaling, scale_batch_size
from leyden.tuner.settings import adopt_settings


@exact_arguments
class BatchSizeFinder(Callback):
    """Search before a verb's first batch: steps with batches that grow, of which nothing is left but the batch size.

    It searches in ``fit``, ``validate``, ``test`` and ``predict``. Loaders have to come from the module or the datamodule, and to
    read the attribute. A fit that goes on from a checkpoint does not search again; it has the size that was found before. To
    search at other times, override ``on_fit_start`` and its like, and call :meth:`scale_batch_size` in another hook.

    Args:
        mode: ``"power"``: twice as much each time, until it does not fit. ``"binsearch"``: then between what fits and what not.
        steps_per_trial: Steps that are run with each size.
        init_val: The first size.
        max_trials: Sizes that may fit before the search ends.
        batch_arg_name: Which attribute holds the batch size, of module, datamodule or their hparams.
        margin: The share by which the size that ``"binsearch"`` found is reduced.
        max_val: The largest size to try.

    Attributes:
        optimal_batch_size: What was found; ``init_val`` before, ``None`` where ``fast_dev_run`` left no search.

    Raises:
        InvalidOption: an argument that cannot be used.
        UnknownName: (before the first step) there is no such attribute.
        Unsupported: (the same) loaders that were passed to the verb, several loaders to evaluate, several processes.
        MisconfigurationException: not even one sample fits.
    """

    SUPPORTED_MODES: ClassVar[tuple[str, ...]] = MODES
    leyden_phase: ClassVar[str] = "first"

    def __init__(
        self,
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> None:
        self._mode = check_scaling(mode, steps_per_trial, init_val, max_trials, batch_arg_name, margin, max_val)
        self._steps_per_trial = steps_per_trial
        self._init_val = init_val
        self._max_trials = max_trials
        self._batch_arg_name = batch_arg_name
        self._margin = margin
        self._max_val = max_val
        self.optimal_batch_size: int | None = init_val
        self.__set: dict[str, Any] = {}  # the attribute's name and value

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        check_run(trainer, pl_module, _stage_of(trainer), self._batch_arg_name)

    def scale_batch_size(self, trainer: Run, pl_module: LightningModule) -> None:
        """Search now, for the verb that runs. Everything but the size is put back, also where something raises."""
        stage = _stage_of(trainer)
        size = scale_batch_size(
            trainer,
            pl_module,
            stage=stage,
            mode=self._mode,
            steps_per_trial=self._steps_per_trial,
            init_val=self._init_val,
            max_trials=self._max_trials,
            batch_arg_name=self._batch_arg_name,
            margin=self._margin,
            max_val=self._max_val,
        )
        self.optimal_batch_size = size
        if size is not None:
            self.__set = {"name": self._batch_arg_name, "value": size}
            _make_loaders_anew(trainer, stage)

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if goes_on(trainer):
            rank_zero_info(f"BatchSizeFinder does not search: the run goes on from {trainer.ckpt_path or 'where it ended'}.")
            return
        self.scale_batch_size(trainer, pl_module)

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.leyden_fitting:
            self.scale_batch_size(trainer, pl_module)

    def on_test_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    def on_predict_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    # -- kept across a resume
    def state_dict(self) -> dict[str, Any]:
        return {"set": self.__set}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__set = dict(state_dict["set"])
        self.optimal_batch_size = self.__set.get("value", self.optimal_batch_size)

    def on_load_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.leyden_fitting:
            put_value(self, trainer, pl_module, checkpoint)


def _stage_of(run: Run) -> Stage:
    assert run.state.fn is not None
    return STAGES[run.state.fn][0]


def _make_loaders_anew(run: Run, stage: Stage) -> None:
    """What was loaded has the size that was set before."""
    loaders, options = run.leyden_loaders, run.leyden_options
    trained, evaluated = loaders.train, loaders.eval.get(stage.key)
    for source in filter(None, (trained, *loaders.eval.values())):
        source.close()
    loaders.begin(dict(loaders.origins))
    if stage is not TRAIN:
        loaders.load_eval(stage, options.limits, indices=evaluated is not None and evaluated.indices)
        return
    if trained is not None:
        load_train(run)
    adopt_settings(run)
