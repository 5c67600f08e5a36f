"""What training logged is to be seen while validation runs, whether or not anybody looked before."""

from __future__ import annotations

from typing import Any

import leyden
from leyden.testing import BoringModel, Recorder, random_batches


class Logging(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.step(batch)
        self.log("loss", loss)
        return loss


def test_a_validation_sees_the_newest_step() -> None:
    seen: list[Any] = []
    watcher = Recorder(on_validation_start=lambda trainer, *_: seen.append(trainer.callback_metrics.get("loss")))
    trainer = leyden.Trainer(
        max_epochs=1,
        val_check_interval=2,
        num_sanity_val_steps=0,
        callbacks=[watcher],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Logging(), random_batches(4), random_batches(2))
    assert len(seen) == 2
    assert all(value is not None for value in seen)
    assert seen[0] != seen[1]
