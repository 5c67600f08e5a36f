"""What published packages reach for in a trainer's inside, and what their loggers import."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
import torchmetrics

from leyden import Trainer
from leyden.callbacks import Callback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from leyden.errors import CheckpointMismatch, InvalidOption, LeydenWarning, UnknownName
from leyden.loggers import utilities
from leyden.testing import BoringModel, random_batches
from leyden.trainer.connectors.accelerator_connector import _AcceleratorConnector  # type: ignore[import-not-found]
from leyden.utilities import logger as of_fabric  # type: ignore[attr-defined]


@pytest.mark.parametrize(("strategy", "several"), [("auto", False), ("ddp", True), ("fsdp", True)])
def test_a_callback_asks_what_was_chosen(strategy: str, several: bool) -> None:
    chosen = kit.trainer(strategy=strategy)._accelerator_connector
    assert chosen.is_distributed is several
    assert (chosen._parallel_devices or [torch.device("cpu")], chosen.parallel_devices) == (
        [torch.device("cpu")],
        chosen._parallel_devices,
    )
    assert (chosen._accelerator_flag, chosen._devices_flag, chosen._num_nodes_flag) == ("cpu", 1, 1)
    assert chosen.use_distributed_sampler


def test_what_was_chosen_is_the_trainers_own() -> None:
    trainer = kit.trainer(precision="bf16-true")
    chosen = trainer._accelerator_connector
    assert chosen.strategy is trainer.strategy
    assert chosen.accelerator is trainer.accelerator
    assert chosen.precision_plugin is trainer.precision_plugin
    assert chosen.cluster_environment is None
    with pytest.raises(UnknownName, match=r"no 'is_distribted'\. Did you mean 'is_distributed'\? .*trainer\.strategy"):
        chosen.is_distribted  # noqa: B018
    assert not hasattr(chosen, "select_precision_plugin")


def test_devices_are_read_without_a_trainer() -> None:
    chosen = _AcceleratorConnector(accelerator="cpu", devices=2)
    assert (chosen._accelerator_flag, chosen._devices_flag, chosen.is_distributed) == ("cpu", 2, True)
    with pytest.raises(InvalidOption, match=r"accelerator='cup'"):
        _AcceleratorConnector(accelerator="cup")


@pytest.mark.filterwarnings("ignore:.*there is no validation loader")
@pytest.mark.parametrize("validates", [True, False])
def test_whether_there_is_a_validation_is_known_in_configure_optimizers(validates: bool) -> None:
    class Asks(BoringModel):
        def configure_optimizers(self) -> Any:
            loop = self.trainer.fit_loop
            self.seen = [loop._data_source.is_defined(), loop.epoch_loop.val_loop._data_source.is_defined()]
            self.loader = loop._data_source.instance
            return super().configure_optimizers()

        val_dataloader = None  # type: ignore[assignment]  # neither loader nor method

    batches = random_batches(2)
    module, trainer = Asks(), kit.trainer(max_epochs=1, num_sanity_val_steps=0)
    assert not trainer.fit_loop._data_source.is_defined()
    trainer.fit(module, batches, random_batches(1) if validates else None)
    assert module.seen == [True, validates]
    assert module.loader is batches


def test_a_method_that_makes_the_loader_is_named_by_its_object() -> None:
    module = BoringModel()
    trainer = kit.trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(module)
    assert trainer.fit_loop._data_source.instance is module


def test_a_module_without_its_trainer_attribute_is_fitted_again() -> None:
    """NeuralForecast takes it out of the module's attributes before it pickles the module."""
    module = BoringModel()
    for _ in range(2):
        module.__dict__.pop("_trainer", None)
        assert (module.logger, module.current_epoch, module._trainer) == (None, 0, None)
        trainer = kit.trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
        trainer.fit(module)
        assert module.trainer is trainer


def test_a_metric_that_is_the_loss_too_keeps_no_graph() -> None:
    """As chemprop's do."""

    class Model(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = torchmetrics.MeanSquaredError()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.criterion(self.layer(batch), torch.zeros(1, 2))
            self.log("loss", self.criterion, on_step=True, on_epoch=True)
            return loss

    trainer = kit.trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1, log_every_n_steps=1)
    trainer.fit(Model())
    newest = trainer.callback_metrics
    assert [newest[name].requires_grad for name in ("loss", "loss_step", "loss_epoch")] == [False, False, False]


def test_a_bar_that_draws_by_itself_stays_what_it_is() -> None:
    """scvi-tools' has an ``init_train_tqdm`` that takes the trainer; TQDMProgressBar's takes nothing."""

    class Bar(ProgressBar):
        def init_train_tqdm(self, trainer: Any) -> list[int]:
            return [trainer.max_epochs]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            self.main_progress_bar = self.init_train_tqdm(trainer)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.main_progress_bar.append(trainer.current_epoch)

    bar = Bar()
    assert not isinstance(bar, TQDMProgressBar)
    kit.trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=1, callbacks=[bar], enable_progress_bar=True).fit(
        BoringModel()
    )
    assert bar.main_progress_bar == [2, 0, 1]


