"""LearningRateFinder: look for a learning rate before training, and train with it."""

from typing import Any, ClassVar

from leyden.callback import Callback
from leyden.distributed.rank_zero import rank_zero_info
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.tuner.holders import Holders, learning_rate_of
from leyden.tuner.lr_finder import MODES, _LRFinder, check_search, find_rate


def goes_on(trainer: Run) -> bool:
    """Whether the fit goes on from a checkpoint, or from another fit: what was found then still holds."""
    return trainer.leyden_fit.pending is not None or trainer.leyden_fit.progress.batches > 0


@exact_arguments
class LearningRateFinder(Callback):
    """Search in ``on_fit_start``: training steps with a rate that rises, of which nothing is left but the rate.

    A run that goes on from a checkpoint does not search again; it has the rate that was found before. To search at other times,
    override ``on_fit_start`` and call :meth:`lr_find` in another hook.

    Args:
        min_lr: The first rate.
        max_lr: The last one.
        num_training_steps: Steps to take between them.
        mode: ``"exponential"`` or ``"linear"``: how the rate rises.
        early_stop_threshold: The search ends when the running mean of the loss exceeds this many times its lowest; ``None``:
            never.
        update_attr: Set the suggested rate: in the attribute, and in the optimizer.
        attr_name: Which attribute holds the rate, of module, datamodule or their hparams. Default: ``lr`` or ``learning_rate``.

    Attributes:
        optimal_lr: What was found, with ``results``, ``suggestion()`` and ``plot()``; ``None`` before.

    Raises:
        InvalidOption: an argument that cannot be used.
        UnknownName: (before the first step) there is no such attribute.
        Unsupported: (the same) manual optimization, or more than one optimizer.
    """

    SUPPORTED_MODES: ClassVar[tuple[str, ...]] = MODES
    leyden_phase: ClassVar[str] = "first"

    def __init__(
        self,
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training_steps: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> None:
        self._mode = check_search(min_lr, max_lr, num_training_steps, mode, early_stop_threshold, attr_name, "num_training_steps")
        self._min_lr = min_lr
        self._max_lr = max_lr
        self._num_training_steps = num_training_steps
        self._early_stop_threshold = early_stop_threshold
        self._update_attr = update_attr
        self._attr_name = attr_name
        self.optimal_lr: _LRFinder | None = None
        self.__set: dict[str, Any] = {}  # the attribute's name and value

    def lr_find(self, trainer: Run, pl_module: LightningModule) -> None:
        """Search now. Everything but the rate is put back, also where something raises."""
        found = find_rate(
            trainer,
            pl_module,
            min_lr=self._min_lr,
            max_lr=self._max_lr,
            num_training=self._num_training_steps,
            mode=self._mode,
            early_stop_threshold=self._early_stop_threshold,
            update_attr=self._update_attr,
            attr_name=self._attr_name,
        )
        self.optimal_lr = found
        if found is not None and self._update_attr:
            holders = learning_rate_of(pl_module, trainer.datamodule, self._attr_name, "attr_name")
            self.__set = {"name": holders.name, "value": holders.value}

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if goes_on(trainer):
            rank_zero_info(f"LearningRateFinder does not search: the run goes on from {trainer.ckpt_path or 'where it ended'}.")
            return
        self.lr_find(trainer, pl_module)

    # -- kept across a resume
    def state_dict(self) -> dict[str, Any]:
        return {"set": self.__set, "found": {} if self.optimal_lr is None else self.optimal_lr._state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__set = dict(state_dict["set"])
        self.optimal_lr = _LRFinder._of(state_dict["found"]) if state_dict["found"] else None

    def on_load_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.leyden_fitting:
            put_value(self, trainer, pl_module, checkpoint)


def put_value(callback: Callback, trainer: Run, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Set what was found before the cut, before anybody makes optimizers or loaders with it."""
    states = checkpoint.get("callbacks")
    state = states.get(callback.state_key) if isinstance(states, dict) else None
    found = state.get("set") if isinstance(state, dict) else None
    if isinstance(found, dict) and "value" in found:
        Holders(found["name"], module, trainer.datamodule).set(found["value"])
