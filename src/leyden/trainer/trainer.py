"""Trainer: options in, four verbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from leyden import classic
from leyden.assemble import as_callbacks, choose_callbacks, choose_loggers, with_modules_callbacks
from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.devices.switches import torch_switches
from leyden.distributed.signals import heeded, in_notebook
from leyden.errors import (
    ConflictingOptions,
    EmptyLoader,
    InvalidOption,
    InvalidType,
    LeakedStopIteration,
    MissingMethod,
    MissingModel,
    PossibleUserWarning,
    TrainingTerminated,
    Unsupported,
)
from leyden.hooks import HOOK_NAMES, MODULE_HOOKS, Hooks, fitted, overrides, refuse_misspelt, tell_stage
from leyden.loggers.base import Logger
from leyden.loops.evaluate import STAGE_OF, EvaluateLoop
from leyden.loops.fit import FitLoop
from leyden.loops.moving import Mover
from leyden.loops.optimize import Automatic, Manual
from leyden.loops.predict import PredictLoop
from leyden.module import LightningModule
from leyden.options import (
    Behaviour,
    Limits,
    Optimization,
    Options,
    Validation,
    Watching,
    refuse_with_barebones,
)
from leyden.profilers.base import Profiler
from leyden.profilers.choose import choose_profiler
from leyden.state import snapshot
from leyden.state.loaders import Loaders, Origin
from leyden.state.metrics import Metrics
from leyden.state.optimizers import OptimizerPlan
from leyden.state.run import Run
from leyden.state.stage import RunningStage, TrainerFn, TrainerStatus
from leyden.strategies.base import Strategy
from leyden.strategies.choose import choose_strategy
from leyden.trainer.checkpoints import Choice, choose_checkpoint
from leyden.trainer.ending import Ending
from leyden.trainer.loop_views import EvaluationLoopView, FitLoopView
from leyden.trainer.result import FitResult

MODULE_METHODS: frozenset[str] = frozenset(
    {
        *MODULE_HOOKS,
        *("training_step", "validation_step", "test_step", "predict_step", "forward"),
        *("configure_optimizers", "configure_callbacks", "configure_model", "configure_gradient_clipping"),
        *("prepare_data", "setup", "teardown"),
        *("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"),
        *("backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
        *("on_save_checkpoint", "on_load_checkpoint"),
        *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
        *("on_validation_model_eval", "on_validation_model_train", "on_validation_model_zero_grad"),
        *("on_test_model_eval", "on_test_model_train", "on_predict_model_eval", "on_predict_model_train"),
    }
)
"""What a module may override, and so what a misspelling in it is compared with."""
DATAMODULE_METHODS: frozenset[str] = frozenset(
    {
        *("prepare_data", "setup", "teardown", "on_exception", "state_dict", "load_state_dict"),
        *("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"),
        *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
        *("on_save_checkpoint", "on_load_checkpoint"),
    }
)
MODULE_SETTINGS = ("automatic_optimization", "example_input_array", "prepare_data_per_node", "strict_loading")
FIRST_STAGE = {
    TrainerFn.FITTING: RunningStage.TRAINING,
    TrainerFn.VALIDATING: RunningStage.VALIDATING,
    TrainerFn.TESTING: RunningStage.TESTING,
    TrainerFn.PREDICTING: RunningStage.PREDICTING,
}
STEPS = {"training_step": 2, "validation_step": 3, "test_step": 3, "predict_step": 3}


class Trainer(Run):
    """Runs a :class:`LightningModule`: loops, devices, precision, logging, checkpoints, so that the module need not.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"mps"``, or an Accelerator.
        strategy: ``"auto"``, a strategy's name, or a Strategy.
        devices: a number of devices, their indices, or ``"auto"``.
        num_nodes: machines; 1 for now.
        precision: ``32`` (default), ``"bf16-mixed"``, ``"16-mixed"`` (also ``16``), ``64``, ``"16-true"``, ``"bf16-true"``.
        logger: a Logger, several, ``False`` for none, ``True`` for a CSV logger.
        callbacks: a Callback or several. The list is not changed.
        fast_dev_run: run this many batches (``True``: one) of training, validation and test, and write nothing.
        max_epochs: epochs to train; ``-1`` without limit. Default: 1000, where nothing else limits training.
        min_epochs: epochs before a stop is heeded.
        max_steps: optimizer steps to train; ``-1`` or ``None`` without limit.
        min_steps: optimizer steps before a stop is heeded.
        max_time: longest training: ``"DD:HH:MM:SS"``, a timedelta, or a dict of its keywords.
        limit_train_batches, limit_val_batches, limit_test_batches, limit_predict_batches: batches to use of each loader: a
            number (an int) or a share (a float up to 1.0).
        overfit_batches: train and validate on this number or share of batches, without shuffling.
        val_check_interval: when validation runs: a share of an epoch (a float), a number of training batches (an int), a time.
        check_val_every_n_epoch: epochs between validations; ``None``: ``val_check_interval`` counts across epochs.
        num_sanity_val_steps: validation batches before training, which leave no trace; ``-1`` for all.
        log_every_n_steps: steps between rows of step metrics.
        enable_checkpointing: keep checkpoints (default: the best and the last where there is a validation loss, else the last).
        enable_progress_bar, enable_model_summary: show them.
        accumulate_grad_batches: batches a step; or ``{epoch: batches}``. A short last window is scaled by its own length.
        gradient_clip_val, gradient_clip_algorithm: clip gradients by total ``"norm"`` or by ``"value"``.
        deterministic: use deterministic kernels only; ``"warn"`` warns where there is none.
        benchmark: ``torch.backends.cudnn.benchmark`` while a verb runs.
        inference_mode: evaluate under ``torch.inference_mode()``; else under ``no_grad``.
        use_distributed_sampler: for several processes.
        profiler: ``"simple"``, ``"advanced"``, ``"pytorch"``, or a Profiler.
        detect_anomaly: ``torch.autograd.set_detect_anomaly`` while a verb runs.
        barebones: turn everything off that is not training.
        plugins: precision, checkpoint or cluster plug-ins.
        sync_batchnorm: for several processes.
        reload_dataloaders_every_n_epochs: make loaders anew after so many epochs.
        default_root_dir: where everything is written (default: the working directory).
        enable_autolog_hparams: log hyper-parameters to the loggers.
        model_registry: not offered.
        suggest_integrations: accepted; there are no adverts.
        stop_on_nonfinite_loss: end with :class:`NonFiniteLoss` when the training loss becomes NaN or infinite.
        crash_capsule: keep a training step that raises, or whose loss is not finite, in a folder beside the logs, for
            :func:`leyden.replay`; ``"weights"``: with the weights before it, copied before every step, and every loss
            checked at once. (Else losses are checked now and then, and larger batches than a few KB are gone by then: the
            newest one is kept.)
        **legacy: names of older Lightning versions (``gpus``, ``resume_from_checkpoint`` ...), each with one notice.

    Raises:
        MisconfigurationException: an argument does not fit; see :mod:`leyden.errors` for its kinds.
    """

    def __init__(
        self,
        *,
        accelerator: Any = "auto",
        strategy: str | Strategy = "auto",
        devices: Any = "auto",
        num_nodes: int = 1,
        precision: str | int | None = None,
        logger: Logger | list[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        fast_dev_run: int | bool = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int | None = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | Mapping[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | Mapping[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int | Mapping[int, int] = 1,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: str | Profiler | None = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Any = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | os.PathLike[str] | None = None,
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
        suggest_integrations: bool = True,
        stop_on_nonfinite_loss: bool = True,
        crash_capsule: bool | str = True,
        **legacy: Any,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "legacy", "__class__")}
        self.classic = classic.translate(legacy, given, classic.defaults_of(Trainer))
        given = self.classic.keywords
        if model_registry is not None:
            raise Unsupported(f"model_registry={model_registry!r}: model registries are not offered. Save with ModelCheckpoint.")
        if given["barebones"] is True:
            refuse_with_barebones(given)
            given.update(
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=0,
                stop_on_nonfinite_loss=False,
            )
        options = read_options(given)
        super().__init__(
            options=options,
            strategy=choose_strategy(
                given["strategy"],
                given["accelerator"],
                given["devices"],
                given["num_nodes"],
                given["precision"],
                given["plugins"],
            ),
            loggers=choose_loggers(given["logger"], options),
            callbacks=choose_callbacks(given["callbacks"], options),
            profiler=choose_profiler(given["profiler"]),
        )
        self.metrics.silent = options.behaviour.barebones
        asked = as_callbacks(given["callbacks"], "callbacks")
        self._trainers_callbacks = list(self.callbacks)  # without what a module brings
        self._default_callbacks = [callback for callback in self.callbacks if not holds(asked, callback)]
        self._attached_callbacks = list(self.callbacks)  # as the last verb left them; what differs now was changed by the user
        self._callbacks_module: LightningModule | None = None
        self._modules_callbacks: list[Callback] = []
        self._verb_running = False
        self._fitted_module: LightningModule | None = None  # whose checkpoints the callbacks know
        self._started: list[object] = []  # the parts of the running verb that have to be torn down
        self._tested_by_fit = False
        classic.tell_init(self)

    # -- verbs
    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
        **legacy: Any,
    ) -> FitResult:
        """Train ``model``.

        Args:
            model: the module. A module compiled by :func:`torch.compile` is taken as what it was compiled from.
            train_dataloaders: a loader, or a list or dict of loaders read side by side; or a datamodule. Default: the
                module's own.
            val_dataloaders: a loader, or several read one after another.
            datamodule: where loaders come from, instead.
            ckpt_path: continue from this checkpoint: a path or an URL; ``"last"`` (the newest good one of the run's folder, or
                none, so that the same command can be repeated); ``"best"``.
            weights_only: ``False`` allows a foreign file to run code while it is read.
            **legacy: ``train_dataloader`` and ``test_dataloaders`` of older versions.

        Returns:
            FitResult: how it ended, metrics by epoch, checkpoints.

        Raises:
            MisconfigurationException, CheckpointError, NonFiniteLoss, and whatever the module's code raises.
        """
        loaders = classic.fit_loaders(self.classic, legacy, train_dataloaders, val_dataloaders)
        train_dataloaders, datamodule = take_datamodule(loaders["train"], datamodule, "train_dataloaders")
        take_datamodule(loaders["val"], datamodule, "val_dataloaders")
        module = self._check_module(model)
        ckpt_path = ckpt_path if ckpt_path is not None else self.classic.resume_from
        sources = {"train": train_dataloaders, "val": loaders["val"], "test": loaders["test"]}
        with self._verb(TrainerFn.FITTING, module, datamodule, sources):
            self.begin_fit()
            self._check_fit(module)
            self._fitted_module = module
            choice = choose_checkpoint(self, ckpt_path, fitting=True)
            self._prepare(module, choice, weights_only)
            loop = FitLoop(self, self._validates(module))
            self._restore_training(choice)
            if choice.checkpoint is not None and loop.is_finished():
                self.print(f"The run in {choice.path} is finished: {self.stop_reason or 'it has reached its limit'}.")
            try:
                loop.run_fit(resuming=choice.checkpoint is not None)
            finally:
                loop.close()
        self._test_after_dev_run(module, datamodule)
        return self._result()

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
        **legacy: Any,
    ) -> list[dict[str, float]]:
        """Run validation once; returns the metrics of each loader.

        ``model`` defaults to the one last used. ``ckpt_path`` names the weights to use: a path, ``"best"`` or ``"last"``;
        without ``model`` and ``ckpt_path`` the best checkpoint is used if there is one, else the weights at hand, and which is
        said.
        """
        dataloaders = classic.evaluation_loaders("validate", legacy, dataloaders)
        return self._evaluate("val", TrainerFn.VALIDATING, model, dataloaders, ckpt_path, verbose, datamodule, weights_only)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
        **legacy: Any,
    ) -> list[dict[str, float]]:
        """Run the test set once; returns the metrics of each loader. Arguments as for :meth:`validate`."""
        dataloaders = classic.test_loaders(self.classic, legacy, dataloaders, datamodule)
        return self._evaluate("test", TrainerFn.TESTING, model, dataloaders, ckpt_path, verbose, datamodule, weights_only)

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
        **legacy: Any,
    ) -> list[Any] | None:
        """Predict; returns a list with what ``predict_step`` returned for each batch (a list of such lists for several loaders).

        ``return_predictions=False`` keeps nothing in memory: write from ``on_predict_batch_end``.
        """
        dataloaders = classic.evaluation_loaders("predict", legacy, dataloaders)
        dataloaders, datamodule = take_datamodule(dataloaders, datamodule, "dataloaders")
        asked = model is not None
        module = self._check_module(model if asked else self._module_at_hand("predict"))
        keep = return_predictions is not False
        with self._verb(TrainerFn.PREDICTING, module, datamodule, {"predict": dataloaders}):
            ckpt_path = ckpt_path if ckpt_path is not None else self.classic.resume_from
            implicit = not asked and module is self._fitted_module
            self._prepare(module, choose_checkpoint(self, ckpt_path, implicit=implicit), weights_only)
            self._load_eval("predict", self.options.limits.predict)
            if not any(self.num_predict_batches):
                return []
            with self.in_stage(RunningStage.PREDICTING):
                predictions = PredictLoop(self, keep).run_epoch()
        if not keep:
            return None
        return predictions[0] if len(predictions) == 1 else predictions

    # -- what the verbs share
    def _evaluate(
        self,
        stage: str,
        fn: TrainerFn,
        model: LightningModule | None,
        dataloaders: Any,
        ckpt_path: str | os.PathLike[str] | None,
        verbose: bool,
        datamodule: LightningDataModule | None,
        weights_only: bool | None,
    ) -> list[dict[str, float]]:
        dataloaders, datamodule = take_datamodule(dataloaders, datamodule, "dataloaders")
        asked = model is not None
        module = self._check_module(model if asked else self._module_at_hand(str(fn)))
        with self._verb(fn, module, datamodule, {stage: dataloaders}):
            self._require_step(module, stage)
            ckpt_path = ckpt_path if ckpt_path is not None else self.classic.resume_from
            implicit = not asked and module is self._fitted_module
            self._prepare(module, choose_checkpoint(self, ckpt_path, implicit=implicit, verbose=verbose), weights_only)
            limit = self.options.limits.val if stage == "val" else self.options.limits.test
            self._load_eval(stage, limit)
            if not any(self.loaders.num_eval_batches(stage)):
                return []
            with self.in_stage(STAGE_OF[stage]):
                loop = EvaluateLoop(self, stage)
                results = loop.run_epoch()
                assert self.hooks is not None
                self.hooks.emit_late(loop.on_end)
            if verbose and self.is_global_zero and self.options.watching.progress_bar and any(results):
                from leyden.callbacks.progress.results import print_results

                print_results(results, stage="validate" if stage == "val" else stage)
        return results

    @contextmanager
    def _verb(
        self,
        fn: TrainerFn,
        module: LightningModule,
        datamodule: LightningDataModule | None,
        given: dict[str, Any],
    ) -> Iterator[None]:
        """Everything that a verb starts is ended here, however the verb ends."""
        if self._verb_running:
            raise ConflictingOptions(
                f"trainer.{fn} was called while trainer.{self.state.fn} is running. Use another Trainer inside hooks."
            )
        if datamodule is None and self.datamodule is not None and self._same_module(module):
            datamodule = self.datamodule
        self._verb_running = True
        self.state.fn, self.state.status, self.state.stage = fn, TrainerStatus.RUNNING, FIRST_STAGE[fn]
        self._started.clear()
        self.hooks = None
        status = "failed"
        failure: BaseException | None = None
        begun = False
        try:
            with ExitStack() as stack:
                stack.enter_context(torch_switches(self.options.behaviour))
                stack.enter_context(torch.enable_grad())
                stack.enter_context(heeded(self.note_signal, interrupts=fn is TrainerFn.FITTING))
                self.begin(module, datamodule)
                self._check_names(module, datamodule)
                self.callbacks = self._callbacks_of(module, fn)
                adapter = classic.adapt(self, module)
                self.hooks = Hooks(self, [*adapter.first, *self.callbacks, *adapter.callbacks], module, adapter.instead)
                self.steps = self._find_steps(module, adapter)
                self.read_mapping = adapter.read_mapping
                self.bar_items = adapter.bar_items
                hooks = self.hooks
                self.metrics.begin(lambda: hooks.where, module)
                self.loaders.begin(
                    {stage: Origin(stage, given.get(stage), datamodule, adapter.module) for stage in stages_of(fn)}
                )
                begun = True
                yield
                if self.received_sigterm:
                    self.heed_signal()  # it came when no batch followed
                status = "success"
                self.state.status = TrainerStatus.FINISHED
        except KeyboardInterrupt as error:
            self.interrupted = True
            self.state.status = TrainerStatus.INTERRUPTED
            status = "interrupted"
            failure = None if fn is TrainerFn.FITTING and begun else error
            self._tell_exception(error)
            if failure is not None:
                raise
        except StopIteration:
            self.state.status = TrainerStatus.INTERRUPTED
            leak = LeakedStopIteration(
                "A StopIteration escaped from the code of a hook or step. It would have ended the epoch unnoticed. Find the "
                "next() without a default in it."
            )
            failure = leak
            self._tell_exception(leak)
            raise leak  # noqa: B904  # with "from", contextlib would take it for the StopIteration itself
        except BaseException as error:
            self.state.status = TrainerStatus.INTERRUPTED
            failure = error
            self._tell_exception(error)
            if isinstance(error, TrainingTerminated) and fn is TrainerFn.FITTING and begun and in_notebook():
                self.interrupted = True  # the process is the user's session: give control back
                failure = None
            else:
                raise
        finally:
            try:
                if begun:
                    self._end(fn, module, datamodule, status, failure)
            finally:
                self._verb_running = False
                self.state.stage = None

    def _end(
        self,
        fn: TrainerFn,
        module: LightningModule,
        datamodule: LightningDataModule | None,
        status: str,
        failure: BaseException | None,
    ) -> None:
        """Teardown and finalization of all that was started."""
        ending = Ending(failure)
        ending.call(self.restore_modes)
        if "_toggled" in module.__dict__:
            ending.call(module.untoggle_optimizer, None)
        if datamodule is not None and self._has_started(datamodule):
            ending.call(tell_stage, datamodule.teardown, str(fn))
        for callback in self.callbacks:
            if self._has_started(callback):
                ending.call(callback.teardown, self, module, stage=str(fn))
        if self._has_started(module):
            ending.call(tell_stage, module.teardown, str(fn))
        for logger in self.loggers:
            if self._has_started(logger):
                ending.call(logger.finalize, "success" if status == "success" else "failed")
        ending.call(self.strategy.teardown)
        ending.call(self.strategy.checkpoint_io.teardown)
        if self._has_started(self.profiler):
            ending.call(self.profiler.describe)
            ending.call(self.profiler.teardown, str(fn))
        self._let_go()
        ending.settle()

    def _start(self, part: object) -> None:
        """Note that ``part`` is being set up, so that it will be torn down."""
        self._started.append(part)

    def _has_started(self, part: object) -> bool:
        return any(part is started for started in self._started)

    def _let_go(self) -> None:
        self.optimization = None
        if self.hooks is not None:
            self.hooks.where = None

    def _tell_exception(self, error: BaseException) -> None:
        if self.hooks is None:
            return
        ending = Ending(error)
        for receiver in self.hooks.receivers(Callback.on_exception):
            ending.call(receiver, error)
        if self.datamodule is not None:
            ending.call(self.datamodule.on_exception, error)
        ending.settle()

    def _prepare(self, module: LightningModule, choice: Choice, weights_only: bool | None) -> None:
        """From the user's objects to a module on its device, with its data and the checkpoint's state."""
        datamodule, fn = self.datamodule, self.state.fn
        assert self.hooks is not None
        assert fn is not None
        if fn is TrainerFn.FITTING:
            choice.read(self, weights_only)
            positions = (choice.content.get(snapshot.OURS) or {}).get("loggers", [])
            for logger, position in zip(self.loggers, positions, strict=False):
                if choice.asked == "last":
                    logger.go_on(position)
            if choice.asked == "last" and choice.checkpoint is None:
                for logger in self.loggers:
                    logger.start_over()
        for logger in self.loggers:
            self._start(logger)
            logger.start()
        if self.profiler.active:
            self._start(self.profiler)
            self.profiler.setup(str(fn), self.local_rank, self.log_dir)
        if datamodule is not None:
            self.hooks.call("prepare_data", datamodule.prepare_data)
        self.hooks.call("prepare_data", module.prepare_data)
        if datamodule is not None:
            self._start(datamodule)
            self.hooks.call("setup", tell_stage, datamodule.setup, str(fn))
        for callback in self.callbacks:
            self._start(callback)
            self.hooks.call("setup", callback.setup, self, module, stage=str(fn))
        self._start(module)
        self.hooks.call("setup", tell_stage, module.setup, str(fn))
        with self.strategy.precision.init_context():
            self.hooks.call("configure_model", self.steps["configure_model"])
        self._log_hyperparameters(module)
        if fn is not TrainerFn.FITTING:
            choice.read(self, weights_only)
        self.ckpt_path = choice.path
        self.strategy.connect(module)
        if choice.checkpoint is not None:
            self.hooks.call("on_load_checkpoint", snapshot.put_weights, self, choice.checkpoint)
        self.strategy.setup(module)
        if fn is TrainerFn.FITTING:
            if choice.checkpoint is not None:
                snapshot.put_callbacks(self, choice.checkpoint)
            returned = self.hooks.call("configure_optimizers", self.steps["configure_optimizers"])
            self.plan = OptimizerPlan.read(returned, module.automatic_optimization)
            if not self.plan.optimizers and module.automatic_optimization:
                self.warn(
                    f"configure_optimizers returned {returned!r}: training runs without an optimizer, and no weight changes."
                )
            self._train_mode(module)

    def _restore_training(self, choice: Choice) -> None:
        if choice.checkpoint is None:
            return
        snapshot.put_optimizers(self, choice.checkpoint, self.plan)
        snapshot.put_training(self, choice.checkpoint)
        positions = (choice.content.get(snapshot.OURS) or {}).get("loggers", [])
        for logger, position in zip(self.loggers, positions, strict=False):
            logger.resume(position)
        choice.forget()

    def _log_hyperparameters(self, module: LightningModule) -> None:
        if not self.loggers or self.fast_dev_run or not self.options.watching.autolog_hparams:
            return
        merged: dict[str, Any] = {}
        for owner in (self.datamodule, module):
            if owner is None or not getattr(owner, "_log_hyperparams", True):
                continue
            initial = owner.hparams_initial
            clashing = [key for key in initial if key in merged and not same_value(merged[key], initial[key])]
            if clashing:
                raise ConflictingOptions(
                    f"The datamodule and the module both save the hyper-parameters {clashing}, with different values, and a "
                    f"logger can keep one. Rename one, or save with logger=False."
                )
            merged.update(initial)
        for logger in self.loggers:
            if merged:
                logger.log_hyperparams(merged)
            logger.log_graph(module)
            logger.save()

    def _train_mode(self, module: LightningModule) -> None:
        """Train mode, but for submodules that the user put into eval mode on purpose."""
        if not module.training:
            module.train()
            self.warn(
                f"{type(module).__name__} was in eval mode when fit began: it was put into train mode, with all its submodules. "
                f"To keep one in eval mode, call its eval() in on_train_epoch_start or leave the module itself in train mode."
            )

    # -- checks before anything runs
    def _check_module(self, model: Any) -> LightningModule:
        original = getattr(model, "_orig_mod", None)  # what torch.compile wraps
        if isinstance(original, LightningModule):
            model = original
        if not isinstance(model, LightningModule):
            raise InvalidType("model", model, "a leyden.LightningModule", module_hint(model))
        if "_parameters" not in model.__dict__:
            raise InvalidType(
                "model", type(model).__name__, "a module whose __init__ calls super().__init__() before anything else"
            )
        return model

    def _module_at_hand(self, verb: str) -> LightningModule:
        if self._module is None:
            raise MissingModel(f"trainer.{verb}() was called without a model, and none was used before. Pass one.")
        return self._module

    def _same_module(self, module: LightningModule) -> bool:
        return self._module is module

    def _check_names(self, module: LightningModule, datamodule: LightningDataModule | None) -> None:
        known = MODULE_METHODS | classic.RESEMBLED
        refuse_misspelt(module, LightningModule, known, classic.MODULE_NAMES, MODULE_SETTINGS)
        if datamodule is not None:
            refuse_misspelt(datamodule, LightningDataModule, DATAMODULE_METHODS, attributes=("prepare_data_per_node",))
        for callback in self.callbacks:
            refuse_misspelt(callback, Callback, {*HOOK_NAMES, *classic.CALLBACK_NAMES})

    def _callbacks_of(self, module: LightningModule, fn: TrainerFn) -> list[Callback]:
        """The trainer's callbacks with the module's. Those that a module brought to its fit serve its other verbs too."""
        added = [callback for callback in self.callbacks if not holds(self._attached_callbacks, callback)]
        removed = [callback for callback in self._attached_callbacks if not holds(self.callbacks, callback)]
        mine = [callback for callback in self._trainers_callbacks if not holds(removed, callback)] + added
        if fn is TrainerFn.FITTING or module is not self._callbacks_module:
            own = as_callbacks(module.configure_callbacks(), "configure_callbacks()")
        else:
            own = [callback for callback in self._modules_callbacks if not holds(removed, callback)]
        merged = with_modules_callbacks(mine, own, self._default_callbacks)
        for callback in merged:
            refuse_misspelt(callback, Callback, {*HOOK_NAMES, *classic.CALLBACK_NAMES})
        self._trainers_callbacks, self._modules_callbacks, self._callbacks_module = mine, own, module
        self._attached_callbacks = list(merged)
        return merged

    def _find_steps(self, module: LightningModule, adapter: classic.Adapter) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        for name, count in STEPS.items():
            method = adapter.steps.get(name, getattr(module, name))
            steps[name] = fitted(method, count)
        for name in ("configure_optimizers", "configure_model", "optimizer_step", "backward"):
            steps[name] = adapter.steps.get(name, getattr(module, name))
        return steps

    def _check_fit(self, module: LightningModule) -> None:
        name = type(module).__name__
        if not overrides(module, LightningModule.training_step):
            own = [method for method in dir(type(module)) if "train" in method and "step" in method and method != "training_step"]
            hint = f" Did you mean to call {own[0]!r} that?" if own else ""
            raise MissingMethod(
                f"{name} has no `training_step`, which fit needs: def training_step(self, batch, batch_idx).{hint}"
            )
        if not overrides(module, LightningModule.configure_optimizers) and (
            self.steps["configure_optimizers"] == module.configure_optimizers
        ):
            raise MissingMethod(
                f"{name} has no `configure_optimizers`, which fit needs: def configure_optimizers(self): return "
                f"torch.optim.Adam(self.parameters()). To train without an optimizer, let it return None."
            )
        if not self.loaders.exists("train"):
            raise MissingMethod(
                f"fit has nothing to train on: pass train_dataloaders=, or give {name} (or the datamodule) a `train_dataloader`."
            )
        if "dataloader_iter" in fitted_names(module.training_step):
            raise Unsupported(
                "training_step(self, dataloader_iter) is not offered. Take (self, batch, batch_idx): batches come one by one."
            )

    def _require_step(self, module: LightningModule, stage: str) -> None:
        step = "validation_step" if stage == "val" else "test_step"
        verb = "validate" if stage == "val" else "test"
        if self.steps[step] == fitted(getattr(module, step), 3) and not overrides(module, getattr(LightningModule, step)):
            raise MissingMethod(
                f"{type(module).__name__} has no `{step}`, which {verb} needs: def {step}(self, batch, batch_idx)."
            )
        if not self.loaders.exists(stage):
            raise MissingMethod(
                f"{verb} has no data: pass dataloaders=, or give {type(module).__name__} (or the datamodule) a "
                f"`{stage}_dataloader`."
            )

    def _validates(self, module: LightningModule) -> bool:
        """Whether fit validates; where data or step is missing, says which."""
        if self.options.limits.val == 0:
            return False
        has_loader = self.loaders.exists("val")
        has_step = overrides(module, LightningModule.validation_step) or self.steps["validation_step"] != module.validation_step
        name = type(module).__name__
        if has_loader and not has_step:
            self.warn(
                f"There is a validation loader, and {name} has no `validation_step`: no validation runs.", PossibleUserWarning
            )
        elif has_step and not has_loader:
            self.warn(
                f"{name} has a `validation_step`, and there is no validation loader: no validation runs.", PossibleUserWarning
            )
        return has_loader and has_step

    def _load_eval(self, stage: str, limit: int | float) -> None:
        if not self.loaders.exists(stage):
            raise MissingMethod(
                f"There is no data to {'validate' if stage == 'val' else stage}: pass dataloaders=, or give the module (or "
                f"the datamodule) a `{stage}_dataloader`."
            )
        if self.loaders.load_eval(stage, limit) is None:
            origin = self.loaders.origins[stage]
            raise EmptyLoader(
                f"{origin.name} {'returned' if origin.given is None else 'is'} no loader at all: None, or an empty list."
            )

    # -- after fit
    def _test_after_dev_run(self, module: LightningModule, datamodule: LightningDataModule | None) -> None:
        """2020's promise of ``fast_dev_run``: train, validation and test, where there is something to test."""
        if not self.fast_dev_run or self.interrupted:
            return
        has_step = overrides(module, LightningModule.test_step)
        origin = self.loaders.origins.get("test")
        if has_step and origin is not None and origin.exists and self.options.limits.test:
            kept = self.loaders, self.metrics
            self.loaders, self.metrics = Loaders(), Metrics()
            try:
                self.test(module, dataloaders=origin.given, datamodule=datamodule)
                tested = self.callback_metrics
            finally:
                self.loaders, self.metrics = kept  # what fit measured and read stays to be seen
                self.state.fn = TrainerFn.FITTING
            self.metrics.publish(tested)

    def _result(self) -> FitResult:
        writer = self.checkpoint_callback
        monitors = getattr(writer, "monitor", None) is not None
        best = (getattr(writer, "best_model_path", "") or None) if monitors else None
        score = getattr(writer, "best_model_score", None)
        last = getattr(writer, "last_model_path", "") or getattr(writer, "best_model_path", "") or None
        reason: str | None
        if self.interrupted:
            status, reason = "interrupted", "Ctrl-C"
        elif self.should_stop:
            status, reason = "stopped", self.stop_reason
        else:
            status, reason = "finished", None
        return FitResult(
            status=status,
            reason=reason,
            epochs=self.progress.epoch,
            steps=self.progress.step,
            history=list(self.history),
            best_checkpoint=best,
            best_score=float(score) if score is not None else None,
            last_checkpoint=last,
        )

    # -- of older versions
    @classmethod
    def add_argparse_args(cls, parent_parser: Any, **_: Any) -> Any:
        """Add an option for every keyword of the Trainer to an ``argparse`` parser, which is returned."""
        return classic.add_argparse_args(cls, parent_parser)

    @classmethod
    def from_argparse_args(cls, args: Any, **kwargs: Any) -> Trainer:
        """A Trainer with the keywords that stand in ``args`` (an ``argparse.Namespace``); ``kwargs`` override them."""
        return cls(**classic.keywords_from(cls, args, kwargs))

    @classmethod
    def default_attributes(cls) -> dict[str, Any]:
        """The Trainer's keywords with their defaults."""
        return classic.default_attributes(cls)

    if not TYPE_CHECKING:  # for a type checker, a name that is not declared stays an error

        def __getattr__(self, name: str) -> Any:
            return classic.old_attribute(self, name)

    def run_one_step(self, module: LightningModule, batch: Any, state: Mapping[str, Any], begin: Callable[[], None]) -> Any:
        """One training step outside of a fit, from noted ``state``; returns its loss. :func:`leyden.replay` uses it."""
        loss: Any = None
        with self._verb(TrainerFn.FITTING, module, None, {}):
            self.begin_fit()
            assert self.hooks is not None
            self.strategy.connect(module)
            self.strategy.setup(module)
            returned = self.hooks.call("configure_optimizers", self.steps["configure_optimizers"])
            self.plan = OptimizerPlan.read(returned, module.automatic_optimization)
            optimization = (Automatic if module.automatic_optimization else Manual)(self)
            self.optimization = optimization
            self.progress.epoch, self.progress.step = state["epoch"], state["global_step"]
            with self.in_stage(RunningStage.TRAINING):
                self.metrics.start_epoch("train")
                begin()
                batch = Mover(self)(batch)
                self.metrics.at(batch, None, lambda: 1)
                outputs = optimization.step(batch, state["batch_idx"], is_last=True)
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        return loss.detach() if isinstance(loss, torch.Tensor) else None

    # -- more of what scripts use
    @property
    def fit_loop(self) -> FitLoopView:
        """What libraries read of the fit loop; ``fit_loop.max_epochs`` and ``min_epochs`` may be set."""
        return FitLoopView(self)

    @property
    def validate_loop(self) -> EvaluationLoopView:
        return EvaluationLoopView(self, "val")

    @property
    def test_loop(self) -> EvaluationLoopView:
        return EvaluationLoopView(self, "test")

    @property
    def predict_loop(self) -> EvaluationLoopView:
        return EvaluationLoopView(self, "predict")

    @property
    def lr_schedulers(self) -> list[Any]:
        """The schedulers themselves."""
        return [plan.scheduler for plan in self.plan.schedulers]

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates: there is a validation loader, a ``validation_step``, and the limits leave batches."""
        if self._module is None or self.options.limits.val == 0:
            return False
        return self.loaders.exists("val") and overrides(self._module, LightningModule.validation_step)

    @contextmanager
    def init_module(self, empty_init: bool | None = None) -> Iterator[None]:
        """Make a module's parameters on the run's device and in its precision. ``empty_init`` leaves them unfilled."""
        with ExitStack() as stack:
            stack.enter_context(self.strategy.precision.init_context())
            stack.enter_context(self.strategy.root_device)
            if empty_init:
                stack.enter_context(torch.nn.utils.skip_init.__globals__["torch"].device("meta"))
            yield


def read_options(given: Mapping[str, Any]) -> Options:
    """Every keyword of the Trainer, checked, in its record."""
    limits = Limits.read(
        **{
            name: given[name]
            for name in (
                *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "overfit_batches", "fast_dev_run"),
                *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
            )
        }
    )
    dev = limits.fast_dev_run
    return Options(
        limits=limits,
        validation=Validation.read(
            val_check_interval=given["val_check_interval"],
            check_val_every_n_epoch=given["check_val_every_n_epoch"],
            num_sanity_val_steps=given["num_sanity_val_steps"],
            dev=dev,
        ),
        optimization=Optimization.read(
            accumulate_grad_batches=given["accumulate_grad_batches"],
            gradient_clip_val=given["gradient_clip_val"],
            gradient_clip_algorithm=given["gradient_clip_algorithm"],
            stop_on_nonfinite_loss=given["stop_on_nonfinite_loss"],
        ),
        watching=Watching.read(
            log_every_n_steps=given["log_every_n_steps"],
            enable_progress_bar=given["enable_progress_bar"],
            enable_model_summary=given["enable_model_summary"],
            enable_checkpointing=given["enable_checkpointing"],
            enable_autolog_hparams=given["enable_autolog_hparams"],
            dev=dev,
        ),
        behaviour=Behaviour.read(
            **{
                name: given[name]
                for name in (
                    *("inference_mode", "detect_anomaly", "deterministic", "benchmark", "barebones"),
                    *("reload_dataloaders_every_n_epochs", "use_distributed_sampler", "sync_batchnorm"),
                )
            }
        ),
        default_root_dir=Options.read_root(given["default_root_dir"]),
        crash_capsule=Options.read_capsule(given["crash_capsule"]) and not given["barebones"] and given["crash_capsule"],
    )


def take_datamodule(loaders: Any, datamodule: LightningDataModule | None, name: str) -> tuple[Any, LightningDataModule | None]:
    """A datamodule may stand where loaders do; both at once exclude each other."""
    given: object = datamodule
    if given is not None and not isinstance(given, LightningDataModule):
        hint = "That is the class itself: make an instance of it." if isinstance(given, type) else ""
        raise InvalidType("datamodule", given, "a leyden.LightningDataModule", hint)
    if isinstance(loaders, LightningDataModule):
        if datamodule is not None:
            raise ConflictingOptions(f"A datamodule was passed as {name} and as datamodule. Leave one of them out.")
        return None, loaders
    if loaders is not None and datamodule is not None:
        raise ConflictingOptions(f"{name}= and datamodule= were both passed, and each brings loaders. Leave one of them out.")
    return loaders, datamodule


def stages_of(fn: TrainerFn) -> tuple[str, ...]:
    return {
        TrainerFn.FITTING: ("train", "val", "test"),
        TrainerFn.VALIDATING: ("val",),
        TrainerFn.TESTING: ("test",),
        TrainerFn.PREDICTING: ("predict",),
    }[fn]


def holds(callbacks: list[Callback], callback: Callback) -> bool:
    """Whether this very callback is in the list; equality is the user's to define."""
    return any(each is callback for each in callbacks)


def same_value(first: Any, second: Any) -> bool:
    try:
        return bool(first == second)
    except (ValueError, RuntimeError):
        return first is second


def module_hint(model: Any) -> str:
    if isinstance(model, type):
        return "That is the class itself: make an instance of it."
    if isinstance(model, torch.nn.Module):
        return "A plain torch module has no training_step: inherit from leyden.LightningModule."
    return ""


def fitted_names(method: Any) -> list[str]:
    import inspect

    return list(inspect.signature(method).parameters)


__all__ = ["InvalidOption", "Trainer"]
