"""Options may be set between construction and a verb: checked like the constructor's, and counting from the next verb."""

from __future__ import annotations

from typing import Any

import kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leyden
from leyden.errors import LeydenWarning, MisconfigurationException
from leyden.testing import BoringModel, random_batches

GOOD: dict[str, list[Any]] = {
    "limit_train_batches": [0, 3, 0.5, 1.0],
    "limit_val_batches": [0, 2, 0.25],
    "limit_test_batches": [1, 1.0],
    "limit_predict_batches": [1, 0.5],
    "overfit_batches": [0.0, 2],
    "check_val_every_n_epoch": [1, 3],
    "num_sanity_val_steps": [0, 5],
    "val_check_interval": [0.5, 2],
    "gradient_clip_val": [0.5, 2.0, None],
    "gradient_clip_algorithm": ["norm", "value", None],
    "log_every_n_steps": [1, 7],
    "accumulate_grad_batches": [1, 4],
    "reload_dataloaders_every_n_epochs": [0, 2],
    "max_epochs": [1, 5, -1],
    "min_epochs": [0, 1],
    "max_steps": [3, -1],
    "min_steps": [0, 2],
}
BAD = [-7, True, "many", 1.5, object()]


@settings(max_examples=60)
@given(st.data())
def test_an_option_that_is_set_is_as_if_it_had_been_passed(data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(GOOD)))
    value = data.draw(st.sampled_from([*GOOD[name], *BAD]))
    changed = kit.trainer(max_epochs=2)
    try:
        passed = kit.trainer(**{"max_epochs": 2, name: value})
    except MisconfigurationException as error:
        before = changed.leyden_options
        with pytest.raises(type(error)):
            setattr(changed, name, value)
        assert changed.leyden_options == before
    else:
        setattr(changed, name, value)
        assert changed.leyden_options == passed.leyden_options
        assert getattr(changed, name) == getattr(passed, name)


def test_it_counts_from_the_next_verb() -> None:
    seen: list[Any] = []

    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch_idx)
            return super().training_step(batch, batch_idx)

        def test_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(f"test {batch_idx}")

    trainer = kit.trainer(max_epochs=1)
    trainer.limit_train_batches = 2
    trainer.accumulate_grad_batches = 2
    trainer.fit(Module(), random_batches(4))
    assert seen == [0, 1]
    assert trainer.global_step == 1
    seen.clear()
    trainer.limit_test_batches = 1
    trainer.test(Module(), random_batches(4))
    trainer.max_epochs = 2
    trainer.limit_train_batches = 1
    trainer.fit(Module(), random_batches(4))
    assert seen == ["test 0", 0, 0]


def test_what_is_set_inside_a_verb_waits_for_the_next_and_is_said() -> None:
    class Module(BoringModel):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 0:
                self.trainer.limit_train_batches = 1

    trainer = kit.trainer(max_epochs=2)
    with pytest.warns(LeydenWarning, match="limit_train_batches = 1 was set while a verb runs"):
        trainer.fit(Module(), random_batches(3))
    assert trainer.leyden_fit.progress.batches == 6
    trainer.fit(BoringModel(), random_batches(3))
    assert trainer.leyden_fit.progress.batches == 2


def test_a_subclass_and_a_copy_keep_it() -> None:
    class Mine(leyden.Trainer):
        pass

    trainer = Mine(**kit.QUIET, max_epochs=3)
    trainer.limit_val_batches = 0
    assert trainer.limit_val_batches == 0
    assert Mine(**kit.QUIET, max_epochs=3).limit_val_batches == 1.0
