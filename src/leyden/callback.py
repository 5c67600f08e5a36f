"""Callback: every hook there is, in the order in which it fires."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from leyden.former import FormerCallbackHooks
from leyden.former_names import adopt_callback
from leyden.hook_facts import EPOCH, EVAL_STEP, STEP, hook
from leyden.older_calls import once_called
from leyden.types import STEP_OUTPUT

if TYPE_CHECKING:
    from leyden.module import LightningModule
    from leyden.trainer.trainer import Trainer


class Callback(FormerCallbackHooks):
    """Code that watches a run, or steers it by the trainer's methods. Override the hooks you need; the others cost nothing.

    Every hook gets the trainer and the module first. Callbacks fire in the order in which they were given, before the
    module's own hook of the same name.

    While a verb runs, ``self.log`` and ``self.log_dict`` are the module's, legal where the module's are.
    """

    log: Callable[..., None]
    log_dict: Callable[..., None]

    leyden_phase: ClassVar[str] = "given"
    """When the callback is told, beside the others: ``"first"``, ``"given"`` (in the user's order), or ``"checkpoint"``: last,
    and of the end of batches, validations and epochs once everything that a checkpoint holds is done."""
    leyden_reads_epoch_metrics: ClassVar[bool] = False
    """Whether ``on_train_epoch_end`` reads metrics, and so has to fire after the module's own ``on_train_epoch_end``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt_callback(cls)

    def leyden_wants(self, hook: str) -> bool:
        """Asked once when a verb starts: ``False`` keeps an overridden hook from being called in vain, batch after batch."""
        return True

    def leyden_put_weights(self, pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """A file of weights alone is made: put those into it that are to be kept, where they are not the module's own."""

    @property
    def state_key(self) -> str:
        """The name of this callback's state in a checkpoint. Two callbacks of one class need different keys."""
        return self.__class__.__qualname__

    def _generate_state_key(self, **kwargs: Any) -> str:
        """A state key from the arguments that tell two callbacks of one class apart."""
        return f"{self.__class__.__qualname__}{kwargs!r}"

    # -- around every verb
    @hook()
    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Before a verb begins. ``stage`` is ``fit``, ``validate``, ``test`` or ``predict``."""

    @hook()
    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """After a verb has ended, however it ended."""

    # -- fit, in order
    @hook(module=True)
    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """The module is on its device, optimizers exist, nothing has run."""

    @hook()
    def on_sanity_check_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before the few validation batches that check the code."""

    @hook()
    def on_sanity_check_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """After the sanity check."""

    @hook(log=EPOCH, module=True)
    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before the first training epoch."""

    @hook(log=EPOCH, module=True)
    def on_train_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before an epoch's first batch."""

    @hook(log=STEP, module=True)
    @once_called("trainer", "pl_module", "batch", "batch_idx", "dataloader_idx")
    def on_train_batch_start(self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int) -> None:
        """The batch is on its device; its step follows."""

    @hook(log=STEP, module=True)
    def on_before_zero_grad(self, trainer: "Trainer", pl_module: "LightningModule", optimizer: Optimizer) -> None:
        """Before gradients are set to none."""

    @hook(log=STEP, module=True)
    def on_before_backward(self, trainer: "Trainer", pl_module: "LightningModule", loss: Tensor) -> None:
        """Before ``loss.backward()``."""

    @hook(log=STEP, module=True)
    def on_after_backward(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Gradients of this batch have been added."""

    @hook(log=STEP, module=True)
    @once_called("trainer", "pl_module", "optimizer", "optimizer_idx")
    def on_before_optimizer_step(self, trainer: "Trainer", pl_module: "LightningModule", optimizer: Optimizer) -> None:
        """Gradients are complete and not yet clipped."""

    @hook(log=STEP, module=True)
    @once_called("trainer", "pl_module", "outputs", "batch", "batch_idx", "dataloader_idx")
    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """After a batch. ``outputs`` is what ``training_step`` returned, detached and unscaled."""

    @hook(log=EPOCH, module=True)
    @once_called("trainer", "pl_module", "outputs")
    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """After an epoch's last batch and validation."""

    @hook(module=True)
    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """After the last epoch."""

    @hook(module=True)
    def on_fit_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """The very end of fit, before teardown."""

    # -- validation
    @hook(log=EPOCH, module=True)
    def on_validation_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before a validation, inside fit or by ``trainer.validate``."""

    @hook(log=EPOCH, module=True)
    def on_validation_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before the first validation batch."""

    @hook(log=EVAL_STEP, module=True)
    def on_validation_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before ``validation_step``."""

    @hook(log=EVAL_STEP, module=True)
    def on_validation_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After ``validation_step``."""

    @hook(log=EPOCH, module=True)
    @once_called("trainer", "pl_module", "outputs")
    def on_validation_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """After the last validation batch."""

    @hook(module=True)
    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Validation's metrics are final and written."""

    # -- test
    @hook(log=EPOCH, module=True)
    def on_test_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before testing."""

    @hook(log=EPOCH, module=True)
    def on_test_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before the first test batch."""

    @hook(log=EVAL_STEP, module=True)
    def on_test_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before ``test_step``."""

    @hook(log=EVAL_STEP, module=True)
    def on_test_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After ``test_step``."""

    @hook(log=EPOCH, module=True)
    @once_called("trainer", "pl_module", "outputs")
    def on_test_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """After the last test batch."""

    @hook(module=True)
    def on_test_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """The test's metrics are final and written."""

    # -- predict
    @hook(module=True)
    def on_predict_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before predicting."""

    @hook(module=True)
    def on_predict_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Before the first batch to predict."""

    @hook(module=True)
    def on_predict_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before ``predict_step``."""

    @hook(module=True)
    def on_predict_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After ``predict_step``."""

    @hook(module=True)
    @once_called("trainer", "pl_module", "outputs")
    def on_predict_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """After the last batch to predict."""

    @hook(module=True)
    def on_predict_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Predictions are complete."""

    # -- state and trouble
    @hook()
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep of this callback: tensors, numbers, strings and containers of them."""
        return {}

    @hook()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""

    @hook()
    def on_save_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """The checkpoint is complete and not yet written; add to it."""

    @hook()
    def on_load_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """A checkpoint was read; take out of it what was added."""

    @hook()
    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Something raised, in user code or ours. Teardown follows."""
