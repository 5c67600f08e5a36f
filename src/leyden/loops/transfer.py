"""Bring a batch to the device, through the transfer hooks where somebody overrides them."""

from __future__ import annotations

from typing import Any

from leyden.by_position import fitted
from leyden.datamodule import LightningDataModule
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.state.progress import TRANSFER
from leyden.state.run import Run
from leyden.strategies.movers import mover_of

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_GIVEN = dict(zip(HOOKS, (2, 3, 2), strict=True))  # arguments; older ones leave the loader's number out


class BatchTransfer:
    """Brings one batch to the device. A datamodule's transfer hooks win over the module's; looked up once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.before, self.transfer, self.after = (self._owner(name) for name in HOOKS)
        self.converts = run.strategy.precision.converts_input
        self.move = mover_of(run.strategy)
        self.idle = not (self.before or self.transfer or self.after or run.strategy.leyden_moves or self.converts)

    def _owner(self, name: str) -> Any:
        datamodule, module = self.run.datamodule, self.run.lightning_module
        if datamodule is not None and overrides(datamodule, getattr(LightningDataModule, name)):
            return fitted(getattr(datamodule, name), _GIVEN[name])
        if overrides(module, getattr(LightningModule, name)):
            return fitted(getattr(module, name), _GIVEN[name])
        return None

    def __call__(self, batch: Any, loader_index: int = 0) -> Any:
        hooks = self.run.leyden_hooks
        assert hooks is not None
        strategy, flight, start = self.run.strategy, self.run.leyden_fit.flight, 0
        if hooks.heard is not None:
            start = hooks.take_heard(TRANSFER)[0]
        outer, flight.batch, hooks.told = hooks.told, batch, start
        if self.before is not None and start < 1:
            batch = hooks.call(HOOKS[0], self.before, batch, loader_index)
        if self.converts and start < 2:
            batch = strategy.precision.convert_input(batch)
        flight.batch, hooks.told = batch, max(start, 1)
        if start < 2:
            if self.transfer is not None:
                batch = hooks.call(HOOKS[1], self.transfer, batch, strategy.root_device, loader_index)
            elif strategy.leyden_moves:
                batch = self.move(batch, dataloader_idx=loader_index)
        flight.batch, hooks.told = batch, 2
        if self.after is not None:
            batch = hooks.call(HOOKS[2], self.after, batch, loader_index)
        hooks.told = outer
        return batch
