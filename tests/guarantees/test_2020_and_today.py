"""Guarantee 5: code from 2020 and from today both run, with one notice a legacy name, and mean what they meant."""

from __future__ import annotations

import csv
import logging
import warnings
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

import leyden
import leyden as pl
from leyden import Trainer
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from leyden.errors import (
    DeviceUnavailable,
    InvalidReturn,
    LegacyNotice,
    MissingMethod,
    PossibleUserWarning,
    UnknownName,
    Unsupported,
)
from leyden.loggers import CSVLogger
from leyden.notices import waiting
from leyden.testing import BoringModel, random_batches

legacy = pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*there is no validation loader"),
    pytest.mark.filterwarnings("ignore:.*no `validation_step`"),
]
QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
NO_GPU = not (torch.cuda.is_available() or torch.backends.mps.is_available())


@pytest.fixture(autouse=True)
def nothing_was_noticed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.notices.noticed", set())
    waiting.clear()


def read_data(split: str) -> TensorDataset:
    """Three clouds of points in 16 dimensions."""
    generator = torch.Generator().manual_seed({"train": 1, "test": 2, "validation": 3}[split])
    centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    y = torch.randint(3, (48 if split == "train" else 24,), generator=generator)
    return TensorDataset(centres[y] + 0.3 * torch.randn(len(y), 16, generator=generator), y)


class Seed(pl.LightningModule):
    """The class of the 2020 tutorial, smaller, with its author's own slips mended."""

    def __init__(self, param1: int = 16, param2: int = 5) -> None:
        super().__init__()
        self.batch_size = 8
        self.ln1 = nn.Linear(16, 8)
        self.ln2 = nn.Linear(8, 3)
        self.ran: list[str] = []

    def prepare_data(self) -> None:
        self.train_set = read_data("train")
        self.test_set = read_data("test")
        self.val_set = read_data("validation")
        logging.info("===== Data is ready... =====")
        self.ran.append("prepare_data")

    def configure_optimizer(self) -> Any:
        self.ran.append("configure_optimizer")
        return Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> Any:
        self.ran.append("train_dataloader")
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val_set, batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(self.test_set, batch_size=self.batch_size)

    def forward(self, x: Tensor) -> Tensor:
        output = self.ln1(x)
        output = self.ln2(output)
        return output

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.ran.append("train")
        x, y = batch
        loss = nn.CrossEntropyLoss()(self.forward(x), y)
        logs = {"loss": loss}
        return {"loss": loss, "log": logs}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.ran.append("validation")
        x, y = batch
        logits = self.forward(x)
        val_acc = torch.tensor(float((logits.argmax(1).cpu() == y.cpu()).float().mean()))
        return {"val_loss": F.cross_entropy(logits, y), "val_acc": val_acc}

    def validation_epoch_end(self, outputs: Any) -> Any:
        avg_loss = torch.stack([x["val_loss"] for x in outputs]).mean()
        avg_val_acc = torch.stack([x["val_acc"] for x in outputs]).mean()
        tensorboard_logs = {"val_loss": avg_loss, "avg_val_acc": avg_val_acc}
        return {"avg_val_loss": avg_loss, "progress_bar": tensorboard_logs}

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.ran.append("test")
        x, y = batch
        return {"test_acc": (self.forward(x).argmax(1) == y).float().mean()}


