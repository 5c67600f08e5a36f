"""Members of callbacks that their documents name and that programs call or override: each does what it says."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn

from leyden.callback import Callback
from leyden.callbacks import (
    EarlyStopping,
    LambdaCallback,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from leyden.hooks import HOOK_NAMES
from leyden.testing import BoringModel

FEW: dict[str, Any] = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "limit_test_batches": 2,
    "limit_predict_batches": 2,
    "num_sanity_val_steps": 1,
}
THREE = (
    "setup teardown on_exception on_save_checkpoint on_load_checkpoint on_before_backward on_before_optimizer_step "
    "on_before_zero_grad"
)
HOW_MANY = dict.fromkeys(THREE.split(), 3)  # arguments, the trainer's and the module's among them
HOW_MANY.update(on_train_batch_start=4, on_train_batch_end=5)
for stage in ("validation", "test", "predict"):
    HOW_MANY.update({f"on_{stage}_batch_start": 5, f"on_{stage}_batch_end": 6})


class Fails(BoringModel):
    def on_test_end(self) -> None:
        raise RuntimeError("at the end")


def test_every_function_of_a_lambda_callback_is_called_as_its_hook_is() -> None:
    of_today = [name for name in HOOK_NAMES if hasattr(Callback, name) and name not in ("state_dict", "load_state_dict")]
    told: dict[str, set[int]] = {}
    callback = LambdaCallback(**{name: lambda *given, of=name: told.setdefault(of, set()).add(len(given)) for name in of_today})
    trainer = kit.trainer(callbacks=[callback], **FEW)
    trainer.fit(BoringModel())
    trainer.save_checkpoint("a.ckpt")
    trainer.predict(BoringModel())
    with pytest.raises(RuntimeError, match="at the end"):
        trainer.test(Fails(), verbose=False)
    kit.trainer(callbacks=[callback], **{**FEW, "max_epochs": 2}).fit(BoringModel(), ckpt_path="a.ckpt")
    documented = {name for name in of_today if name in HOW_MANY or name.endswith(("_start", "_end"))}
    former = {"on_init_start", "on_init_end", "on_epoch_start", "on_epoch_end", "on_batch_start", "on_batch_end"}
    former |= {"on_pretrain_routine_start", "on_pretrain_routine_end", "on_keyboard_interrupt"}
    for name in sorted(documented - former):
        at_most = HOW_MANY.get(name, 2)
        assert told.get(name) in ({at_most}, {at_most - 1}), name  # a single loader's number is not told


class TestStochasticWeightAveraging:
    def test_the_mean_is_a_running_one_and_counts(self) -> None:
        average, module, count = nn.Linear(1, 1), nn.Linear(1, 1), torch.tensor(0)
        for value in (1.0, 2.0, 6.0):
            with torch.no_grad():
                module.weight.fill_(value)
            StochasticWeightAveraging.update_parameters(average, module, count, StochasticWeightAveraging.avg_fn)
        assert (average.weight.item(), int(count)) == (3.0, 3)
        StochasticWeightAveraging.transfer_weights(average, module)
        assert module.weight.item() == 3.0
        assert module.weight is not average.weight

    def test_batch_norms_begin_anew_and_have_their_momentum_back(self) -> None:
        swa = StochasticWeightAveraging(0.1)
        module = BoringModel()
        assert not swa.pl_module_contains_batch_norm(module)
        module.norm = nn.BatchNorm1d(2, momentum=0.3)
        assert swa.pl_module_contains_batch_norm(module)
        module.norm(torch.ones(4, 2))
        swa.reset_batch_norm_and_save_state(module)
        assert (module.norm.momentum, module.norm.running_mean.tolist(), swa.momenta) == (None, [0.0, 0.0], {module.norm: 0.3})
        swa.reset_momenta()
        assert (module.norm.momentum, swa.momenta) == (0.3, {})

    def test_its_epochs_are_told_while_it_runs(self) -> None:
        swa, epochs = StochasticWeightAveraging(0.1, swa_epoch_start=0.5), []
        note = LambdaCallback(on_train_epoch_start=lambda *_: epochs.append((swa.swa_start, swa.swa_end)))
        kit.trainer(callbacks=[swa, note], **{**FEW, "max_epochs": 4}).fit(BoringModel())
        assert epochs == [(1, 3)] * 4


def test_early_stopping_says_how_it_compares() -> None:
    lowest, highest = EarlyStopping("a", mode="min"), EarlyStopping("a", mode="max")
    assert (EarlyStopping.mode_dict, EarlyStopping.order_dict) == ({"min": torch.lt, "max": torch.gt}, {"min": "<", "max": ">"})
    assert (lowest.monitor_op, highest.monitor_op) == (torch.lt, torch.gt)


def test_pruning_s_steps_can_be_called() -> None:
    module = BoringModel()
    pruning = ModelPruning("l1_unstructured", amount=0.5, parameters_to_prune=[(module.layer, "weight")])
    assert ModelPruning.PARAMETER_NAMES == ("weight", "bias")
    assert pruning.sanitize_parameters_to_prune(module, [(module.layer, "bias")]) == [(module.layer, "bias")]
    assert pruning.filter_parameters_to_prune([(module.layer, "bias")]) == [(module.layer, "bias")]
    kit.trainer(callbacks=[pruning], **FEW).fit(module)
    assert int((module.layer.weight == 0).sum()) == 32


def test_a_timer_measures_a_test_too() -> None:
    timer = Timer()
    trainer = kit.trainer(callbacks=[timer], **FEW)
    trainer.test(BoringModel(), verbose=False)
    begun, ended = timer.start_time("test"), timer.end_time("test")
    assert begun is not None
    assert ended is not None
    assert timer.time_elapsed("test") == ended - begun > 0
    assert timer.start_time("validate") is None


def test_a_file_of_the_moment_of_an_error(tmp_path: Any) -> None:
    saves = OnExceptionCheckpoint(tmp_path, "broke")
    trainer = kit.trainer(callbacks=[saves], **FEW)
    trainer.fit(BoringModel())
    saves.on_exception(trainer, trainer.lightning_module, RuntimeError())
    assert torch.load(tmp_path / "broke.ckpt", weights_only=True)["global_step"] == 2


def test_bars_know_how_many_batches_are_done_where_nothing_is_drawn() -> None:
    made: list[Any] = []

    class Bar(TQDMProgressBar):
        def init_predict_tqdm(self) -> Any:
            made.append(super().init_predict_tqdm())
            return made[-1]

        def on_predict_batch_end(self, *given: Any, **more: Any) -> None:
            super().on_predict_batch_end(*given, **more)
            made.append((self.predict_progress_bar.n, self.total_predict_batches_current_dataloader))

        def on_train_batch_end(self, *given: Any, **more: Any) -> None:
            super().on_train_batch_end(*given, **more)
            made.append(self.train_progress_bar.n)

    bar = Bar(refresh_rate=2)
    trainer = kit.trainer(callbacks=[bar], **{**FEW, "limit_train_batches": 3}, enable_progress_bar=True)
    trainer.fit(BoringModel())
    assert made == [0, 2, 3]
    assert [(one.n, one.total) for one in (bar.train_progress_bar, bar.val_progress_bar)] == [(3, 3), (1, 1)]  # once it is over
    trainer.predict(BoringModel())
    assert made[4:] == [(0, 2), (2, 2)]
    assert bar.predict_progress_bar is made[3]


def test_the_mean_of_a_user_s_own_function_is_asked_with_three_tensors() -> None:
    seen: list[Any] = []

    def latest(average: Tensor, current: Tensor, count: Tensor) -> Tensor:
        seen.append((type(average), type(current), int(count)))
        return current

    kit.trainer(callbacks=[StochasticWeightAveraging(0.1, 1, avg_fn=latest)], **{**FEW, "max_epochs": 4}).fit(BoringModel())
    assert [count for *_, count in seen] == [1, 1, 2, 2, 3, 3]
    assert all(issubclass(kind, Tensor) for *kinds, _ in seen for kind in kinds)
