"""LightningModule: the research code, as a torch module with steps and hooks."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from leyden.callback import Callback
from leyden.checked import bare_optimizer
from leyden.checkpoint.plain_names import SavedByPlainNames, eager_attributes
from leyden.devices.transfer import move_data_to_device
from leyden.errors import IllegalLog, InvalidType, LeydenWarning, MisconfigurationException, MissingMethod, warn_user
from leyden.former import FormerModuleHooks, loaders_beside
from leyden.former_names import check_older_arguments
from leyden.hook_facts import EVAL_STEP, STEP, hook
from leyden.hparams import HyperparametersMixin, load_module_from_checkpoint, makes_anew
from leyden.inspect.export import Exports
from leyden.loggers.base import Logger
from leyden.metrics.metrics import AskedLog, flattened
from leyden.older_calls import loss_among, once_called
from leyden.taken_names import TakenNames, read_only, taken
from leyden.types import STEP_OUTPUT, ClipAlgorithm, LRSchedulerTypeUnion, MapLocation, OptimizerLRScheduler, Path, Reduction

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


class NotAttached(MisconfigurationException, RuntimeError):
    """The module was asked for its trainer, and no trainer has run it yet."""


@read_only
class LightningModule(TakenNames, FormerModuleHooks, Exports, SavedByPlainNames, HyperparametersMixin, nn.Module):
    """Your model and what it does with a batch. Override the steps and hooks you need.

    A module with ``training_step`` and ``configure_optimizers`` can be given to :meth:`Trainer.fit`.
    It is an ordinary :class:`torch.nn.Module` and stays usable without a trainer.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE = "hparams_type"

    __jit_unused_properties__: ClassVar[list[str]] = [
        "device",
        "dtype",
        "trainer",
        "logger",
        "loggers",
        "current_epoch",
        "global_step",
        "global_rank",
        "local_rank",
        "hparams",
        "hparams_initial",
        "example_input_array",
        "on_gpu",
        "automatic_optimization",
        "strict_loading",
        "device_mesh",
    ]
    # of the class too: some packages take it out of an object's attributes; and no annotation, which torch.jit could not read
    _trainer = None  # type: Trainer | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trainer = None
        self._where_am_i: torch.device | None = None
        self._example_input_array: Any = None
        self._automatic_optimization = True
        self._strict_loading: bool | None = None
        self.prepare_data_per_node: bool = True
        self._said_unattached = False

    def __getstate__(self) -> dict[str, Any]:
        state = eager_attributes(self.__dict__)
        state["_trainer"] = None
        return state

    def __dir__(self) -> list[str]:
        """What there is. Without a trainer that is not :attr:`trainer`: ``torch.jit.trace`` reads all that is named here."""
        names = list(super().__dir__())  # type: ignore[no-untyped-call]  # torch has no annotation there
        return names if self._trainer is not None else [name for name in names if name != "trainer"]

    # -- where we are
    @property
    def trainer(self) -> "Trainer":
        """The trainer that runs this module. Raises :class:`NotAttached` where none does."""
        if self._trainer is None:
            if sys._getframe(1).f_globals.get("__name__") == "torch.jit._recursive":
                return None  # type: ignore[return-value]  # torch.jit.script reads every attribute, and this one it leaves out
            raise NotAttached(f"{type(self).__name__} is not attached to a `Trainer`: self.trainer is there once fit, "
                              f"validate, test or predict was called with it.")  # fmt: skip
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: "Trainer | None") -> None:
        if trainer is not None and not hasattr(trainer, "fit") and not hasattr(trainer, "global_step"):
            raise taken(self, "trainer", trainer)
        for child in self.modules():
            if isinstance(child, LightningModule):
                child.__dict__["_trainer"] = trainer

    @property
    def logger(self) -> Logger | None:
        """The trainer's first logger, or ``None``."""
        return None if self._trainer is None else self._trainer.logger

    @property
    def loggers(self) -> list[Logger]:
        """The trainer's loggers."""
        return [] if self._trainer is None else list(self._trainer.loggers)

    @property
    def current_epoch(self) -> int:
        """The number of the running epoch, from 0."""
        return self._trainer.current_epoch if self._trainer is not None else 0

    @property
    def global_step(self) -> int:
        """Optimizer steps taken."""
        return self._trainer.global_step if self._trainer is not None else 0

    @property
    def global_rank(self) -> int:
        return self._trainer.global_rank if self._trainer is not None else 0

    @property
    def local_rank(self) -> int:
        return self._trainer.local_rank if self._trainer is not None else 0

    @property
    def device(self) -> torch.device:
        """The device of the module's parameters."""
        if self._where_am_i is None:
            tensor: Tensor | None = next(self.parameters(), None)
            if tensor is None:
                tensor = next(self.buffers(), None)
            if tensor is not None:
                self.__dict__["_where_am_i"] = tensor.device
            elif self._trainer is not None:
                return self._trainer.strategy.root_device
            else:
                return torch.device("cpu")
        return cast(torch.device, self._where_am_i)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the module's floating-point parameters."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.get_default_dtype()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for child in self.modules():
            if isinstance(child, LightningModule):
                child.__dict__["_where_am_i"] = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no annotation there
        return self

    @property
    def example_input_array(self) -> Any:
        """A batch for :meth:`forward`, for the summary's shapes, a logger's graph and exports."""
        return self._example_input_array

    @example_input_array.setter
    def example_input_array(self, example: Any) -> None:
        self._example_input_array = example

    @property
    def automatic_optimization(self) -> bool:
        """Whether the trainer does backward and steps. Set it to ``False`` to do them in ``training_step``."""
        return self._automatic_optimization

    @automatic_optimization.setter
    def automatic_optimization(self, automatic: bool) -> None:
        self._automatic_optimization = automatic

    @property
    def strict_loading(self) -> bool:
        """Whether loading a checkpoint requires exactly this module's keys."""
        return True if self._strict_loading is None else self._strict_loading

    @strict_loading.setter
    def strict_loading(self, strict: bool) -> None:
        self._strict_loading = strict

    # -- the steps
    @hook()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model computes, as in any torch module."""
        return super().forward(*args, **kwargs)

    @hook(log=STEP)
    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """``training_step(batch, batch_idx)``: return the loss, a mapping with ``loss``, or ``None`` to skip the batch."""
        raise MissingMethod(f"{type(self).__name__} has no `training_step`, which fit needs.")

    @hook(log=EVAL_STEP)
    def validation_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """``validation_step(batch, batch_idx, dataloader_idx=0)``: one batch of validation; log what matters."""
        raise MissingMethod(f"{type(self).__name__} has no `validation_step`, which validation needs.")

    @hook(log=EVAL_STEP)
    def test_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """``test_step(batch, batch_idx, dataloader_idx=0)``: one batch of testing; log what matters."""
        raise MissingMethod(f"{type(self).__name__} has no `test_step`, which test needs.")

    @hook()
    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """``predict_step(batch, batch_idx, dataloader_idx=0)``: return predictions; by default ``forward(batch)``."""
        return self(kwargs.get("batch", args[0] if args else None))

    # -- what the trainer asks for
    @hook()
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return what optimizes the module.

        One of: an optimizer; a list of optimizers; ``([optimizers], [schedulers])``; a dict with ``optimizer`` and
        ``lr_scheduler``; several such dicts; ``None`` for no optimization. A scheduler may be given as a dict with the keys
        ``scheduler, interval ("epoch" or "step"), frequency, monitor, strict, name``.
        """
        raise MissingMethod(f"{type(self).__name__} has no `configure_optimizers`, which fit needs.")

    @hook()
    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Callbacks that belong to this module. One of the same class in the trainer's list gives way to it."""
        return []

    @hook()
    def configure_model(self) -> None:
        """Build large layers here, after devices are known. Called for every verb, so it must find its own work done."""

    @hook()
    def prepare_data(self) -> None:
        """Download or make data. Runs first, once; what it assigns to ``self`` is there on every process."""

    @hook()
    def setup(self, stage: str) -> None:
        """Before a verb; ``stage`` is ``fit``, ``validate``, ``test`` or ``predict``."""

    @hook()
    def teardown(self, stage: str) -> None:
        """After a verb, however it ended."""

    @hook()
    def train_dataloader(self) -> Any:
        """The training loader."""
        return loaders_beside(self, "train_dataloader")

    @hook()
    def val_dataloader(self) -> Any:
        """The validation loader, or several."""
        return loaders_beside(self, "val_dataloader")

    @hook()
    def test_dataloader(self) -> Any:
        """The test loader, or several."""
        return loaders_beside(self, "test_dataloader")

    @hook()
    def predict_dataloader(self) -> Any:
        """The loader of what to predict, or several."""
        return loaders_beside(self, "predict_dataloader")

    # -- hooks shared with callbacks
    def on_fit_start(self) -> None:
        """Very beginning of fit."""

    def on_fit_end(self) -> None:
        """Very end of fit."""

    def on_train_start(self) -> None:
        """Before the first training epoch."""

    def on_train_end(self) -> None:
        """After the last training epoch."""

    def on_train_epoch_start(self) -> None:
        """Before an epoch's first batch."""

    @once_called("outputs")
    def on_train_epoch_end(self) -> None:
        """After an epoch's last batch and validation."""

    @once_called("batch", "batch_idx", "dataloader_idx")
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Before a training step. Return ``-1`` to skip the rest of the epoch."""

    @once_called("outputs", "batch", "batch_idx", "dataloader_idx")
    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """After a training step."""

    def on_validation_start(self) -> None:
        """Before validation."""

    def on_validation_end(self) -> None:
        """After validation."""

    def on_validation_epoch_start(self) -> None:
        """Before the first validation batch."""

    @once_called("outputs")
    def on_validation_epoch_end(self) -> None:
        """After the last validation batch."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before a validation step."""

    def on_validation_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """After a validation step."""

    def on_test_start(self) -> None:
        """Before testing."""

    def on_test_end(self) -> None:
        """After testing."""

    def on_test_epoch_start(self) -> None:
        """Before the first test batch."""

    @once_called("outputs")
    def on_test_epoch_end(self) -> None:
        """After the last test batch."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before a test step."""

    def on_test_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """After a test step."""

    def on_predict_start(self) -> None:
        """Before predicting."""

    def on_predict_end(self) -> None:
        """After predicting."""

    def on_predict_epoch_start(self) -> None:
        """Before the first batch to predict."""

    @once_called("results")
    def on_predict_epoch_end(self) -> None:
        """After the last batch to predict."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before a predict step."""

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """After a predict step."""

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Before gradients are set to none."""

    def on_before_backward(self, loss: Tensor) -> None:
        """Before ``loss.backward()``."""

    def on_after_backward(self) -> None:
        """Gradients of this batch have been added."""

    @once_called("optimizer", "optimizer_idx")
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete and not yet clipped."""

    # -- hooks of the module alone
    @hook()
    def on_validation_model_eval(self) -> None:
        """Puts the model into eval mode before validation."""
        self.eval()

    @hook()
    def on_validation_model_train(self) -> None:
        """Puts every submodule back into the mode it had before validation."""
        self.trainer.leyden_modes.restore()

    @hook()
    def on_validation_model_zero_grad(self) -> None:
        """Called before validation inside fit, where no gradients wait. Free them here if memory is short."""

    @hook()
    def on_test_model_eval(self) -> None:
        """Puts the model into eval mode before testing."""
        self.eval()

    @hook()
    def on_test_model_train(self) -> None:
        """Puts every submodule back into the mode it had before testing."""
        self.trainer.leyden_modes.restore()

    @hook()
    def on_predict_model_eval(self) -> None:
        """Puts the model into eval mode before predicting."""
        self.eval()

    @hook()
    def on_predict_model_train(self) -> None:
        """Puts every submodule back into the mode it had before predicting."""
        self.trainer.leyden_modes.restore()

    @hook()
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint before it is written."""

    @hook()
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take out of a checkpoint what was added, before the state is loaded."""

    @hook()
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Change a batch before it moves to the device."""
        return batch

    @hook()
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int = 0) -> Any:
        """Move a batch to the device. Override for batch types that nothing else knows."""
        return move_data_to_device(batch, device)

    @hook()
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Change a batch once it is on the device."""
        return batch

    # -- optimization
    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or the list of them where there are several, for manual optimization.

        Their ``step`` counts steps, fires hooks and heeds the precision. ``use_pl_optimizer=False`` returns them bare.
        """
        found = self.trainer.leyden_optimizers_for_user(use_pl_optimizer)
        return found[0] if len(found) == 1 else found

    def lr_schedulers(self) -> Any:
        """The scheduler, the list of them where there are several, or ``None``, for manual optimization."""
        found = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        if not found:
            return None
        return found[0] if len(found) == 1 else found

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """``loss.backward()`` with hooks and precision heeded, for manual optimization."""
        if args or kwargs:
            loss, args, kwargs = loss_among((loss, *args), kwargs)
        if not hasattr(loss, "backward"):
            raise InvalidType("loss", loss, "a tensor")
        self.trainer.leyden_manual_backward(loss, *args, **kwargs)

    @hook(log=STEP)
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients. Override to do more than ``loss.backward()``."""
        loss, args, kwargs = loss_among((loss, *args), kwargs)
        loss.backward(*args, **kwargs)

    @hook(log=STEP)
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None, *older: Any, **named: Any
    ) -> None:
        """Step the optimizer. Overrides may leave the closure out: forward and backward are then done before the step.

        ``older`` and ``named`` are what 1.x gave: ``optimizer_idx`` before the closure, and three flags behind it.
        """
        closures = (named.get("second_order_closure"), optimizer_closure, *older[:1])
        optimizer.step(closure=next((each for each in closures if callable(each)), None))

    @hook(log=STEP)
    @once_called("epoch", "batch_idx", "optimizer", "optimizer_idx")
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Reset gradients."""
        optimizer.zero_grad()

    @hook()
    @once_called("scheduler", "optimizer_idx", "metric")
    def lr_scheduler_step(self, scheduler: LRSchedulerTypeUnion, metric: Any | None) -> None:
        """Step a scheduler. Override for schedulers with another signature."""
        if metric is None:
            scheduler.step()  # type: ignore[call-arg]  # ReduceLROnPlateau always comes with a metric
        else:
            scheduler.step(metric)

    @hook(log=STEP)
    @once_called("optimizer", "optimizer_idx", "gradient_clip_val", "gradient_clip_algorithm")
    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: ClipAlgorithm | None = None
    ) -> None:
        """Clip gradients before a step. Override to clip otherwise; :meth:`clip_gradients` does the plain kinds."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clip_gradients(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: ClipAlgorithm | None = None
    ) -> None:
        """Clip the gradients of ``optimizer``'s parameters, by total norm (``"norm"``) or element-wise (``"value"``)."""
        self.trainer.leyden_clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def toggle_optimizer(self, optimizer: Any, optimizer_idx: int | None = None) -> None:
        """Let only ``optimizer``'s parameters require gradients, until :meth:`untoggle_optimizer`."""
        mine = {id(p) for group in bare_optimizer(optimizer).param_groups for p in group["params"]}
        remembered: dict[Any, bool] = self.__dict__.setdefault("_toggled", {})
        others = [getattr(o, "optimizer", o) for o in self.trainer.optimizers]
        for other in others:
            for group in other.param_groups:
                for parameter in group["params"]:
                    remembered.setdefault(parameter, parameter.requires_grad)
        for parameter, required in remembered.items():
            parameter.requires_grad = required and id(parameter) in mine

    @once_called("optimizer_idx")
    def untoggle_optimizer(self, optimizer: Any = None) -> None:
        """Undo :meth:`toggle_optimizer`. Raises :class:`InvalidType` for what is no optimizer, nor the index of one."""
        if not isinstance(optimizer, int | None):
            bare_optimizer(optimizer)
        for parameter, required in self.__dict__.pop("_toggled", {}).items():
            parameter.requires_grad = required

    @contextmanager
    def toggled_optimizer(self, optimizer: Any, sync_grad: bool = True) -> Iterator[None]:
        """:meth:`toggle_optimizer` for the length of a ``with`` block; without ``sync_grad`` no gradients are exchanged in it."""
        self.toggle_optimizer(optimizer)
        try:
            with nullcontext() if sync_grad else self.trainer.strategy.leyden_accumulating():
                yield
        finally:
            self.untoggle_optimizer(optimizer)

    # -- logging
    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Reduction | Callable[[Tensor], Tensor] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any | None = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
        **older: Any,
    ) -> None:
        """Log a value: a tensor with one element, a number, or a torchmetrics metric.

        Args:
            name: the metric's name. With both ``on_step`` and ``on_epoch`` it also appears as ``name_step`` and ``name_epoch``.
            prog_bar: show it in the progress bar.
            logger: send it to the loggers (default: yes).
            on_step: log each batch's value. Default: in training steps.
            on_epoch: log the epoch's value. Default: everywhere else.
            reduce_fx: how batches become the epoch's value: ``mean`` (weighted by batch size), ``sum``, ``min``, ``max``,
                ``last``, or a function of the stacked values.
            add_dataloader_idx: with several loaders, append ``/dataloader_idx_N`` to the name.
            batch_size: samples in the batch, the weight of this value in a mean. Default: read off the batch.
            enable_graph: keep the autograd graph of the step's value.
            sync_dist: let loggers get each step's value over all processes, and not this one's. A mean weighs every process
                by the samples of its batch. Epoch values are always those of all processes, and exact.
            rank_zero_only: each process keeps its own value, of the epoch too, so that not all of them have to log it.
            sync_dist_group: accepted; values are exchanged by all processes.
            metric_attribute: accepted, not needed here.
            older: what 1.x took and needs no answer today. Any other name raises :class:`UnknownName`.

        Raises:
            IllegalLog: where nothing can be logged, or the value is no scalar. The message says where it is legal.
        """
        if older:
            check_older_arguments("log", older, LightningModule.log)
        trainer = self._trainer
        if trainer is None:
            self._say_unattached(name)
            return
        trainer.leyden_metrics.log(
            name,
            value,
            (
                prog_bar,
                logger,
                on_step,
                on_epoch,
                reduce_fx,
                add_dataloader_idx,
                enable_graph,
                None if rank_zero_only else sync_dist,
            ),
            batch_size,
        )

    def log_dict(
        self,
        dictionary: Mapping[str, Any],
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Reduction | Callable[[Tensor], Tensor] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any | None = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
        **older: Any,
    ) -> None:
        """Log several values at once, as :meth:`log`. Nested dicts get names joined by ``/``; a ``MetricCollection`` is fine."""
        if older:
            check_older_arguments("log_dict", older, LightningModule.log_dict)
        trainer = self._trainer
        if trainer is None:
            self._say_unattached(", ".join(map(str, dictionary)))
            return
        sync = None if rank_zero_only else sync_dist
        asked: AskedLog = (prog_bar, logger, on_step, on_epoch, reduce_fx, add_dataloader_idx, enable_graph, sync)
        if not hasattr(dictionary, "items"):
            raise IllegalLog(f"log_dict needs a mapping of names to values, and got {type(dictionary).__name__}.")
        for name, value in flattened(dictionary):
            trainer.leyden_metrics.log(name, value, asked, batch_size)

    def _say_unattached(self, name: str) -> None:
        if not self._said_unattached:
            self._said_unattached = True
            warn_user(
                f"self.log({name!r}, ...) was called on a {type(self).__name__} that no trainer runs: the value is dropped.",
                LeydenWarning,
            )

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process, above the progress bar."""
        self.trainer.print(*args, **kwargs)

    def all_gather(self, data: Any, group: Any | None = None, sync_grads: bool = False) -> Any:
        """Gather tensors of every process, stacked along a new first dimension; with one process, ``data`` itself."""
        return self.trainer.leyden_all_gather(data, group, sync_grads)

    # -- shown
    def summarize(self, mode: Literal["top", "full"] | None = "top", max_depth: int | None = None) -> Any:
        """The table of layers and parameters, as a :class:`ModelSummary`: ``mode="top"`` one level deep, ``"full"`` all."""
        from leyden.inspect.summary import summarize  # it is asked for by hand, and a run never needs it

        return summarize(self, max_depth if max_depth is not None else -1 if mode == "full" else 1)

    # -- weights
    def freeze(self) -> Self:
        """Put the module into eval mode, with no parameter requiring gradients."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        return self.eval()

    def unfreeze(self) -> Self:
        """Put the module into train mode, with all parameters requiring gradients."""
        for parameter in self.parameters():
            parameter.requires_grad = True
        return self.train()

    @makes_anew
    def load_from_checkpoint(
        cls,
        checkpoint_path: Path | Any,
        map_location: MapLocation = None,
        hparams_file: Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A new module with the constructor's arguments and the weights of a checkpoint. Random state is left untouched.

        Args:
            checkpoint_path: a file, an URL, or a file object.
            map_location: as in :func:`torch.load`.
            hparams_file: a ``.yaml`` or ``.csv`` with the constructor's arguments, for files that hold none.
            strict: whether keys must match exactly (default: the module's :attr:`strict_loading`).
            weights_only: ``False`` lets a file run code: a foreign one, and pickled hyper-parameters. Only for files you trust.
            **kwargs: constructor arguments that override the file's.

        Raises:
            MissingHyperparameter: the constructor requires an argument that the file lacks.
            CheckpointMissing, CheckpointDamaged, CheckpointForeign, CheckpointMismatch: the file cannot be used.
        """
        return load_module_from_checkpoint(cls, checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs)
