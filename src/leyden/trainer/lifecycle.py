"""The life of a verb: everything that it starts is ended, however it ends."""

import copy
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from leyden import classic
from leyden.asked import take_asked
from leyden.by_position import fitted, tell_stage
from leyden.callback import Callback
from leyden.callbacks.joining import each_of, lent_log
from leyden.callbacks.requeue import requeue_of
from leyden.callbacks.strategy_hooks import strategy_hooks
from leyden.checkpoint.drift import Drift, beside_the_module
from leyden.checkpoint.forms import usable
from leyden.checkpoint.layout import OURS
from leyden.checkpoint.random_state import preserved_random_state
from leyden.checkpoint.settings import asked_of
from leyden.datamodule import LightningDataModule
from leyden.devices.switches import torch_switches
from leyden.distributed.prepared import prepare
from leyden.distributed.rank_zero import rank_zero_only
from leyden.distributed.signals import PRESSED_AGAIN, first_words, in_notebook, noted, say_at_once
from leyden.errors import ConflictingOptions, LeakedStopIteration, MissingModel, TrainingTerminated
from leyden.hooks import Hooks, overrides
from leyden.inspect.compiled import defer_logs
from leyden.loggers.base import DummyLogger, Logger, keeps_place
from leyden.loggers.logged_hparams import merged_hparams
from leyden.loggers.places import take_places
from leyden.loggers.undisturbed import undrawn_by
from leyden.loops.optimize import optimization_of
from leyden.metrics.metrics import Metrics
from leyden.module import LightningModule
from leyden.notices import tell as tell_notices
from leyden.options import Options
from leyden.profilers.base import PassThroughProfiler, Profiler
from leyden.schedule import windows_in
from leyden.state import snapshot
from leyden.state.loaders import LoaderOrigin, Loaders
from leyden.state.making import load_train
from leyden.state.optimizers import OptimizerPlan
from leyden.state.run import Run
from leyden.state.stage import STAGES, TrainerFn, TrainerStatus
from leyden.strategies.base import Strategy
from leyden.trainer.attached import AttachedCallbacks, holds
from leyden.trainer.checkpoints import CheckpointRequest, choose_checkpoint
from leyden.trainer.checks import check_callback_names, check_module, check_names, check_verb, take_datamodule
from leyden.trainer.teardown import Teardown
from leyden.trainer.trial import Trial, trying
from leyden.tuner.aside import as_frozen, unseen_by

_log = logging.getLogger("leyden")
_OF_A_VERB = (
    *("_loggers", "callbacks", "profiler", "state", "leyden_fit", "leyden_metrics", "leyden_loaders", "_is_trial"),
    *("is_last_batch", "ckpt_path", "leyden_ckpt_is_named"),
)
"""What a trainer keeps of a verb that has ended, for those who ask it afterwards."""
STEPS = {"training_step": 2, "validation_step": 3, "test_step": 3, "predict_step": 3}


