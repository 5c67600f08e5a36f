"""``training_epoch_end``, ``validation_epoch_end`` and ``test_epoch_end``: the list of all that the steps returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from leyden.by_position import fitted
from leyden.callback import Callback
from leyden.classic.returned import log_epoch_end
from leyden.errors import warn_user
from leyden.module import LightningModule
from leyden.state.run import Run
from leyden.state.stage import PREDICT, TEST, TRAIN, VAL
from leyden.tree import tree_map

EPOCH_ENDS = {TRAIN.key: "training_epoch_end", VAL.key: "validation_epoch_end", TEST.key: "test_epoch_end"}
OLDER_EPOCH_ENDS = {VAL.key: "validation_end", TEST.key: "test_end"}
_STAGE_OF = {
    hook.__name__: stage.key
    for stage in (TRAIN, VAL, TEST, PREDICT)
    for hook in (stage.hooks.epoch_start, stage.hooks.batch_end, stage.hooks.epoch_end)
}
SAVED = "epoch_end_outputs"  # in a checkpoint's part of ours
KEPT = "epoch_ends_were_given"
RETURNED_NAMES = "names_of_returned_values"


class EpochEnds(Callback):
    """Collects what the steps return and hands the list to ``*_epoch_end(outputs)``: a list of lists for several loaders.

    The list grows with the epoch: tensors are detached, and kept on their device, until the epoch's end. Return only what
    the epoch's end needs.

    The hooks at an epoch's end had the same list in 1.0 to 1.9: :meth:`keep` holds it for them until the next epoch begins.
    """

    def __init__(self, methods: Mapping[str, Callable[..., Any]], returned: dict[str, set[str]]) -> None:
        self.returned = returned  # stage: the names that are logged because a step returned them, kept in checkpoints
        self.methods = {stage: fitted(method, 1) for stage, method in methods.items()}  # stage: its epoch end
        self.names = {stage: getattr(method, "__qualname__", EPOCH_ENDS[stage]) for stage, method in methods.items()}
        self.outputs: dict[str, dict[int, list[Any]]] = {stage: {} for stage in methods}  # stage, loader: what steps returned
        self._told: set[str] = set()  # stages whose epoch end was said to return what nobody uses
        self._kept: dict[str, Any] = {}  # stage: what its epoch end was given, for the hooks behind it

    def leyden_wants(self, hook: str) -> bool:
        return "checkpoint" in hook or _STAGE_OF.get(hook) in self.outputs

    def keep(self, stage: str) -> None:
        """Hold the outputs of ``stage`` for the hooks at its epoch's end."""
        self.outputs.setdefault(stage, {})
        self._kept.setdefault(stage, [])

    def kept(self, stage: str) -> Any:
        """The outputs of the epoch of ``stage`` that ends: of each loader a list, where there are several."""
        return self._kept[stage]

    def _open(self, stage: str) -> None:
        self.outputs[stage] = {}
        if stage in self._kept:
            self._kept[stage] = []

    def _collect(self, stage: str, outputs: Any, loader: int = 0) -> None:
        if outputs is not None:
            self.outputs[stage].setdefault(loader, []).append(tree_map(outputs, Tensor, Tensor.detach))

    def _finish(self, run: Run, stage: str, loaders: int) -> None:
        each = [list(self.outputs[stage].get(loader, [])) for loader in range(loaders)]
        outputs = each if loaders > 1 or stage == PREDICT.key else each[0]  # predictions were always a list of lists
        if stage in self._kept:
            self._kept[stage] = outputs
        if stage in self.methods:
            self._call(run, stage, outputs)
        if (
            stage != TRAIN.key or run.leyden_fit.progress.closed
        ):  # else a limit ended training inside the epoch, and may be raised
            self.outputs[stage] = {}

    def _call(self, run: Run, stage: str, outputs: Any) -> None:
        """Call the epoch end. What it returns counts, so a run that goes on from a checkpoint saved inside calls it again."""
        assert run.leyden_hooks is not None
        run.leyden_metrics.forget_hook(str(run.leyden_hooks.where))
        with run.leyden_hooks.unfinished():
            returned = self.methods[stage](outputs)
        if returned is None:
            return
        if not isinstance(returned, Mapping):  # from 1.0 on, nothing was done with it
            if stage not in self._told:
                self._told.add(stage)
                warn_user(
                    f"{self.names[stage]} returned {type(returned).__name__}, with which nothing is done. Log values with "
                    f"self.log, or return a dict of them."
                )
            return
        log_epoch_end(run, returned, self.returned.setdefault(stage, set()))

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._open("train")

    def on_train_batch_end(self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if outputs:  # an empty dict stands for a batch that was skipped
            self._collect("train", outputs)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish(trainer, "train", 1)

    def on_validation_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._open("val")

    def on_validation_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect("val", outputs, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish(trainer, "val", len(trainer.num_val_batches))

    def on_test_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._open("test")

    def on_test_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect("test", outputs, dataloader_idx)

    def on_test_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish(trainer, "test", len(trainer.num_test_batches))

    def on_predict_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._open("predict")

    def on_predict_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect("predict", outputs, dataloader_idx)

    def on_predict_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish(trainer, "predict", len(trainer.num_predict_batches))

    def on_save_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        collected = {stage: [[loader, kept] for loader, kept in by_loader.items()] for stage, by_loader in self.outputs.items()}
        if any(collected.values()):
            checkpoint.setdefault("leyden", {})[SAVED] = collected
        if any(self.returned.values()):
            checkpoint.setdefault("leyden", {})[RETURNED_NAMES] = {stage: sorted(names) for stage, names in self.returned.items()}
        if any(self._kept.values()):
            checkpoint.setdefault("leyden", {})[KEPT] = dict(self._kept)

    def on_load_checkpoint(self, trainer: Run, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        kept = (checkpoint.get("leyden") or {}).get(SAVED)
        if isinstance(kept, list):  # of training, as 0.1.0 wrote it
            kept = {"train": [[0, kept]]}
        for stage, by_loader in (kept or {}).items():
            if stage in self.outputs:
                self.outputs[stage] = {loader: list(outputs) for loader, outputs in by_loader}
        for stage, names in (checkpoint.get("leyden") or {}).get(RETURNED_NAMES, {}).items():
            self.returned.setdefault(stage, set()).update(names)
        for stage, outputs in (checkpoint.get("leyden") or {}).get(KEPT, {}).items():
            if stage in self._kept:
                self._kept[stage] = outputs
