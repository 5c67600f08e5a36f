"""What training logged is to be seen while validation runs, whether or not anybody looked before."""

from __future__ import annotations

from typing import Any

from kit import Logging, fit

from leyden.testing import Recorder, random_batches


def test_a_validation_sees_the_newest_step() -> None:
    seen: list[Any] = []
    watcher = Recorder(on_validation_start=lambda trainer, *_: seen.append(trainer.callback_metrics.get("train_loss")))
    options: dict[str, Any] = {"val_check_interval": 2, "num_sanity_val_steps": 0}
    fit(Logging(), random_batches(4), random_batches(2), callbacks=[watcher], **options)
    assert len(seen) == 2
    assert all(value is not None for value in seen)
    assert seen[0] != seen[1]