class Lifecycle(Run):
    """A run that can begin and end a verb. ``Trainer`` adds the verbs themselves."""

    def __init__(
        self,
        *,
        options: Options,
        strategy: Strategy,
        loggers: list[Logger],
        callbacks: list[Callback],
        asked_callbacks: list[Callback],
        profiler: Profiler,
    ) -> None:
        super().__init__(options=options, strategy=strategy, loggers=loggers, callbacks=callbacks, profiler=profiler)
        self._attached = AttachedCallbacks(callbacks, asked_callbacks)
        self._is_trial = False
        self._fitted_module: LightningModule | None = None  # whose checkpoints the callbacks know
        self._started: list[object] = []  # the parts of the running verb that have to be torn down
        self._lent: list[tuple[dict[str, Any], str]] = []  # where callbacks got the module's methods for this verb

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
        if datamodule is None and module is self._module:
            datamodule = self.datamodule
        outer = module._trainer if module._trainer is not self else None
        take_asked(self)
        self._verb_running = True
        if not self.strategy.processes.alone:
            rank_zero_only.rank = self.strategy.processes.rank  # one owner of the rank: what the environment says may be older
        self.leyden_loaders.share = self.strategy.leyden_share
        self.state.fn, self.state.status, self.state.stage = fn, TrainerStatus.RUNNING, STAGES[fn][0].running
        self._started.clear()
        self.leyden_hooks = None
        failure: BaseException | None = None
        begun = False
        try:
            with ExitStack() as stack:
                stack.enter_context(torch_switches(self.leyden_options.behaviour))
                stack.enter_context(torch.inference_mode(mode=False))  # a verb may be called inside another's evaluation
                stack.enter_context(torch.enable_grad())
                stack.enter_context(unseen_by(outer if fn is not TrainerFn.FITTING else None))
                stack.enter_context(noted(self._hear, interrupts=fn is TrainerFn.FITTING, more=self.strategy.leyden_signals))
                self.leyden_begin(module, datamodule)
                check_names(module, datamodule, self.callbacks)
                self.callbacks = self._callbacks_of(module, fn)
                self._lent += lent_log(self.callbacks, module)
                adapter = classic.adapt(self, module)
                tell_notices()
                told = [*adapter.first, *self.callbacks, *adapter.callbacks]
                last = [*strategy_hooks(self.strategy), *requeue_of(self)]
                self.leyden_hooks = Hooks(self, told, module, adapter.instead, last)
                self.leyden_steps = self._find_steps(module, adapter)
                self.leyden_read_mapping = adapter.read_mapping
                self.leyden_bar_items = adapter.bar_items
                self.leyden_own_optimization = adapter.optimization
                self.leyden_metrics.begin(self.leyden_hooks, module, self.strategy.leyden_peers)
                stack.enter_context(self.leyden_metrics.measured(self.profiler.leyden_around))
                self.leyden_metrics.has_loggers = bool(self.loggers or self.fast_dev_run)
                self.leyden_loaders.begin(
                    {
                        stage.key: LoaderOrigin(
                            stage, given.get(stage.key), datamodule, adapter.module, self.strategy.leyden_loader_process
                        )
                        for stage in STAGES[fn]
                    }
                )
                begun = True
                yield
                self.leyden_raise_if_signalled()  # it came when no batch followed
                self.state.status = TrainerStatus.FINISHED
        except KeyboardInterrupt as error:
            failure = None if fn is TrainerFn.FITTING and begun and error.args != (PRESSED_AGAIN,) else error
            self._tell_exception(error)
            if self.strategy.processes.has_failed_alone:
                failure = error  # code of the user's raised it here only
            if failure is not None:
                raise
            self.print(f"Ctrl-C: training ends at step {self.leyden_fit.progress.step}. The weights are kept.")
        except StopIteration:
            leak = LeakedStopIteration(
                "A StopIteration escaped from the code of a hook or step. It would have ended the epoch unnoticed. Find the "
                "next() without a default in it."
            )
            failure = leak
            self._tell_exception(leak)
            raise leak  # noqa: B904  # with "from", contextlib would take it for the StopIteration itself
        except BaseException as error:
            failure = error
            self._tell_exception(error)
            if isinstance(error, TrainingTerminated):
                self.print(str(error))  # an exit with a code is silent
            if isinstance(error, TrainingTerminated) and fn is TrainerFn.FITTING and begun and in_notebook():
                failure = None  # the process is the user's session: give control back
            else:
                raise
        finally:
            try:
                if begun:
                    try:
                        with noted(self._hear, interrupts=False, more=self.strategy.leyden_signals):
                            self._end(fn, module, datamodule, failure)
                    except BaseException as error:
                        self._obey_late(error)
                        raise
                    self._obey_late(failure)
            finally:
                self._verb_running = False
                self.state.stage = None
                if outer is not None and outer._verb_running:
                    outer._take_back(module)

    def _hear(self, number: int) -> None:
        """A signal is there. Called by its handler: what it asks for is done at the next safe place, and said now."""
        self.leyden_fit.course.note_signal(number, alone=not self.leyden_fitting)
        stage = self.state.stage
        doing = "validation" if self.leyden_fitting and stage is not None and stage.evaluating else "batch"
        if self.state.status is not TrainerStatus.RUNNING:
            doing = "teardown"
        say_at_once(self.print, first_words(number, doing, saves=self.leyden_fitting and doing != "teardown"))

    def _obey_late(self, failure: BaseException | None) -> None:
        """The verb has ended: raise for a signal that came while it was being ended."""
        waits = self.leyden_fit.course.signal
        if waits is None or isinstance(failure, TrainingTerminated) or (failure is not None and waits == signal.SIGINT):
            return
        try:
            self.leyden_raise_if_signalled()
        except TrainingTerminated as late:
            self.print(str(late))
            if failure is not None:  # an exit would hide it
                _log.error("Before that the run had failed:", exc_info=failure)
            raise late from failure

    def _take_back(self, module: LightningModule) -> None:
        """Another trainer had this running verb's module, inside a hook."""
        module.trainer = self  # type: ignore[assignment]  # every Run that users meet is a Trainer
        if self.datamodule is not None:
            self.datamodule.trainer = self  # type: ignore[assignment]  # as above
        if self.strategy.leyden_moves:
            module.to(self.strategy.root_device)

    def _end(
        self,
        fn: TrainerFn,
        module: LightningModule,
        datamodule: LightningDataModule | None,
        failure: BaseException | None,
    ) -> None:
        """Teardown and finalization of all that was started."""
        teardown = Teardown(failure)
        teardown.call(self.leyden_modes.restore)
        if "_toggled" in module.__dict__:
            teardown.call(module.untoggle_optimizer, None)
        if datamodule is not None and self._has_started(datamodule):
            teardown.call(tell_stage, datamodule.teardown, fn)
        for callback in self.callbacks:
            if self._has_started(callback):
                teardown.call(callback.teardown, self, module, stage=fn)
        if self._has_started(module):
            teardown.call(tell_stage, module.teardown, fn)
        if teardown.errors and not self.interrupted:
            teardown.call(self._tell_exception, teardown.errors[0][1])
        for logger in self.loggers:
            if self._has_started(logger) or self._has_started(module):  # one that was put in place meanwhile ends here too
                teardown.call(logger.finalize, "failed" if self.interrupted else "success")
        teardown.call(self.strategy.teardown)
        teardown.call(self.strategy.precision.teardown)
        teardown.call(self.strategy.checkpoint_io.teardown)
        if self._has_started(self.profiler):
            teardown.call(self.profiler.describe)
            teardown.call(self.profiler.teardown, str(fn))
        self._let_go()
        teardown.call(tell_notices)
        teardown.settle()

    def _checkpoint(self, weights_only: bool) -> dict[str, Any]:
        if self._module is None:
            raise MissingModel("The trainer has no module yet, so there is nothing to save: call fit with one first.")
        with preserved_random_state():  # what hooks draw here, a run that goes on from the file does not
            return snapshot.take(self, weights_only)

    def _start(self, part: object) -> None:
        """Note that ``part`` is being set up, so that it will be torn down."""
        self._started.append(part)

    def _has_started(self, part: object) -> bool:
        return any(part is started for started in self._started)

    def leyden_meet_callbacks(self) -> None:
        assert self.leyden_hooks is not None
        self._lent += lent_log(self.callbacks, self.lightning_module)
        self.leyden_hooks.meet(self.callbacks)

    def _let_go(self) -> None:
        while self._lent:
            attributes, name = self._lent.pop()
            attributes.pop(name, None)
        self.leyden_fit.optimization = None
        self.leyden_fit.flight.let_go()
        if self.leyden_hooks is not None:
            self.leyden_hooks.where = None

    def _tell_exception(self, error: BaseException) -> None:
        self.state.status = TrainerStatus.INTERRUPTED
        self.strategy.processes.note_failure(error)
        if self.leyden_hooks is None:
            return
        teardown = Teardown(error)
        with noted(self._hear, interrupts=False, more=self.strategy.leyden_signals):
            for receiver in self.leyden_hooks.receivers(Callback.on_exception):
                teardown.call(receiver, error)
            if self.datamodule is not None:
                teardown.call(self.datamodule.on_exception, error)
        teardown.settle()

    def _prepare(self, module: LightningModule, request: CheckpointRequest, weights_only: bool | None) -> None:
        """From the user's objects to a module on its device, with its data and the checkpoint's state."""
        fit = self.leyden_fit
        datamodule, fn = self.datamodule, self.state.fn
        assert self.leyden_hooks is not None
        assert fn is not None
        if fn is TrainerFn.FITTING:
            request.hold(self, begun=False)
            request.read(self, weights_only)
            if request.checkpoint is not None:
                self.ckpt_path = request.path
                fit.pending = dict(request.checkpoint)
                snapshot.put_progress(self, request.checkpoint)  # before a loader is made, which may ask for the epoch
            if request.asked == "last":
                with usable(request.path, "loggers"):
                    for logger, position in self._logger_positions(request):
                        logger.leyden_go_on(position)
                for logger in filter(keeps_place, self.loggers) if request.checkpoint is None else ():
                    logger.leyden_start_over()
        self.strategy.leyden_connect(module)
        take_places(self.loggers, self.strategy.processes, self._start)
        if self.profiler.leyden_active:
            self._start(self.profiler)
            self.profiler.setup(str(fn), self.local_rank if self.world_size > 1 else None, self.log_dir)
            self.profiler.leyden_attend(module)
        for owner, base in ((datamodule, LightningDataModule), (module, LightningModule)):
            if owner is not None:
                tell = partial(self.leyden_hooks.call, "prepare_data", owner.prepare_data)
                prepare(self.strategy.processes, owner, tell, overrides(owner, base.prepare_data))
        classic.tell_before_setup(self, module)
        if datamodule is not None:
            self._start(datamodule)
            self.leyden_hooks.call("setup", tell_stage, datamodule.setup, fn)
        for callback in each_of(self):
            self._start(callback)
            self.leyden_hooks.call("setup", callback.setup, self, module, stage=fn)
        if fn is TrainerFn.FITTING:
            request.hold(self, begun=True)
        self._start(module)
        self.leyden_hooks.call("setup", tell_stage, module.setup, fn)
        self.leyden_meet_callbacks()
        with self.strategy.tensor_init_context(), self.strategy.model_sharded_context():
            self.leyden_hooks.call("configure_model", self.leyden_steps["configure_model"])
        self._lent += defer_logs(module, self.leyden_steps)
        self._log_hyperparameters(module)
        if fn is not TrainerFn.FITTING:
            request.read(self, weights_only)
        self.ckpt_path = request.path
        self.leyden_ckpt_is_named = request.asked not in (None, "best", "last")
        self.strategy.leyden_place(module)
        if fn is not TrainerFn.FITTING:
            self.strategy.leyden_planned(OptimizerPlan.empty(), None)
        waits = self.strategy.restore_checkpoint_after_setup and fn is TrainerFn.FITTING
        if not waits:
            self._put_weights(request)
        if fn is TrainerFn.FITTING:
            if request.continuation is not None:
                request.continuation.begin(self)  # with its optimizers
                self._train_mode(module)
                return
            returned = self.leyden_hooks.call("configure_optimizers", self.leyden_steps["configure_optimizers"])
            plan = OptimizerPlan.read(returned, module.automatic_optimization, self.leyden_own_optimization is not None)
            fit.plan = self.strategy.leyden_planned(plan, self)
            if waits:
                self._put_weights(request)
            fit.asked = asked_of(fit.plan.optimizers, [each.scheduler for each in fit.plan.schedulers])
            if not fit.plan.optimizers and module.automatic_optimization:
                self.leyden_warn(
                    f"configure_optimizers returned {returned!r}: training runs without an optimizer, and no weight changes."
                )
            self._train_mode(module)

    def _put_weights(self, request: CheckpointRequest) -> None:
        if request.checkpoint is None:
            return
        assert self.leyden_hooks is not None
        self.leyden_hooks.call("on_load_checkpoint", snapshot.put_weights, self, request.checkpoint)
        snapshot.put_callbacks(self, request.checkpoint)

    def _restore_training(self, request: CheckpointRequest) -> None:
        optimization_of(self)  # on_fit_start may have set other optimizers
        if request.continuation is not None:
            request.continuation.restore(self)
            return
        self.leyden_fit.drift = Drift(self.lightning_module, partial(beside_the_module, self))
        if request.checkpoint is None:
            return
        snapshot.put_weights_again(self)
        snapshot.put_optimizers(self, request.checkpoint, self.leyden_fit.plan)
        snapshot.put_training(self, request.checkpoint)
        with usable(request.path, "loggers"):
            for logger, position in zip(self.loggers, self.leyden_fit.logged or [], strict=False):
                if keeps_place(logger):
                    logger.leyden_resume(position)
        self.leyden_fit.pending = None
        request.forget()

    def _logger_positions(self, request: CheckpointRequest) -> Iterator[tuple[Logger, Any]]:
        positions = zip(self.loggers, (request.content.get(OURS) or {}).get("loggers", []), strict=False)
        return ((logger, position) for logger, position in positions if keeps_place(logger))

    def _log_hyperparameters(self, module: LightningModule) -> None:
        if not self.loggers or self.fast_dev_run or not self.leyden_options.watching.autolog_hparams:
            return
        merged = merged_hparams(self.datamodule, module)
        for logger in self.loggers:
            with undrawn_by(logger):
                if merged not in ({}, None):
                    logger.log_hyperparams(merged)
                if hasattr(logger, "log_graph"):
                    logger.log_graph(module)
                logger.save()

    def _train_mode(self, module: LightningModule) -> None:
        """Train mode, but for submodules that the user put into eval mode on purpose."""
        if not module.training:
            module.train()
            self.leyden_warn(
                f"{type(module).__name__} was in eval mode when fit began: it was put into train mode, with all its submodules. "
                f"To keep one in eval mode, call its eval() in on_train_epoch_start or leave the module itself in train mode."
            )

    def _module_at_hand(self, verb: str) -> LightningModule:
        if self._module is None:
            raise MissingModel(f"trainer.{verb}() was called without a model, and none was used before. Pass one.")
        return self._module

    def _callbacks_of(self, module: LightningModule, fn: TrainerFn) -> list[Callback]:
        if self._is_trial:  # nobody hears of it, but for those that say in `setup` what is to be trained
            return [callback for callback in self.callbacks if hasattr(callback, "freeze_before_training")]
        merged = self._attached.for_verb(self.callbacks, module, fn is TrainerFn.FITTING)
        check_callback_names(each for each in merged if not holds(self.callbacks, each))  # the others were, with the module
        return merged

    def _find_steps(self, module: LightningModule, adapter: classic.Adapter) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        for name, count in STEPS.items():
            own = getattr(module, name)
            if not callable(own):  # set to None: as good as missing
                own = partial(getattr(LightningModule, name), module)
            steps[name] = fitted(adapter.steps.get(name, own), count)
        called = ("configure_optimizers", "configure_model", "optimizer_step", "optimizer_zero_grad", "backward")
        for name in (*called, "lr_scheduler_step", "configure_gradient_clipping"):
            steps[name] = adapter.steps.get(name, getattr(module, name))
        return steps

    @contextmanager
    def trial_run(
        self,
        module: LightningModule,
        train_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        steps: int | None = None,
    ) -> Iterator[Trial]:
        """Training steps that leave no trace: ``with trainer.trial_run(module) as trial: loss = trial.step(batch)``.

        A verb of its own, with all of a fit's set-up; called inside a fit's hook, it uses what the fit has set up. ``steps``
        bounds :meth:`Trial.batches <leyden.trainer.trial.Trial.batches>`. Afterwards everything is as it was, bit for bit.
        """
        if self._verb_running:
            with trying(self, steps) as trial:
                yield trial
            return
        given = {"train": train_dataloaders}
        with self._trial(TrainerFn.FITTING, module, datamodule, given, check=False), trying(self, steps) as trial:
            yield trial

    def leyden_search(
        self,
        fn: TrainerFn,
        model: Any,
        given: dict[str, Any],
        datamodule: LightningDataModule | None,
        search: Callable[[Run, LightningModule], Any],
    ) -> Any:
        """What ``search`` finds out in a verb of its own. ``given`` are the loaders by stage; a datamodule may be among them."""
        for stage, loaders in given.items():
            given[stage], datamodule = take_datamodule(loaders, datamodule, f"the {stage} loaders")
        return self.strategy.processes.launched(self._search)(fn, check_module(model), datamodule, given, search)

    def _search(
        self,
        fn: TrainerFn,
        module: LightningModule,
        datamodule: LightningDataModule | None,
        given: dict[str, Any],
        search: Callable[[Run, LightningModule], Any],
    ) -> Any:
        found = []
        with self._trial(fn, module, datamodule, given, check=True):
            found.append(search(self, module))
        if not found:  # the verb takes a Ctrl-C for an end, and the caller waits for an answer
            raise KeyboardInterrupt
        return found[0]

    @contextmanager
    def _trial(
        self, fn: TrainerFn, module: LightningModule, datamodule: LightningDataModule | None, given: dict[str, Any], check: bool
    ) -> Iterator[None]:
        """A verb that is set up, of which callbacks and loggers hear nothing. What the trainer has of other verbs is put back."""
        kept = {name: vars(self)[name] for name in _OF_A_VERB}
        weights = copy.deepcopy(module.state_dict()) if self.strategy.holds_whole_parameters else {}  # trials put shards back
        vars(self).update(
            _loggers=[DummyLogger() for _ in self.loggers],
            profiler=PassThroughProfiler(),
            state=copy.copy(self.state),
            leyden_metrics=Metrics(),
            leyden_loaders=Loaders(self.leyden_loaders.share),
            _is_trial=True,
        )
        try:
            with preserved_random_state(), as_frozen(module), self._verb(fn, module, datamodule, given):
                if fn is TrainerFn.FITTING:
                    self.leyden_begin_fit()
                if check:
                    check_verb(self, module, fn)
                self.leyden_modes.keep(module)  # put back with the verb's other things: a fit begins in train mode
                self._prepare(module, choose_checkpoint(self, None), None)
                yield
        finally:
            vars(self).update(kept)
            module.load_state_dict(weights, strict=False)

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps that the whole fit will take, limits and accumulation included; infinity where unknown.

        Loads the training loader where that has not happened yet. The same before and after a resume.
        """
        limits = self.leyden_options.limits
        steps = float("inf") if limits.max_steps is None else limits.max_steps
        if limits.max_epochs is None:
            return steps
        source = self.leyden_loaders.train
        if source is None:
            source = load_train(self)
        stop = self.leyden_loaders.first_batches if self.leyden_options.behaviour.reload_every_n_epochs else source.stop
        if stop is None:
            return steps
        schedule = self.leyden_options.optimization.schedule or self.leyden_accumulation_schedule()
        epochs = limits.max_epochs or 1  # of none, as of one: schedules that are made with it want a number of steps
        return min(windows_in(stop, epochs, schedule or {0: self.leyden_fit.accumulation}), steps)