def test_a_method_of_lightnings_checkpoints_that_nobody_calls_is_named(tmp_path: Path) -> None:
    """scvi-tools' SaveCheckpoint has such a one."""

    class Saves(ModelCheckpoint):
        def _update_best_and_save(self, current: Any, trainer: Any, monitor_candidates: Any) -> None:
            raise AssertionError

    saves = Saves(tmp_path)
    quick: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "enable_checkpointing": True}
    with pytest.warns(LeydenWarning, match=r"Saves overrides _update_best_and_save, which nothing calls.*_save_checkpoint"):
        kit.trainer(callbacks=[saves], **quick).fit(BoringModel())


@pytest.mark.filterwarnings("ignore:Some values cannot be written:leyden.errors.LeydenWarning")
def test_a_loss_that_a_hook_saved_is_named_where_the_hook_misses_it(tmp_path: Path) -> None:
    """Darts saves its loss, a module, in on_save_checkpoint."""

    class Model(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.criterion: Any = torch.nn.MSELoss()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["own"] = {"losses": [self.criterion]}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.criterion = checkpoint["own"]["losses"][0]

    path, quick = tmp_path / "a.ckpt", {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}
    trainer = kit.trainer(**quick)
    trainer.fit(Model())
    trainer.save_checkpoint(path)
    named = r"Model\.on_load_checkpoint failed.*'own\.losses\.0' \(was a torch\..*\.MSELoss, which cannot .*\)\. Make it anew"
    with pytest.raises(CheckpointMismatch, match=named):
        Model.load_from_checkpoint(path)
    with pytest.raises(CheckpointMismatch, match=named):
        kit.trainer(**quick).fit(Model(), ckpt_path=path, weights_only=None)

    class Fails(BoringModel):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            raise TypeError("of its own")

    whole = kit.trainer(**quick)
    whole.fit(Fails())
    whole.save_checkpoint(path)
    with pytest.raises(TypeError, match="of its own"):
        Fails.load_from_checkpoint(path)


class TestTools:
    def test_hyperparameters(self) -> None:
        assert utilities._convert_params(None) == {}
        assert utilities._convert_params(Namespace(a=1)) == {"a": 1}
        nested = {"a": {"b": 1, 3: Namespace(q=2)}, "l": [{"z": 1}], "e": {}}
        assert utilities._flatten_dict(nested) == {"a/b": 1, "a/3/q": 2, "l/0/z": 1, "e": {}}
        assert utilities._flatten_dict({"a/b": {"c": 1}}, ".", "p") == {"p.a/b.c": 1}
        plain = utilities._sanitize_params({"a": 1, "n": np.float32(2), "none": None, "l": [1]})
        assert plain == {"a": 1, "n": 2.0, "none": "None", "l": "[1]"}
        assert type(plain["n"]) is float
        said = utilities._convert_json_serializable({"a": Path, "b": [1], "c": Namespace(q=1)})
        assert said == {"a": str(Path), "b": [1], "c": "Namespace(q=1)"}
        assert utilities._is_json_serializable(None)
        assert not utilities._is_json_serializable({1, 2})

    def test_functions_are_named_and_not_called(self) -> None:
        def never() -> Any:
            raise AssertionError

        assert utilities._sanitize_callable_params({"f": never, "c": torch.nn.ReLU}) == {"f": "never", "c": "ReLU"}

    def test_metrics(self) -> None:
        metrics = {"loss": 1.0}
        assert utilities._add_prefix(metrics, "run", "-") == {"run-loss": 1.0}
        assert utilities._add_prefix(metrics, "", "-") is metrics

    def test_they_are_at_both_addresses(self) -> None:
        assert of_fabric._add_prefix is utilities._add_prefix
        assert not hasattr(of_fabric, "_add_suffix")

    def test_checkpoints_that_a_logger_has_not_seen(self, tmp_path: Path) -> None:
        class Better(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("v", -float(self.current_epoch))

        kept = ModelCheckpoint(tmp_path, monitor="v", save_top_k=2, save_last=True)
        Trainer(
            max_epochs=3, limit_train_batches=1, limit_val_batches=1, callbacks=[kept], logger=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(Better())  # fmt: skip
        found = utilities._scan_checkpoints(kept, {})
        assert {(Path(path).name, float(score), tag) for _, path, score, tag in found} == {
            ("epoch=1-step=2.ckpt", -1.0, "best_k"), ("epoch=2-step=3.ckpt", -2.0, "best_k"), ("last.ckpt", -2.0, "latest"),
        }  # fmt: skip
        assert [at for at, *_ in found] == sorted(at for at, *_ in found)
        assert utilities._scan_checkpoints(kept, {path: at for at, path, *_ in found}) == []
        assert utilities._scan_checkpoints(Callback(), {}) == []

    def test_the_best_without_a_monitor(self, tmp_path: Path) -> None:
        kept = ModelCheckpoint(tmp_path)
        kit.trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, callbacks=[kept], enable_checkpointing=True).fit(
            BoringModel()
        )
        assert [(score, tag) for *_, score, tag in utilities._scan_checkpoints(kept, {})] == [(None, "best")]
