"""StochasticWeightAveraging: the mean of the weights of the last epochs, trained at a learning rate of their own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import SWALR

from leyden.callback import Callback
from leyden.callbacks.forward_only import ForwardOnly
from leyden.callbacks.rewriting import AVERAGES, copy_of, formats_of, is_built_late, read_device, refuse_beside, require_device
from leyden.callbacks.swa_rates import AnnealingPlan, rates_of
from leyden.checked import check_count, check_function
from leyden.checkpoint.forms import usable
from leyden.checkpoint.optimizer_states import scheduler_state
from leyden.distributed.rank_zero import rank_zero_info, rank_zero_warn_user
from leyden.errors import IgnoredSetting, InvalidOption, InvalidType, Unsupported
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.progress import Done
from leyden.state.run import Run

_START = "the first epoch that is averaged (a whole number > 0), or a share of max_epochs (a float from 0.0 to 1.0)"
_RATES = "a positive float, or a list of positive floats, one for each parameter group"


@exact_arguments
class StochasticWeightAveraging(Callback):
    """From ``swa_epoch_start`` on, average the weights with which each epoch begins, and train at ``swa_lrs``.

    The learning rate goes over to ``swa_lrs`` by a :class:`torch.optim.swa_utils.SWALR`, which takes the scheduler's place; a
    parameter group that is added later, as by finetuning, by an annealing of its own, that begins when it comes (to the last of
    several rates).
    After the last epoch the module gets the average. Where it has batch norm, one more epoch follows: ``training_step`` runs
    over the training data with the averaged weights, nothing is trained, and the statistics are computed anew; the validation
    that follows sees the result. A run that is cut anywhere goes on with the same bits.

    Where training is stopped early, the module gets the average too; one with batch norm keeps training's weights, with a
    warning, because the average has no statistics.

    Args:
        swa_lrs: The learning rate: one for all parameter groups, or a list with one for each.
        swa_epoch_start: The first epoch whose weights are averaged, counted from 1; or a share of ``max_epochs``.
        annealing_epochs: Epochs in which the learning rate goes over to ``swa_lrs``.
        annealing_strategy: How: ``"cos"`` or ``"linear"``.
        avg_fn: What the new average is, given the average, the weights and how many were averaged; ``None``: their mean.
        device: Where the average is kept; ``None``: on the module's device.

    Attributes:
        n_averaged: How many epochs' weights were averaged, a tensor; ``None`` before the first.
        momenta: Of each batch norm layer, its own ``momentum`` while its statistics are computed anew.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used.
        Unsupported: (when fit begins) not one optimizer, or several schedulers; or the module cannot be copied.
        ConflictingOptions: (when fit begins) another callback averages or prunes the weights.
    """

    leyden_rewrites: ClassVar[str] = AVERAGES

    def __init__(
        self,
        swa_lrs: float | list[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: Literal["cos", "linear"] = "cos",
        avg_fn: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str | None = torch.device("cpu"),  # noqa: B008  # a value that nothing changes
    ) -> None:
        if isinstance(swa_epoch_start, bool) or not isinstance(swa_epoch_start, int | float):
            raise InvalidType("swa_epoch_start", swa_epoch_start, _START)
        if not (swa_epoch_start >= 1 if isinstance(swa_epoch_start, int) else 0.0 <= swa_epoch_start <= 1.0):
            raise InvalidOption("swa_epoch_start", swa_epoch_start, _START)
        rates = swa_lrs if isinstance(swa_lrs, list | tuple) else [swa_lrs]
        if not all(isinstance(rate, float) for rate in rates):
            raise InvalidType("swa_lrs", swa_lrs, _RATES)
        if not rates or not all(0 < rate < float("inf") for rate in rates):
            raise InvalidOption("swa_lrs", swa_lrs, _RATES)
        if annealing_strategy not in ("cos", "linear"):
            raise InvalidOption("annealing_strategy", annealing_strategy, '"cos" or "linear"')
        if avg_fn is not None:
            check_function("avg_fn", avg_fn, 3, "a function of the average, the weights and the count of those averaged")
        if device is not None and not isinstance(device, torch.device | str):
            raise InvalidType("device", device, 'a device such as "cpu" or "cuda:0", or None for the module\'s own')
        self._swa_lrs: float | list[float] | None = swa_lrs
        self._swa_epoch_start = swa_epoch_start
        self._annealing_epochs = check_count("annealing_epochs", annealing_epochs, 0, "a number of epochs >= 0")
        self._annealing_strategy = annealing_strategy
        self._avg_fn = avg_fn or self.avg_fn
        self._device = read_device(device)
        self._max_epochs = -1
        self.__start = 0
        self.__limit: int | None = None  # max_epochs, while it is one more than the user's
        self.__begin()

    @classmethod
    def leyden_at_trainings_rates(cls) -> Callback:
        """One that goes on at the learning rates that the groups have when averaging begins, as 1.x did where none were given."""
        made = cls(swa_lrs=1.0)
        made._swa_lrs = None
        return made

    def __begin(self) -> None:
        self.n_averaged: Tensor | None = None
        self.momenta: dict[_BatchNorm, float | None] = {}
        self._average_model: nn.Module | None = None
        self.__formats: dict[str, torch.dtype] = {}  # of the parameters, before they are put into shards
        self._swa_scheduler: SWALR | None = None
        self._model_contains_batch_norm = False
        self._latest_update_epoch = -1
        self.__has_scheduler = False  # whether the file that a run goes on from has the state of our scheduler
        self.__average_state: dict[str, Any] | None = None  # a file's
        self.__recomputing: int | None = None  # the epoch in which batch norm's statistics are computed anew
        self.__trained: dict[str, Any] | None = None  # training's own weights, once the module has the average

    @property
    def swa_start(self) -> int:
        """The first epoch that is averaged, counted from 0; known once fit has begun."""
        return max(self.__start - 1, 0)

    @property
    def swa_end(self) -> int:
        """The last epoch that is averaged, counted from 0; infinity where ``max_epochs`` is -1."""
        return float("inf") if self._max_epochs == -1 else self._max_epochs - 1  # type: ignore[return-value]  # as Lightning's

    @staticmethod
    def pl_module_contains_batch_norm(pl_module: LightningModule) -> bool:
        """Whether any of its layers is a batch norm."""
        return any(isinstance(module, _BatchNorm) for module in pl_module.modules())

    # -- before training
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_beside(trainer, self)
        if self._device is not None:
            require_device(self._device, type(self).__name__)
        self.__begin()
        if is_built_late(pl_module):
            return
        if trainer.strategy.holds_whole_parameters:
            self._average_model = copy_of(pl_module, self)
        else:  # once they are in shards: the average is never whole either
            self.__formats = formats_of(pl_module)

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__check(trainer)
        if self._average_model is None:
            self._average_model = copy_of(pl_module, self, self.__formats)
        if self.__average_state is not None:
            with usable(trainer.ckpt_path, self.state_key):
                like = self._average_model.state_dict()
                self._average_model.load_state_dict(trainer.strategy.leyden_cut(self.__average_state, like))
            self.__average_state = None
        self._max_epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        start = self._swa_epoch_start
        self.__start = int(self._max_epochs * start) if isinstance(start, float) else start
        self._model_contains_batch_norm = self.pl_module_contains_batch_norm(pl_module)
        if self.swa_start > self.swa_end:
            rank_zero_warn_user(
                f"StochasticWeightAveraging(swa_epoch_start={start!r}) would begin after the last of "
                f"max_epochs={self._max_epochs} epochs: nothing is averaged.",
                category=IgnoredSetting,
            )
        elif self._model_contains_batch_norm and self._max_epochs != -1:
            self.__limit = self._max_epochs + 1
            self.__put_limit(trainer, self.__limit)
        if self.__has_scheduler:  # its state is put back into it with the optimizers'
            self.__put_scheduler(trainer)

    def __check(self, trainer: Run) -> None:
        optimizers, configs = trainer.optimizers, trainer.lr_scheduler_configs
        if len(optimizers) != 1:
            raise Unsupported(
                f"StochasticWeightAveraging goes with one optimizer, and configure_optimizers returned {len(optimizers)}. Take "
                f"EMAWeightAveraging or WeightAveraging: they leave optimizers alone."
            )
        if len(configs) > 1:
            raise Unsupported(
                f"StochasticWeightAveraging puts its own scheduler in the place of the module's, and configure_optimizers "
                f"returned {len(configs)}. Return one at the most, or take WeightAveraging."
            )
        rates_of(self._swa_lrs, len(optimizers[0].param_groups), more=trainer.leyden_fit.pending is not None)
        if isinstance(self._swa_epoch_start, float) and trainer.max_epochs in (None, -1):
            raise InvalidOption(
                "swa_epoch_start", self._swa_epoch_start, "a whole number of epochs: there is no max_epochs to take a share of"
            )

    def __put_limit(self, trainer: Run, epochs: int) -> None:
        options = trainer.leyden_options
        trainer.leyden_options = replace(options, limits=replace(options.limits, max_epochs=epochs))

    def __put_scheduler(self, trainer: Run) -> None:
        """Put the scheduler that goes over to ``swa_lrs`` in the place of the module's."""
        configs, optimizer = trainer.lr_scheduler_configs, trainer.optimizers[0]
        if configs and isinstance(configs[0].scheduler, SWALR):  # of a fit that goes on in the same process
            self._swa_scheduler = configs[0].scheduler
            return
        rates = rates_of(self._swa_lrs, len(optimizer.param_groups), True, [group["lr"] for group in optimizer.param_groups])
        for rate, group in zip(rates, optimizer.param_groups, strict=True):
            group["initial_lr"] = rate
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        self._swa_scheduler = SWALR(
            optimizer,
            swa_lr=list(rates),  # type: ignore[arg-type]  # it takes a list, for groups
            anneal_epochs=self._annealing_epochs,
            anneal_strategy=self._annealing_strategy,
            last_epoch=epochs if self._annealing_strategy == "cos" else -1,
        )
        plan = AnnealingPlan(self._swa_scheduler)
        if not configs:
            configs.append(plan)
            return
        name = type(configs[0].scheduler).__name__
        if configs[0].interval != "epoch" or configs[0].frequency != 1:
            rank_zero_warn_user(
                f"StochasticWeightAveraging puts SWALR, which steps once an epoch, in the place of {name}, which stepped every "
                f"{configs[0].frequency} {configs[0].interval}(s).",
                category=IgnoredSetting,
            )
        rank_zero_info(f"StochasticWeightAveraging: SWALR takes the place of {name}.")
        configs[0] = plan

    # -- training
    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        """A run that goes on: in the pass that computes statistics, or with training's own weights where a limit was raised."""
        goes_on = trainer.leyden_fit.progress.done < Done.EPOCH_TOLD
        if self.__recomputing is not None and self.__recomputing == self.swa_end + 1:
            if goes_on:
                self.__take_momenta(pl_module)
                self.__stand_still(trainer)
        elif self.__trained is not None and goes_on:
            pl_module.load_state_dict(trainer.strategy.leyden_cut(self.__trained, pl_module.state_dict()))
            self.__recomputing = self.__trained = None

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        average = self.__average()
        if self.swa_start <= epoch <= self.swa_end:
            if self._swa_scheduler is None:
                self.__put_scheduler(trainer)
            if self.n_averaged is None:
                self.n_averaged = torch.tensor(0, dtype=torch.long, device=pl_module.device)
            if epoch > self._latest_update_epoch:
                if self._device is not None:
                    average.to(self._device)
                elif trainer.strategy.holds_whole_parameters:  # shards are where the module's own are
                    average.to(pl_module.device)
                self.update_parameters(average, pl_module, self.n_averaged, self._avg_fn)
                self._latest_update_epoch = epoch
        elif self._model_contains_batch_norm and epoch == self.swa_end + 1 and self.n_averaged is not None:
            self.__keep_trained(pl_module)
            self.transfer_weights(average, pl_module)
            self.reset_batch_norm_and_save_state(pl_module)
            self.__recomputing = epoch
            self.__stand_still(trainer)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        stepping = trainer.leyden_fit.optimization
        if isinstance(stepping, ForwardOnly):
            trainer.leyden_fit.optimization = stepping.give_back()

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self.__recomputing is not None:
            self.reset_momenta()
        elif self.n_averaged is not None and not self._model_contains_batch_norm:
            self.__keep_trained(pl_module)
            self.transfer_weights(self.__average(), pl_module)
        elif self.n_averaged is not None:
            rank_zero_warn_user(
                f"StochasticWeightAveraging: training ended before epoch {self._max_epochs}, and {type(pl_module).__name__} has "
                f"batch norm, whose statistics do not fit the average: the module keeps training's own weights."
            )

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        self.reset_momenta()

    def teardown(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if self.__limit is not None and trainer.max_epochs == self.__limit:
            self.__put_limit(trainer, self.__limit - 1)
        self.__limit = None
        self.reset_momenta()

    def __average(self) -> nn.Module:
        assert self._average_model is not None
        return self._average_model

    def __keep_trained(self, pl_module: LightningModule) -> None:
        state = pl_module.state_dict()
        self.__trained = {name: each.clone() if isinstance(each, Tensor) else each for name, each in state.items()}

    def __stand_still(self, trainer: Run) -> None:
        fit = trainer.leyden_fit
        if fit.optimization is not None and not isinstance(fit.optimization, ForwardOnly):
            fit.optimization = ForwardOnly(trainer, fit.optimization)

    def __take_momenta(self, pl_module: LightningModule) -> None:
        """Let each batch norm take the mean over all batches for its statistics."""
        layers = [layer for layer in pl_module.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
        self.momenta = {layer: layer.momentum for layer in layers}
        for layer in layers:
            layer.momentum = None

    # -- what it is made of
    @staticmethod
    def transfer_weights(src_pl_module: nn.Module, dst_pl_module: nn.Module) -> None:
        """Copy the parameters of one module into those of another."""
        for source, target in zip(src_pl_module.parameters(), dst_pl_module.parameters(), strict=True):
            target.detach().copy_(source.detach().to(target.device))

    def reset_batch_norm_and_save_state(self, pl_module: LightningModule) -> None:
        """Let each batch norm begin its statistics anew, as the mean over all batches that follow; see :attr:`momenta`."""
        self.__take_momenta(pl_module)
        for layer in self.momenta:
            layer.reset_running_stats()

    def reset_momenta(self) -> None:
        """Give each batch norm its own momentum back."""
        for layer, momentum in self.momenta.items():
            layer.momentum = momentum
        self.momenta = {}

    @staticmethod
    def update_parameters(
        average_model: nn.Module,
        model: nn.Module,
        n_averaged: Tensor,
        avg_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        """Take the parameters of ``model`` into the average, and count that in ``n_averaged``."""
        for averaged, current in zip(average_model.parameters(), model.parameters(), strict=True):
            mine, theirs = averaged.detach(), current.detach().to(averaged.device)
            mine.copy_(theirs if n_averaged == 0 else avg_fn(mine, theirs, n_averaged.to(mine.device)))
        n_averaged += 1

    @staticmethod
    def avg_fn(averaged_model_parameter: Tensor, model_parameter: Tensor, num_averaged: Tensor) -> Tensor:
        """The mean of all that was averaged and of ``model_parameter``."""
        return averaged_model_parameter + (model_parameter - averaged_model_parameter) / (num_averaged + 1)

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        return {
            "n_averaged": 0 if self.n_averaged is None else int(self.n_averaged),
            "latest_update_epoch": self._latest_update_epoch,
            "scheduler_state": None if self._swa_scheduler is None else scheduler_state(self._swa_scheduler),
            "average_model_state": None if self._average_model is None else self._average_model.state_dict(),
            "recomputing": self.__recomputing,
            "trained": self.__trained,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        count = state_dict["n_averaged"]
        self.n_averaged = torch.tensor(count, dtype=torch.long) if count else None
        self._latest_update_epoch = state_dict["latest_update_epoch"]
        self.__has_scheduler = state_dict["scheduler_state"] is not None
        self.__average_state = state_dict["average_model_state"]
        self.__recomputing = state_dict.get("recomputing")
        self.__trained = state_dict.get("trained") or self.__trained  # before an epoch's end it was not known yet