class Today(pl.LightningModule):
    """The same, as it is written today."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(16, width), nn.Linear(width, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.log_dict({"val_loss": F.cross_entropy(self.net(x), y), "val_acc": (self.net(x).argmax(1) == y).float().mean()})

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.log("test_acc", (self.net(x).argmax(1) == y).float().mean())

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0]).argmax(1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "epoch"},
        }


class Data(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.sets = {split: read_data(split) for split in ("train", "validation", "test")}

    def train_dataloader(self) -> Any:
        return DataLoader(self.sets["train"], batch_size=8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["validation"], batch_size=8)

    def test_dataloader(self) -> Any:
        return DataLoader(self.sets["test"], batch_size=8)

    def predict_dataloader(self) -> Any:
        return self.test_dataloader()


# The rows of what the tutorial promises its reader


@legacy
class TestRows:
    def test_01_02_only_research_code_is_written_and_ejecting_is_easy(self) -> None:
        module = Seed()
        Trainer(**QUIET, max_epochs=2).fit(module)
        plain = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3))
        plain.load_state_dict({key.replace("ln1", "0").replace("ln2", "1"): value for key, value in module.state_dict().items()})
        x = torch.zeros(2, 16)
        assert torch.equal(plain(x), module(x))

    def test_03_validation_needs_only_its_step(self) -> None:
        class Bare(Seed):
            validation_epoch_end = None

        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.fit(Bare())
        assert {"val_loss", "val_acc"} <= set(trainer.callback_metrics)

    def test_04_05_the_loss_is_shown_without_user_code(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Bare(Seed):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return super().training_step(batch, batch_idx)["loss"]

        trainer = Trainer(max_epochs=2, enable_model_summary=False)
        trainer.fit(Bare())
        assert "loss" in trainer.progress_bar_metrics
        shown = capsys.readouterr()
        assert "loss" in shown.out + shown.err

    def test_06_the_best_checkpoint_on_validation_is_kept(self) -> None:
        trainer = Trainer(**QUIET, max_epochs=3)
        result = trainer.fit(Seed())
        assert trainer.checkpoint_callback.monitor == "val_loss"
        assert Path(trainer.checkpoint_callback.best_model_path).is_file()
        assert result.best_score == pytest.approx(min(result.column("val_loss")))
        assert result.last_checkpoint is not None

    def test_06_without_validation_the_last_is_kept(self) -> None:
        class Bare(Seed):
            validation_step = pl.LightningModule.validation_step

        trainer = Trainer(**QUIET, max_epochs=2)
        assert Path(trainer.fit(Bare()).last_checkpoint or "").is_file()

    def test_07_08_gpus_0_is_the_cpu(self) -> None:
        assert Trainer(gpus=0).strategy.root_device.type == "cpu"

    @pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
    @pytest.mark.parametrize("options", [{"gpus": 1}, {"gpus": 1, "precision": 16}])
    def test_09_gpus_1_without_one(self, options: dict[str, Any]) -> None:
        with pytest.raises(DeviceUnavailable, match="gpus=1"):
            Trainer(**options)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_07_10_36_one_argument_moves_it_to_the_gpu(self) -> None:
        trainer = Trainer(**QUIET, gpus=1, precision=16, max_epochs=2)
        trainer.fit(Seed())
        assert trainer.strategy.root_device.type == "cuda"
        assert len(trainer.test()) == 1

    def test_11_fit_runs_everything_from_methods(self) -> None:
        module = Seed()
        Trainer(**QUIET, max_epochs=1, num_sanity_val_steps=0).fit(module)
        assert module.ran == ["prepare_data", "configure_optimizer", "train_dataloader", *["train"] * 6, *["validation"] * 3]

    def test_12_test_without_arguments_after_fit(self, capsys: pytest.CaptureFixture[str]) -> None:
        trainer = Trainer(**QUIET, max_epochs=2)
        trainer.fit(Seed())
        results = trainer.test()
        assert results[0].keys() == {"test_acc"}
        assert f"Using the best checkpoint: {trainer.checkpoint_callback.best_model_path}" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [{"checkpoint_callback": False}, {"fast_dev_run": True}, {"enable_checkpointing": False}])
    def test_12_test_without_arguments_and_without_checkpoints(
        self, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        trainer = Trainer(**QUIET, max_epochs=1, **options)
        trainer.fit(Seed())
        assert trainer.test()[0].keys() == {"test_acc"}
        assert "Using the weights at hand: there is no best checkpoint" in capsys.readouterr().out

    def test_13_test_with_the_model(self) -> None:
        assert Trainer(**QUIET).test(Seed())[0].keys() == {"test_acc"}

    def test_15_16_two_names_are_enough_and_a_module_is_a_module(self) -> None:
        assert issubclass(pl.LightningModule, nn.Module)
        assert {"Trainer", "LightningModule", "Callback", "data_loader"} <= set(pl.__all__)

    def test_17_prepare_data_may_assign(self) -> None:
        module = Seed()
        Trainer(**QUIET, max_epochs=1).fit(module)
        assert (len(module.train_set), module.ran[0]) == (48, "prepare_data")

    def test_18_configure_optimizer_is_the_optimizer_s(self) -> None:
        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.fit(Seed())
        assert trainer.optimizers[0].param_groups[0]["lr"] == 1e-2

    def test_18_there_is_no_silent_default_optimizer(self) -> None:
        class Bare(Seed):
            configure_optimizer = None

        with pytest.raises(MissingMethod, match="configure_optimizers"):
            Trainer(**QUIET, max_epochs=1).fit(Bare())

    @pytest.mark.parametrize("form", ["one", "list", "tuple", "lists", "scheduler dict", "plateau"])
    def test_19_what_configure_optimizers_returned_in_2020(self, form: str) -> None:
        class Returning(Seed):
            def configure_optimizers(self) -> Any:
                optimizer = Adam(self.parameters(), lr=1e-3)
                step = torch.optim.lr_scheduler.StepLR(optimizer, 1)
                plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
                return {
                    "one": optimizer,
                    "list": [optimizer],
                    "tuple": (optimizer,),
                    "lists": ([optimizer], [step]),
                    "scheduler dict": ([optimizer], [{"scheduler": step, "interval": "step", "frequency": 2}]),
                    "plateau": ([optimizer], [{"scheduler": plateau, "reduce_on_plateau": True, "monitor": "val_loss"}]),
                }[form]

        trainer = Trainer(**QUIET, max_epochs=2)
        trainer.fit(Returning())
        assert len(trainer.lr_scheduler_configs) == (form not in ("one", "list", "tuple"))

    def test_20_a_part_of_the_parameters(self) -> None:
        class Part(Seed):
            def configure_optimizers(self) -> Any:
                return Adam([{"params": self.ln2.parameters(), "lr": 0.1}], lr=1e-3)

        module = Part()
        before = module.ln1.weight.detach().clone(), module.ln2.weight.detach().clone()
        Trainer(**QUIET, max_epochs=1).fit(module)
        assert torch.equal(before[0], module.ln1.weight)
        assert not torch.equal(before[1], module.ln2.weight)

    def test_22_calling_is_forward(self) -> None:
        module, x = Seed(), torch.ones(1, 16)
        assert torch.equal(module(x), module.forward(x))

    def test_23_val_step(self) -> None:
        class Spelt(Seed):
            validation_step = pl.LightningModule.validation_step

            def val_step(self, batch: Any, batch_idx: int) -> Any:
                return Seed.validation_step(self, batch, batch_idx)

        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.fit(Spelt())
        assert "avg_val_acc" in trainer.callback_metrics

    def test_24_a_dict_without_loss(self) -> None:
        class Bare(Seed):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return {"log": {"x": 1.0}}

        with pytest.raises(InvalidReturn, match=r"without the key 'loss'"):
            Trainer(**QUIET, max_epochs=1).fit(Bare())

    @pytest.mark.parametrize("key", ["log", "logs"])
    def test_25_28_log_is_in_the_bar_and_the_logger(self, key: str) -> None:
        class Spelt(Seed):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                returned = super().training_step(batch, batch_idx)
                return {"loss": returned["loss"], key: {"shown": returned["loss"]}}

        trainer = Trainer(**QUIET, max_epochs=1, log_every_n_steps=1, logger=CSVLogger("."))
        trainer.fit(Spelt())
        assert "shown" in trainer.progress_bar_metrics
        rows = csv.DictReader((Path(trainer.log_dir or "") / "metrics.csv").read_text().splitlines())
        assert len([row for row in rows if row.get("shown")]) == 6

    def test_26_29_31_the_validation_epoch_s_values(self) -> None:
        trainer = Trainer(**QUIET, max_epochs=2, callbacks=EarlyStopping("avg_val_loss"))
        trainer.fit(Seed())
        assert {"loss", "val_loss", "avg_val_loss", "avg_val_acc"} <= set(trainer.callback_metrics)
        assert {"val_loss", "avg_val_acc"} <= set(trainer.progress_bar_metrics)
        assert all(isinstance(value, Tensor) and value.dim() == 0 for value in trainer.callback_metrics.values())

    def test_30_test_step_without_test_epoch_end(self) -> None:
        module = Seed()
        module.prepare_data()
        x, y = module.test_set.tensors
        exact = (module(x).argmax(1) == y).float().mean()
        module.batch_size = 7  # the last batch is smaller
        assert Trainer(**QUIET).test(module)[0]["test_acc"] == pytest.approx(float(exact))

    def test_32_fast_dev_run_trains_validates_and_tests_one_batch(self) -> None:
        module, trainer = Seed(), Trainer(fast_dev_run=True, **QUIET)
        trainer.fit(module)
        assert [name for name in module.ran if name in ("train", "validation", "test")] == ["train", "validation", "test"]
        assert {"loss", "val_loss", "test_acc"} <= set(trainer.callback_metrics)
        assert trainer.num_training_batches == 1
        assert not any(Path().iterdir())

    def test_33_accumulate_grad_batches(self) -> None:
        for given, steps in ((2, 3 + 3), ({0: 1, 1: 3}, 6 + 2)):
            trainer = Trainer(**QUIET, max_epochs=2, accumulate_grad_batches=given)
            trainer.fit(Seed())
            assert trainer.global_step == steps

    def test_34_resume_from_checkpoint_and_test(self) -> None:
        trainer = Trainer(**QUIET, max_epochs=3)
        trainer.fit(Seed(param1=768, param2=5))
        path = trainer.checkpoint_callback.best_model_path
        expected = trainer.test()
        old = Trainer(resume_from_checkpoint=path, gpus=0, **QUIET)
        assert old.test(Seed(param1=768, param2=5)) == expected
        assert Trainer(**QUIET).test(Seed(), ckpt_path=path) == expected

    def test_34_resume_from_checkpoint_and_fit(self) -> None:
        first = Trainer(**QUIET, max_epochs=1)
        first.fit(Seed())
        trainer = Trainer(resume_from_checkpoint=first.checkpoint_callback.last_model_path, max_epochs=3, **QUIET)
        trainer.fit(Seed())
        assert (trainer.current_epoch, trainer.global_step) == (3, 18)

    @pytest.mark.parametrize("passed", [False, True])
    def test_34_after_a_resumed_fit_its_own_weights_are_tested(self, passed: bool) -> None:
        class Rising(Seed):
            """Each epoch is better than the one before, so that the last is the best."""

            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                return {"val_loss": torch.tensor(-float(self.current_epoch)), "val_acc": torch.tensor(0.0)}

        first = Trainer(**QUIET, max_epochs=1)
        first.fit(Rising())
        path = first.checkpoint_callback.last_model_path
        trainer, module = Trainer(resume_from_checkpoint=path, max_epochs=3, **QUIET), Rising()
        trainer.fit(module)
        trained = kit.weights(module)
        found = trainer.test(module) if passed else trainer.test()
        assert kit.same(trained, kit.weights(module))
        assert found == Trainer(**QUIET).test(module)
        assert not kit.same(trained, torch.load(path, weights_only=True)["state_dict"])

    def test_35_constructor_arguments_are_remembered(self) -> None:
        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.fit(Seed(param1=3, param2=7))
        path = trainer.checkpoint_callback.best_model_path

        assert Seed.load_from_checkpoint(path)._init_arguments() == {"param1": 3, "param2": 7}

    def test_36_numbers_made_on_the_cpu_and_logging_just_work(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            Trainer(**QUIET, max_epochs=1).fit(Seed())
        assert "===== Data is ready... =====" in caplog.text

    def test_37_early_stopping_by_a_flag(self) -> None:
        class Stuck(Seed):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                return {"val_loss": torch.tensor(1.0), "val_acc": torch.tensor(0.0)}

        for options in ({"early_stop_callback": True}, {"callbacks": [EarlyStopping(monitor="val_loss")]}):
            trainer = Trainer(**QUIET, max_epochs=20, **options)
            assert trainer.fit(Stuck()).epochs == 4  # the first, and three without an improvement


# The slips of the tutorial, one after another


@legacy
class TestSlips:
    def test_a_constructor_that_takes_nothing(self) -> None:
        class Slip(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()

        with pytest.raises(TypeError, match="param1"):
            Slip(param1=768, param2=5)  # type: ignore[call-arg]

    def test_batch_size_that_was_never_assigned(self) -> None:
        class Slip(Seed):
            def __init__(self) -> None:
                super().__init__()
                del self.batch_size

        with pytest.raises(AttributeError, match="batch_size"):
            Trainer(**QUIET, max_epochs=1).fit(Slip())

    def test_a_layer_that_is_fed_with_the_wrong_tensor(self) -> None:
        class Slip(Seed):
            def forward(self, x: Tensor) -> Tensor:
                self.ln1(x)
                out: Tensor = self.ln2(x)
                return out

        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            Trainer(**QUIET, max_epochs=1).fit(Slip())

    def test_misspelt_names_of_the_package(self) -> None:
        with pytest.raises(AttributeError, match=r"has no 'LightingModule'\. Did you mean 'LightningModule'\?"):
            pl.LightingModule  # type: ignore[attr-defined]  # noqa: B018

    def test_one_name_assigned_and_another_read(self) -> None:
        class Slip(Seed):
            def train_dataloader(self) -> Any:
                return DataLoader(self.train_dataset, batch_size=8)

        with pytest.raises(AttributeError, match="train_dataset"):
            Trainer(**QUIET, max_epochs=1).fit(Slip())

    def test_logs_of_an_epoch_end_under_either_name(self) -> None:
        class Spelt(Seed):
            def validation_epoch_end(self, outputs: Any) -> Any:
                return {"logs": super().validation_epoch_end(outputs)["progress_bar"]}

        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.fit(Spelt())
        assert "avg_val_acc" in trainer.logged_metrics


def test_one_notice_lists_the_legacy_names_of_a_script() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            trainer = Trainer(gpus=0, early_stop_callback=False, max_epochs=1, **QUIET)
            trainer.fit(Seed())
            trainer.test()
    texts = [str(each.message) for each in told if issubclass(each.category, LegacyNotice)]
    assert len(texts) == 1
    assert sorted(line.split("  ")[1] for line in texts[0].splitlines()[1:]) == [
        "Trainer(early_stop_callback=...)",
        "Trainer(gpus=...)",
        "configure_optimizer",
        "validation_epoch_end",
    ]
    assert {Path(each.filename).name for each in told if issubclass(each.category, LegacyNotice)} == {Path(__file__).name}


# Today's code


def test_today_s_code_needs_no_notice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module, data = Today(), Data()
        callbacks = [ModelCheckpoint(monitor="val_loss"), EarlyStopping("val_loss"), LearningRateMonitor()]
        trainer = Trainer(
            max_epochs=2, callbacks=callbacks, accelerator="cpu", devices=1, gradient_clip_val=1.0, log_every_n_steps=6, **QUIET
        )
        trainer.fit(module, datamodule=data)
        assert trainer.validate(module, datamodule=data, verbose=False)[0].keys() == {"val_loss", "val_acc"}
        assert trainer.test(ckpt_path="best", datamodule=data, verbose=False)[0].keys() == {"test_acc"}
        predictions = trainer.predict(module, datamodule=data)
        assert predictions is not None
        assert torch.cat(predictions).shape == (24,)
        again = Today.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
        assert again.hparams.width == 8


@legacy
def test_2020_and_today_give_the_same_weights() -> None:
    def weights(module: pl.LightningModule, **options: Any) -> list[Tensor]:
        torch.manual_seed(1)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        Trainer(max_epochs=2, logger=False, enable_checkpointing=False, **QUIET).fit(module, **options)
        return [parameter.detach() for parameter in module.parameters()]

    class Modern(Today):
        def configure_optimizers(self) -> Any:
            return Adam(self.parameters(), lr=1e-2)

    assert all(torch.equal(*pair) for pair in zip(weights(Seed()), weights(Modern(), datamodule=Data()), strict=True))


# A corpus of snippets of every year

CORPUS: dict[str, str] = {
    "0.7: the README": """
        class CoolSystem(pl.LightningModule):
            def __init__(self):
                super(CoolSystem, self).__init__()
                self.l1 = torch.nn.Linear(28 * 28, 10)
            def forward(self, x):
                return torch.relu(self.l1(x.view(x.size(0), -1)))
            def training_step(self, batch, batch_idx):
                x, y = batch
                loss = F.cross_entropy(self(x), y)
                tensorboard_logs = {'train_loss': loss}
                return {'loss': loss, 'log': tensorboard_logs}
            def validation_step(self, batch, batch_idx):
                x, y = batch
                return {'val_loss': F.cross_entropy(self(x), y)}
            def validation_epoch_end(self, outputs):
                avg_loss = torch.stack([x['val_loss'] for x in outputs]).mean()
                return {'avg_val_loss': avg_loss, 'log': {'val_loss': avg_loss}}
            def test_step(self, batch, batch_nb):
                x, y = batch
                return {'test_loss': F.cross_entropy(self(x), y)}
            def test_epoch_end(self, outputs):
                avg_loss = torch.stack([x['test_loss'] for x in outputs]).mean()
                return {'test_loss': avg_loss, 'log': {'test_loss': avg_loss}}
            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=0.02)
            @pl.data_loader
            def train_dataloader(self):
                return images
            @pl.data_loader
            def val_dataloader(self):
                return images
            @pl.data_loader
            def test_dataloader(self):
                return images
        trainer = Trainer(max_nb_epochs=1, train_percent_check=0.5, gpus=None, **quiet)
        trainer.fit(CoolSystem())
        assert trainer.test()[0].keys() == {'test_loss'}
        assert 'avg_val_loss' in trainer.callback_metrics or 'test_loss' in trainer.callback_metrics
    """,
    "0.7: hparams, argparse and a warm-up": """
        from argparse import ArgumentParser, Namespace
        class Net(BoringModel):
            def __init__(self, hparams):
                super().__init__()
                self.hparams = hparams
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)
            def optimizer_step(self, current_epoch, batch_nb, optimizer, optimizer_i, second_order_closure=None):
                if self.trainer.global_step < 500:
                    lr_scale = min(1., float(self.trainer.global_step + 1) / 500.)
                    for pg in optimizer.param_groups:
                        pg['lr'] = lr_scale * self.hparams.learning_rate
                optimizer.step()
                optimizer.zero_grad()
        parser = ArgumentParser(add_help=False)
        parser.add_argument('--learning_rate', default=0.1, type=float)
        parser = Trainer.add_argparse_args(parser)
        hparams = parser.parse_args(['--max_epochs', '1', '--train_percent_check', '0.1'])
        trainer = Trainer.from_argparse_args(hparams, **quiet)
        trainer.fit(Net(hparams))
        assert trainer.global_step == 6
        assert abs(trainer.optimizers[0].param_groups[0]['lr'] - 0.1 * 6 / 500) < 1e-9
    """,
    "0.7: callbacks": """
        class MyPrintingCallback(Callback):
            def on_init_start(self, trainer):
                seen.append('Starting to init trainer!')
            def on_init_end(self, trainer):
                seen.append('trainer is init now')
            def on_train_end(self, trainer, pl_module):
                seen.append('do something when training ends')
        seen = []
        trainer = Trainer(callbacks=[MyPrintingCallback()], max_epochs=1, early_stop_callback=False, **quiet)
        trainer.fit(BoringModel())
        assert seen == ['Starting to init trainer!', 'trainer is init now', 'do something when training ends']
    """,
    "0.7: loaders passed to fit": """
        class Bare(BoringModel):
            def train_dataloader(self): raise AssertionError
            def val_dataloader(self): raise AssertionError
        trainer = Trainer(max_epochs=1, weights_summary=None, show_progress_bar=False)
        trainer.fit(Bare(), train_dataloader=random_batches(3), val_dataloaders=[random_batches(1), random_batches(1)])
        assert trainer.global_step == 3
    """,
    "0.8/0.9: TrainResult-free steps and self.hparams": """
        class Net(BoringModel):
            def __init__(self, width=3, **kwargs):
                super().__init__()
                self.save_hyperparameters()
            def training_epoch_end(self, outputs):
                return {'log': {'train_mean': torch.stack([x['loss'] for x in outputs]).mean()}}
            def setup(self, step):
                self.stage = step
        net = Net(width=4, other=5)
        trainer = Trainer(max_epochs=1, row_log_interval=1, **quiet)
        trainer.fit(net)
        assert net.hparams.width == 4 and net.hparams.other == 5 and net.stage == 'fit'
        assert 'train_mean' in trainer.logged_metrics
    """,
    "1.x: epoch ends that log, tensors as outputs": """
        class Net(BoringModel):
            def training_step(self, batch, batch_idx):
                loss = self.step(batch)
                self.log('train_loss', loss, prog_bar=True)
                return loss
            def training_epoch_end(self, outputs):
                self.log('mean', torch.stack([o['loss'] for o in outputs]).mean())
            def validation_step(self, batch, batch_idx):
                return self.step(batch)
            def validation_epoch_end(self, outputs):
                self.log('val_loss', torch.stack(outputs).mean())
            def on_train_batch_end(self, outputs, batch, batch_idx, dataloader_idx):
                assert dataloader_idx == 0
        trainer = Trainer(gpus=0, max_epochs=1, progress_bar_refresh_rate=0, weights_summary='top', checkpoint_callback=False)
        trainer.fit(Net())
        assert {'train_loss', 'mean', 'val_loss'} <= set(trainer.callback_metrics)
    """,
    "1.x: a datamodule and manual optimization": """
        class Net(BoringModel):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False
            def training_step(self, batch, batch_idx):
                opt = self.optimizers()
                opt.zero_grad()
                self.manual_backward(self.step(batch))
                opt.step()
        class Data(pl.LightningDataModule):
            def __init__(self):
                super().__init__()
            def prepare_data(self): pass
            def setup(self, stage=None): pass
            def train_dataloader(self): return random_batches(4)
            def teardown(self, stage=None): pass
        trainer = Trainer(num_processes=1, max_epochs=1, terminate_on_nan=False, replace_sampler_ddp=False, **quiet)
        trainer.fit(Net(), datamodule=Data())
        assert trainer.global_step == 4
    """,
    "1.x: a warm-up by optimizer_step with a closure": """
        class Net(BoringModel):
            def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure,
                               on_tpu=False, using_native_amp=False, using_lbfgs=False):
                optimizer.step(closure=optimizer_closure)
            def get_progress_bar_dict(self):
                items = super().get_progress_bar_dict()
                items.pop('v_num', None)
                return items
        trainer = Trainer(max_epochs=1, limit_train_batches=3, **quiet)
        trainer.fit(Net())
        assert trainer.global_step == 3
    """,
    "2.x: on_*_epoch_end and stored outputs": """
        class Net(BoringModel):
            def __init__(self):
                super().__init__()
                self.validation_step_outputs = []
            def validation_step(self, batch, batch_idx):
                loss = self.step(batch)
                self.validation_step_outputs.append(loss)
                return loss
            def on_validation_epoch_end(self):
                self.log('val_loss', torch.stack(self.validation_step_outputs).mean(), prog_bar=True)
                self.validation_step_outputs.clear()
        trainer = Trainer(accelerator='auto', devices='auto', strategy='auto', max_epochs=1, precision='32-true', **quiet)
        trainer.fit(Net())
        assert 'val_loss' in trainer.callback_metrics
    """,
    "2.x: two optimizers by hand": """
        class Gan(BoringModel):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False
                self.critic = nn.Linear(2, 1)
            def training_step(self, batch, batch_idx):
                g, d = self.optimizers()
                self.toggle_optimizer(g)
                g.zero_grad()
                self.manual_backward(self.critic(self(batch)).mean())
                g.step()
                self.untoggle_optimizer(g)
                self.toggle_optimizer(d)
                d.zero_grad()
                self.manual_backward(-self.critic(self(batch).detach()).mean())
                d.step()
                self.untoggle_optimizer(d)
            def configure_optimizers(self):
                return torch.optim.SGD(self.layer.parameters(), lr=0.1), torch.optim.SGD(self.critic.parameters(), lr=0.1)
        trainer = Trainer(max_epochs=1, limit_train_batches=3, **quiet)
        trainer.fit(Gan())
        assert trainer.global_step == 3
    """,
}  # fmt: skip


@legacy
@pytest.mark.parametrize("snippet", CORPUS)
def test_a_snippet_runs(snippet: str) -> None:
    from textwrap import dedent

    images = DataLoader(TensorDataset(torch.rand(16, 1, 28, 28), torch.randint(10, (16,))), batch_size=4)
    space = {
        "pl": leyden, "torch": torch, "nn": nn, "F": F, "Trainer": Trainer, "Callback": leyden.Callback, "images": images,
        "BoringModel": BoringModel, "random_batches": random_batches, "quiet": QUIET, "__name__": "snippet",
    }  # fmt: skip
    exec(dedent(CORPUS[snippet]), space)  # a program, as its author wrote it


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("def training_step(self, batch, batch_idx, hiddens): pass", InvalidReturn, "truncated_bptt_steps"),
        ("def training_step(self, dataloader_iter): next(dataloader_iter), next(dataloader_iter)", Unsupported, "is given one"),
        ("def validation_step(self, batch, dataloader_iter): pass", InvalidReturn, r"validation_step\(self, dataloader_iter\)"),
        ("def validaton_step(self, batch, batch_idx): pass", UnknownName, "Did you mean 'validation_step'"),
        ("def on_train_epoch_ends(self): pass", UnknownName, "Did you mean 'on_train_epoch_end'"),
    ],
)
def test_what_does_not_run_says_the_way_out(source: str, error: type[Exception], said: str) -> None:
    space: dict[str, Any] = {}
    exec(source, space)  # the signature is what is tested
    (name,) = [name for name in space if name != "__builtins__"]
    with pytest.raises(error, match=said):
        Trainer(**QUIET, fast_dev_run=True).fit(type("Net", (BoringModel,), {name: space[name]})())


def test_a_validation_that_cannot_run_is_said() -> None:
    class Bare(BoringModel):
        validation_step = leyden.LightningModule.validation_step

    with pytest.warns(PossibleUserWarning, match="no `validation_step`: no validation runs"):
        Trainer(**QUIET, fast_dev_run=True).fit(Bare())
