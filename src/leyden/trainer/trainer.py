"""Trainer: options in, four verbs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Self

from leyden import classic
from leyden.assemble import as_callbacks, choose_callbacks, choose_loggers
from leyden.callback import Callback
from leyden.callbacks.progress.story import Story
from leyden.classic.continuation import Continuation
from leyden.classic.loop_views import EvaluationLoopView, FitLoopView, PredictLoopView
from leyden.datamodule import LightningDataModule
from leyden.devices.accelerators import Accelerator
from leyden.distributed.vigilance import DEFAULT, Vigilance
from leyden.errors import MisconfigurationException, Unsupported
from leyden.hooks import overrides
from leyden.loggers.base import Logger
from leyden.loops.evaluate import EvaluateLoop
from leyden.loops.fit import FitLoop
from leyden.loops.predict import PredictLoop
from leyden.metrics.metrics import Metrics
from leyden.module import LightningModule
from leyden.options import Options, refuse_with_barebones
from leyden.profilers.base import Profiler
from leyden.profilers.choose import choose_profiler
from leyden.state.loaders import Loaders
from leyden.state.stage import PREDICT, TEST, VAL, Stage, TrainerFn
from leyden.strategies.base import Strategy
from leyden.strategies.choose import Plugin, choose_strategy
from leyden.trainer.checkpoints import choose_checkpoint
from leyden.trainer.checks import check_fit, check_module, load_eval, require_predict, require_step, take_datamodule, validates
from leyden.trainer.job import Job
from leyden.trainer.lifecycle import Lifecycle
from leyden.trainer.result import FitResult
from leyden.types import ClipAlgorithm, PrecisionName, name_in_hooks


class Trainer(Lifecycle):
    """Runs a :class:`LightningModule`: loops, devices, precision, logging, checkpoints, so that the module need not.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"mps"``, or an Accelerator.
        strategy: ``"auto"``, a strategy's name, or a Strategy.
        devices: a number of devices, their indices, or ``"auto"``.
        num_nodes: machines; 1 for now.
        precision: ``32`` (default), ``"bf16-mixed"``, ``"16-mixed"`` (also ``16``), ``64``, ``"16-true"``, ``"bf16-true"``.
        logger: a Logger, several, ``False`` for none, ``True`` for the default: a TensorBoardLogger where ``tensorboard``
            is installed, else a CSVLogger, into ``default_root_dir/lightning_logs/version_N``.
        callbacks: a Callback or several. The list is not changed.
        fast_dev_run: run this many batches (``True``: one) of training, validation and test, and write nothing.
        max_epochs: epochs to train; ``-1`` without limit. Default: 1000, where nothing else limits training.
        min_epochs: epochs before a stop is heeded.
        max_steps: optimizer steps to train; ``-1`` or ``None`` without limit.
        min_steps: optimizer steps before a stop is heeded.
        max_time: longest training: ``"DD:HH:MM:SS"``, a timedelta, or a dict of its keywords; of zero, nothing is trained.
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
        inference_mode: validate, test and predict in ``torch.inference_mode()``; else, and inside fit, in ``no_grad``.
        use_distributed_sampler: several processes share the samples of each loader; ``False`` leaves that to your sampler.
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
        hang_timeout: several processes in which nothing has moved for so long (seconds, or as ``max_time``; ``None``: for ever)
            are ended, and it is shown where each stood. Longer than any step, hook or save takes. Default: 20 minutes.
        max_restarts: start the processes again, so often at most, when one fails or is killed; training goes on from the last
            checkpoint of this run. For processes that the Trainer starts; with torchrun, its ``--max-restarts``.
        **legacy: names of older Lightning versions (``gpus``, ``resume_from_checkpoint`` ...), each with one notice.

    Raises:
        MisconfigurationException: an argument does not fit; see :mod:`leyden.errors` for its kinds.
    """

    @classic.with_environment
    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        strategy: str | Strategy = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: PrecisionName | None = None,
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
        gradient_clip_algorithm: ClipAlgorithm | None = None,
        deterministic: bool | Literal["warn"] | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Literal["simple", "advanced", "pytorch"] | Profiler | None = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Plugin | list[Plugin] | None = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | os.PathLike[str] | None = None,
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
        suggest_integrations: bool = True,
        stop_on_nonfinite_loss: bool = True,
        crash_capsule: bool | Literal["weights"] = True,
        hang_timeout: float | str | timedelta | Mapping[str, int] | None = DEFAULT,
        max_restarts: int = 0,
        **legacy: Any,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "legacy", "__class__")}
        self.leyden_classic = classic.translate(legacy, given, classic.defaults_of(Trainer))
        given = self.leyden_classic.keywords
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
        options = Options.read(given)
        super().__init__(
            options=options,
            strategy=choose_strategy(
                given["strategy"],
                given["accelerator"],
                given["devices"],
                given["num_nodes"],
                given["precision"],
                given["plugins"],
                given["use_distributed_sampler"],
                Vigilance.read(given["hang_timeout"], given["max_restarts"]),
                given["sync_batchnorm"],
            ),
            loggers=choose_loggers(given["logger"], options),
            callbacks=choose_callbacks(given["callbacks"], options),
            asked_callbacks=as_callbacks(given["callbacks"], "callbacks"),
            profiler=choose_profiler(given["profiler"]),
        )
        self.leyden_metrics.silent = options.behaviour.barebones
        classic.tell_init(self)

    def _options_with(self, given: Mapping[str, Any]) -> Options:
        """The options as the constructor would read them, were it given these too."""
        self.leyden_classic.keywords = {**(before := self.leyden_classic.keywords), **given}
        try:
            return Options.read(self.leyden_classic.keywords)
        except MisconfigurationException:
            self.leyden_classic.keywords = before
            raise

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
            model: the module. Of a module compiled by :func:`torch.compile` the steps run compiled.
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
        loaders = classic.fit_loaders(self.leyden_classic, legacy, train_dataloaders, val_dataloaders)
        train_dataloaders, datamodule = take_datamodule(loaders["train"], datamodule, "train_dataloaders")
        take_datamodule(loaders["val"], datamodule, "val_dataloaders")
        job = Job(
            module=check_module(model),
            loaders={"train": train_dataloaders, "val": loaders["val"], "test": loaders["test"]},
            datamodule=datamodule,
            ckpt_path=self.leyden_classic.path_for(ckpt_path),
            weights_only=weights_only,
        )
        return self.strategy.processes.launched(self._fit)(job)

    def _fit(self, job: Job) -> FitResult:
        module = job.module
        request = choose_checkpoint(self, job.ckpt_path, fitting=True)
        if self.leyden_goes_on and job.ckpt_path is None and module is self._fitted_module:
            request.continuation = Continuation.of(self)
        self.leyden_goes_on = False
        story = Story(self, self._result)
        with closing(request), story.ending(), self._verb(TrainerFn.FITTING, module, job.datamodule, job.loaders):
            self.leyden_begin_fit()
            check_fit(self, module)
            self._fitted_module = module
            self._prepare(module, request, job.weights_only)
            loop = FitLoop(self, validates(self, module))
            story.begin()
            try:
                loop.run_fit(lambda: self._restore_training(request))
            finally:
                loop.close()
        self.leyden_fit.returned = True
        self._test_after_dev_run(module, job.datamodule)
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
        job = self._evaluation(VAL, model, dataloaders, ckpt_path, datamodule, weights_only)
        return self.strategy.processes.launched(self._evaluate)(replace(job, verbose=verbose))

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
        dataloaders = classic.test_loaders(self.leyden_classic, legacy, dataloaders, datamodule)
        job = self._evaluation(TEST, model, dataloaders, ckpt_path, datamodule, weights_only)
        return self.strategy.processes.launched(self._evaluate)(replace(job, verbose=verbose))

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
        job = self._evaluation(PREDICT, model, dataloaders, ckpt_path, datamodule, weights_only)
        return self.strategy.processes.launched(self._predict)(replace(job, keep=return_predictions is not False))

    def _predict(self, job: Job) -> list[Any] | None:
        with self._verb(TrainerFn.PREDICTING, job.module, job.datamodule, job.loaders):
            require_predict(job.module)
            self._prepare(job.module, choose_checkpoint(self, job.ckpt_path, implicit=job.implicit), job.weights_only)
            load_eval(self, PREDICT)
            if not any(self.num_predict_batches):
                return []
            with self.leyden_in_stage(PREDICT.running):
                predictions = PredictLoop(self, job.keep).run_epoch()
        self.leyden_predicted = [], []  # they are let go of together with what is returned
        if not job.keep:
            return None
        return predictions[0] if len(predictions) == 1 else predictions

    # -- what the verbs share
    def _evaluation(
        self,
        stage: Stage,
        model: LightningModule | None,
        dataloaders: Any,
        ckpt_path: str | os.PathLike[str] | None,
        datamodule: LightningDataModule | None,
        weights_only: bool | None,
    ) -> Job:
        dataloaders, datamodule = take_datamodule(dataloaders, datamodule, "dataloaders")
        asked = model is not None
        module = check_module(model if asked else self._module_at_hand(str(stage.verb)))
        return Job(
            module=module,
            loaders={stage.key: dataloaders},
            datamodule=datamodule,
            ckpt_path=self.leyden_classic.path_for(ckpt_path, is_trained=module is self._fitted_module),
            weights_only=weights_only,
            stage=stage,
            implicit=not asked and module is self._fitted_module,
        )

    def _evaluate(self, job: Job) -> list[dict[str, float]]:
        stage = job.stage
        assert stage is not None
        with self._verb(stage.verb, job.module, job.datamodule, job.loaders):
            require_step(self, job.module, stage)
            request = choose_checkpoint(self, job.ckpt_path, implicit=job.implicit, verbose=job.verbose)
            self._prepare(job.module, request, job.weights_only)
            load_eval(self, stage)
            if not any(self.leyden_loaders.num_eval_batches(stage.key)):
                return []
            with self.leyden_in_stage(stage.running):
                results = EvaluateLoop(self, stage).run_epoch()
                assert self.leyden_hooks is not None
                self.leyden_hooks.emit_checkpoint_phase(stage.hooks.end)
            if job.verbose and self.is_global_zero and any(results):
                from leyden.callbacks.progress.results import print_results

                print_results(results, stage=str(stage.verb))
        return results

    # -- after fit
    def _test_after_dev_run(self, module: LightningModule, datamodule: LightningDataModule | None) -> None:
        """2020's promise of ``fast_dev_run``: train, validation and test, where there is something to test."""
        if not self.fast_dev_run or self.interrupted:
            return
        has_step = overrides(module, LightningModule.test_step)
        origin = self.leyden_loaders.origins.get("test")
        if has_step and origin is not None and origin.exists and self.leyden_options.limits.test:
            kept = self.leyden_loaders, self.leyden_metrics, self.profiler
            self.leyden_loaders, self.leyden_metrics, self.profiler = Loaders(), Metrics(), choose_profiler(None)
            try:
                self.test(module, dataloaders=origin.given, datamodule=datamodule)
                tested = self.callback_metrics
            finally:
                # what fit measured and read stays to be seen
                self.leyden_loaders, self.leyden_metrics, self.profiler = kept
                self.state.fn = TrainerFn.FITTING
            self.leyden_metrics.publish(tested)

    def _result(self) -> FitResult:
        writer = next(iter(self.leyden_keepers), None)
        monitors = getattr(writer, "monitor", None) is not None
        best = (getattr(writer, "best_model_path", "") or None) if monitors else None
        score = getattr(writer, "best_model_score", None)
        last = getattr(writer, "last_model_path", "") or getattr(writer, "best_model_path", "") or None
        reason: str | None
        if self.interrupted:
            status, reason = "interrupted", "Ctrl-C"
        elif self.should_stop:
            status, reason = "stopped", self.leyden_stop_reason
        else:
            status, reason = "finished", None
        return FitResult(
            status=status,
            reason=reason,
            epochs=self.current_epoch,
            steps=self.leyden_fit.progress.step,
            history=list(self.leyden_fit.history),
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
    def from_argparse_args(cls, args: Any, **kwargs: Any) -> Self:
        """A Trainer with the keywords that stand in ``args`` (an ``argparse.Namespace``); ``kwargs`` override them."""
        return cls(**classic.keywords_from(cls, args, kwargs))

    @classmethod
    def default_attributes(cls) -> dict[str, Any]:
        """The Trainer's keywords with their defaults, those of 2020 too."""
        return {**classic.FORMER_DEFAULTS, **classic.defaults_of(cls)}

    if not TYPE_CHECKING:  # for a type checker, a name that is not declared stays an error

        def __getattr__(self, name: str) -> Any:
            return classic.old_attribute(self, name)

    # -- more of what scripts use
    @property
    def fit_loop(self) -> FitLoopView:
        """What libraries read of the fit loop. Its limits may be set: the next fit of the same module goes on with them."""
        return FitLoopView(self)

    @property
    def validate_loop(self) -> EvaluationLoopView:
        return EvaluationLoopView(self, "val")

    @property
    def test_loop(self) -> EvaluationLoopView:
        return EvaluationLoopView(self, "test")

    @property
    def predict_loop(self) -> PredictLoopView:
        return PredictLoopView(self, "predict")

    @contextmanager
    def init_module(self, empty_init: bool | None = None) -> Iterator[None]:
        """Make a module's parameters on the run's device and in its precision. ``empty_init`` leaves them unfilled."""
        with self.strategy.tensor_init_context(empty_init):
            yield


name_in_hooks((Callback, LightningModule, LightningDataModule), Trainer=Trainer, LightningModule=LightningModule)
