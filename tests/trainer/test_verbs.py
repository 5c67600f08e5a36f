"""The four verbs: where data comes from, which weights are used, what is returned, and what is said of mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.errors import (
    CheckpointDamaged,
    CheckpointMismatch,
    CheckpointMissing,
    ConflictingOptions,
    EmptyLoader,
    InvalidLoader,
    InvalidType,
    MisconfigurationException,
    MissingMethod,
    PossibleUserWarning,
    Unsupported,
)
from leyden.testing import BoringDataModule, BoringModel, RandomDataset, random_batches


def loader(value: float = 1.0, batches: int = 2) -> DataLoader[Tensor]:
    """Batches of one vector, all of ``value``."""
    return DataLoader(torch.full((batches, 32), float(value)))  # type: ignore[arg-type]  # a tensor is a dataset in all but name


class Net(leyden.LightningModule):
    """A module without loaders of its own, which notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(32, 1)
        self.seen: list[tuple[str, float, int]] = []

    def note(self, step: str, batch: Tensor, dataloader_idx: int = 0) -> Tensor:
        self.seen.append((step, float(batch.flatten()[0]), dataloader_idx))
        out: Tensor = self.layer(batch)
        return out.square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.note("train", batch)

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss = self.note("val", batch, dataloader_idx)
        self.log("val_loss", loss)
        self.log("val_value", batch.mean())

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.note("test", batch, dataloader_idx)
        self.log("test_value", batch.mean())

    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        self.note("predict", batch, dataloader_idx)
        return batch.mean(1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)


class WithLoaders(Net):
    def train_dataloader(self) -> Any:
        return loader(10)

    def val_dataloader(self) -> Any:
        return loader(20)

    def test_dataloader(self) -> Any:
        return loader(30)

    def predict_dataloader(self) -> Any:
        return loader(40)


class HasLoaders(leyden.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader(100)

    def val_dataloader(self) -> Any:
        return loader(200)

    def test_dataloader(self) -> Any:
        return loader(300)

    def predict_dataloader(self) -> Any:
        return loader(400)


trainer = partial(kit.trainer, num_sanity_val_steps=0)


VERBS = {"validate": "val", "test": "test", "predict": "predict"}


# -- where data comes from


def values(module: Net) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for step, value, _ in module.seen:
        found.setdefault(step, set()).add(value)
    return found


def test_fit_reads_what_it_is_given() -> None:
    module = Net()
    trainer().fit(module, loader(1), loader(2))
    assert values(module) == {"train": {1.0}, "val": {2.0}}


def test_fit_reads_the_module_s_own() -> None:
    module = WithLoaders()
    trainer().fit(module)
    assert values(module) == {"train": {10.0}, "val": {20.0}}


def test_what_is_passed_wins_stage_by_stage() -> None:
    module = WithLoaders()
    trainer().fit(module, loader(1))
    assert values(module) == {"train": {1.0}, "val": {20.0}}


@pytest.mark.parametrize("place", ["datamodule", "train_dataloaders", "position"])
def test_fit_reads_a_datamodule(place: str) -> None:
    module = WithLoaders()
    run = trainer()
    if place == "position":
        run.fit(module, HasLoaders())
    else:
        run.fit(module, **{place: HasLoaders()})
    assert values(module) == {"train": {100.0}, "val": {200.0}}
    assert isinstance(run.datamodule, HasLoaders)


@pytest.mark.parametrize(("verb", "stage"), VERBS.items())
def test_the_other_verbs_read_all_three(verb: str, stage: str) -> None:
    index = list(VERBS).index(verb) + 2
    for arguments, expected in (
        ({"dataloaders": loader(7)}, 7.0),
        ({}, 10.0 * index),
        ({"datamodule": HasLoaders()}, 100.0 * index),
        ({"dataloaders": HasLoaders()}, 100.0 * index),
    ):
        module = WithLoaders()
        getattr(trainer(), verb)(module, **arguments)
        assert values(module) == {stage: {expected}}


def test_the_datamodule_of_fit_serves_the_next_verb() -> None:
    module, run = Net(), trainer()
    run.fit(module, datamodule=HasLoaders())
    module.seen.clear()
    run.test(module)
    run.predict()
    assert values(module) == {"test": {300.0}, "predict": {400.0}}


def test_a_datamodule_fills_in_for_what_the_module_lacks_and_the_other_way_round() -> None:
    class TrainOnly(leyden.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader(100)

    module = WithLoaders()
    trainer().fit(module, datamodule=TrainOnly())
    assert values(module) == {"train": {100.0}, "val": {20.0}}


@pytest.mark.parametrize("verb", ["fit", *VERBS])
def test_loaders_and_a_datamodule_exclude_each_other(verb: str) -> None:
    name = "train_dataloaders" if verb == "fit" else "dataloaders"
    with pytest.raises(ConflictingOptions, match="were both passed"):
        getattr(trainer(), verb)(Net(), **{name: loader(), "datamodule": HasLoaders()})
    with pytest.raises(ConflictingOptions, match="Leave one of them out"):
        getattr(trainer(), verb)(Net(), **{name: HasLoaders(), "datamodule": HasLoaders()})


def test_validation_loaders_and_a_datamodule_exclude_each_other() -> None:
    with pytest.raises(ConflictingOptions, match="val_dataloaders= and datamodule="):
        trainer().fit(Net(), val_dataloaders=loader(), datamodule=HasLoaders())


# -- what is returned


def test_one_loader_gives_one_dict() -> None:
    run = trainer()
    assert run.validate(Net(), loader(2), verbose=False)[0]["val_value"] == 2.0
    assert run.test(Net(), loader(3), verbose=False) == [{"test_value": 3.0}]


def test_several_loaders_give_one_dict_each() -> None:
    run = trainer()
    given: Any
    for given in ([loader(3), loader(5)], {"a": loader(3), "b": loader(5)}):
        assert run.test(Net(), given, verbose=False) == [
            {"test_value/dataloader_idx_0": 3.0},
            {"test_value/dataloader_idx_1": 5.0},
        ]
    assert run.callback_metrics["test_value/dataloader_idx_1"] == 5.0


def test_each_batch_s_prediction_is_returned() -> None:
    run = trainer()
    assert torch.equal(torch.cat(run.predict(Net(), loader(2, 3)) or []), torch.full((3,), 2.0))
    several: Any = run.predict(Net(), [loader(2), loader(3)])
    assert [[float(each) for each in mine] for mine in several] == [[2.0, 2.0], [3.0, 3.0]]


def test_predictions_need_not_be_kept() -> None:
    written: list[float] = []

    class Writer(leyden.Callback):
        def on_predict_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            written.append(float(outputs))

    assert trainer(callbacks=[Writer()]).predict(Net(), loader(2), return_predictions=False) is None
    assert written == [2.0, 2.0]


def test_predict_without_a_step_of_its_own_calls_forward() -> None:
    class Plain(leyden.LightningModule):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    assert [float(each.mean()) for each in trainer().predict(Plain(), loader(2)) or []] == [3.0, 3.0]


@pytest.mark.parametrize(("verb", "stage"), VERBS.items())
def test_a_limit_of_zero_runs_nothing(verb: str, stage: str) -> None:
    module = Net()
    assert getattr(trainer(**{f"limit_{stage}_batches": 0}), verb)(module, loader()) == []
    assert module.seen == []


@pytest.mark.parametrize(("verb", "stage"), VERBS.items())
def test_limits(verb: str, stage: str) -> None:
    for limit, expected in ((1, 1), (0.5, 2), (1.0, 4), (100, 4)):
        module = Net()
        getattr(trainer(**{f"limit_{stage}_batches": limit}), verb)(module, loader(1, 4))
        assert len(module.seen) == expected


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_verbose_prints_a_table_and_can_be_silenced(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(enable_progress_bar=True)
    name = f"{VERBS[verb]}_value"
    getattr(run, verb)(Net(), loader())
    assert name in capsys.readouterr().out
    getattr(run, verb)(Net(), loader(), verbose=False)
    assert name not in capsys.readouterr().out


# -- which weights


def best_keeper(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, monitor="val_loss", save_top_k=1, save_last=True)


class Worsening(WithLoaders):
    """Its validation loss rises, so that the first epoch's weights are the best."""

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", float(self.current_epoch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[leyden.Trainer, Worsening]:
    run = trainer(max_epochs=3, callbacks=[best_keeper(tmp_path)], enable_checkpointing=True)
    module = Worsening()
    run.fit(module)
    return run, module


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_model_the_best_is_used_and_named(
    verb: str, fitted: tuple[leyden.Trainer, Worsening], capsys: pytest.CaptureFixture[str]
) -> None:
    run, module = fitted
    last = module.layer.weight.detach().clone()
    capsys.readouterr()
    getattr(run, verb)()
    best = run.checkpoint_callback.best_model_path
    assert f"Using the best checkpoint: {best}" in capsys.readouterr().out
    assert run.ckpt_path == best
    assert not torch.equal(module.layer.weight, last)
    assert torch.equal(module.layer.weight, Worsening.load_from_checkpoint(best).layer.weight)


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_model_and_a_best_the_weights_at_hand_are_used(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, module = trainer(), WithLoaders()
    run.fit(module)
    weight = module.layer.weight.detach().clone()
    getattr(run, verb)()
    assert "Using the weights at hand" in capsys.readouterr().out
    assert run.ckpt_path is None
    assert torch.equal(module.layer.weight, weight)


def test_the_best_of_one_module_is_not_put_into_another(fitted: tuple[leyden.Trainer, Worsening]) -> None:
    run, _ = fitted
    other = Worsening()
    weight = other.layer.weight.detach().clone()
    run.validate(other)
    run.test()
    assert torch.equal(other.layer.weight, weight)
    assert run.ckpt_path is None


@pytest.mark.parametrize("verb", VERBS)
def test_with_a_model_its_own_weights_are_used(verb: str, fitted: tuple[leyden.Trainer, Worsening]) -> None:
    run, module = fitted
    weight = module.layer.weight.detach().clone()
    getattr(run, verb)(module)
    assert torch.equal(module.layer.weight, weight)
    assert run.ckpt_path is None


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wanted", ["best", "last", "path", "Path"])
def test_with_a_checkpoint_its_weights_are_used(
    verb: str, wanted: str, fitted: tuple[leyden.Trainer, Worsening], tmp_path: Path
) -> None:
    run, module = fitted
    trained = module.layer.weight.detach().clone()
    path = run.checkpoint_callback.best_model_path if wanted == "best" else str(tmp_path / "last.ckpt")
    asked: Any = {"path": path, "Path": Path(path)}.get(wanted, wanted)
    fresh = Worsening()
    getattr(run, verb)(fresh, ckpt_path=asked)
    assert torch.equal(fresh.layer.weight, Worsening.load_from_checkpoint(path).layer.weight)
    assert torch.equal(fresh.layer.weight, trained) == (wanted != "best")
    assert run.ckpt_path == path


@pytest.mark.parametrize("verb", ["fit", *VERBS])
def test_a_path_that_is_not_there(verb: str, tmp_path: Path) -> None:
    (tmp_path / "modle.ckpt").touch()
    with pytest.raises(CheckpointMissing, match=r"no checkpoint at .*model.ckpt. Did you mean 'modle.ckpt'"):
        getattr(trainer(), verb)(WithLoaders(), ckpt_path=tmp_path / "model.ckpt")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wanted", ["best", "last"])
def test_best_and_last_where_there_is_none(verb: str, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match=f"ckpt_path='{wanted}' was asked for"):
        getattr(trainer(default_root_dir=tmp_path), verb)(WithLoaders(), ckpt_path=wanted)


@pytest.mark.parametrize("given", [[], [ModelCheckpoint]])
def test_without_a_monitor_the_newest_is_the_best(given: list[Any], tmp_path: Path) -> None:
    run = trainer(
        default_root_dir=tmp_path,
        max_epochs=2,
        enable_checkpointing=True,
        limit_val_batches=0,
        callbacks=[kind() for kind in given],
    )
    run.fit(WithLoaders())
    run.test(ckpt_path="best")
    assert run.ckpt_path == run.checkpoint_callback.best_model_path
    assert Path(run.ckpt_path or "").name == "epoch=1-step=4.ckpt"


def test_the_checkpoint_that_is_evaluated_is_named(
    fitted: tuple[leyden.Trainer, Worsening], capsys: pytest.CaptureFixture[str]
) -> None:
    run, module = fitted
    run.validate(module, ckpt_path="last")
    assert f"Using the last checkpoint: {run.ckpt_path}" in capsys.readouterr().out
    run.validate(module, ckpt_path="last", verbose=False)
    assert capsys.readouterr().out == ""


def test_ctrl_c_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Impatient(WithLoaders):
        def on_train_batch_end(self, *arguments: Any) -> None:
            raise KeyboardInterrupt

    assert trainer(default_root_dir=tmp_path).fit(Impatient()).status == "interrupted"
    assert "Ctrl-C: training ends at step 1. The weights are kept." in capsys.readouterr().out


def test_fit_with_last_and_nothing_there_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = trainer(default_root_dir=tmp_path).fit(WithLoaders(), ckpt_path="last")
    assert result.status == "finished"
    assert "training starts from the beginning" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", ["registry"])
def test_what_is_not_offered_says_what_is(wanted: str) -> None:
    with pytest.raises(Unsupported, match="Use 'last'"):
        trainer().fit(WithLoaders(), ckpt_path=wanted)


def test_a_damaged_file(tmp_path: Path) -> None:
    run, module = trainer(), WithLoaders()
    run.fit(module)
    run.save_checkpoint(tmp_path / "mine.ckpt")
    content = (tmp_path / "mine.ckpt").read_bytes()
    (tmp_path / "mine.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointDamaged):
        run.test(module, ckpt_path=tmp_path / "mine.ckpt")


def test_a_file_of_another_module(tmp_path: Path) -> None:
    run = trainer()
    run.fit(WithLoaders())
    run.save_checkpoint(tmp_path / "mine.ckpt")
    with pytest.raises(CheckpointMismatch, match="do not fit BoringModel"):
        run.test(BoringModel(), ckpt_path=tmp_path / "mine.ckpt")


# -- saving


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    run, module = trainer(), WithLoaders()
    run.fit(module)
    for name, weights_only in (("whole.ckpt", None), ("weights.ckpt", True)):
        run.save_checkpoint(tmp_path / name, weights_only=weights_only)
        assert torch.equal(WithLoaders.load_from_checkpoint(tmp_path / name).layer.weight, module.layer.weight)
        assert ("optimizer_states" in torch.load(tmp_path / name)) == (name == "whole.ckpt")
    with pytest.raises(CheckpointMismatch, match="holds weights only"):
        trainer().fit(WithLoaders(), ckpt_path=tmp_path / "weights.ckpt")
    fresh = WithLoaders()
    run.test(fresh, ckpt_path=tmp_path / "weights.ckpt")
    assert torch.equal(fresh.layer.weight, module.layer.weight)


def test_saving_before_there_is_a_module(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="The trainer has no module yet"):
        trainer().save_checkpoint(tmp_path / "mine.ckpt")


def test_a_folder_is_made_for_the_file(tmp_path: Path) -> None:
    run = trainer()
    run.fit(WithLoaders())
    run.save_checkpoint(tmp_path / "deep" / "down.ckpt")
    assert (tmp_path / "deep" / "down.ckpt").exists()


# -- mistakes


@pytest.mark.parametrize("verb", ["fit", *VERBS])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.nn.Linear(1, 1), "inherit from leyden.LightningModule"),
        (WithLoaders, "make an instance of it"),
        ("model", "a leyden.LightningModule"),
    ],
)
def test_what_is_no_module(verb: str, given: Any, said: str) -> None:
    with pytest.raises(InvalidType, match=said):
        getattr(trainer(), verb)(given)


def test_a_module_whose_init_forgot_super() -> None:
    class Forgetful(leyden.LightningModule):
        def __init__(self) -> None:
            pass

    with pytest.raises(InvalidType, match=r"super\(\).__init__\(\)"):
        trainer().fit(Forgetful())


@pytest.mark.parametrize("verb", VERBS)
def test_no_module_at_all(verb: str) -> None:
    with pytest.raises(MissingMethod, match=rf"trainer.{verb}\(\) was called without a model"):
        getattr(trainer(), verb)()


@pytest.mark.parametrize("verb", VERBS)
def test_no_data(verb: str) -> None:
    with pytest.raises(MissingMethod, match="pass dataloaders="):
        getattr(trainer(), verb)(Net())


def test_nothing_to_train_on() -> None:
    with pytest.raises(MissingMethod, match="pass train_dataloaders="):
        trainer().fit(Net())


@pytest.mark.parametrize(("verb", "step"), [("fit", "training_step"), ("validate", "validation_step"), ("test", "test_step")])
def test_no_step(verb: str, step: str) -> None:
    class Bare(leyden.LightningModule):
        def configure_optimizers(self) -> Any:
            return None

    with pytest.raises(MissingMethod, match=f"Bare has no `{step}`"):
        getattr(trainer(), verb)(Bare(), loader())


def test_no_optimizer() -> None:
    class Bare(leyden.LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(MissingMethod, match="Bare has no `configure_optimizers`"):
        trainer().fit(Bare(), loader())


class Nothing:
    """A loader without a length that has nothing."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


@pytest.mark.parametrize("verb", ["fit", *VERBS])
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (torch.ones(4, 32), InvalidLoader, "no loader"),
        (RandomDataset(32, 4), InvalidLoader, "Wrap it: DataLoader"),
        ([torch.ones(1, 32), torch.ones(1, 32)], InvalidLoader, "is read as several loaders"),
        (3, InvalidLoader, "no loader"),
        (DataLoader([]), EmptyLoader, "has no batch"),
        (Nothing(), EmptyLoader, "yielded no batch"),
    ],
    ids=["tensor", "dataset", "list of batches", "number", "empty loader", "empty iterator"],
)
def test_what_is_no_loader(verb: str, given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        getattr(trainer(limit_val_batches=0 if verb == "fit" else 1.0), verb)(Net(), given)


def test_a_validation_step_without_data_and_the_other_way_round() -> None:
    with pytest.warns(PossibleUserWarning, match="there is no validation loader"):
        trainer().fit(Net(), loader())

    class NoStep(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(32, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer(batch).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.warns(PossibleUserWarning, match="no `validation_step`"):
        trainer().fit(NoStep(), loader(), loader())


def test_a_verb_inside_a_verb() -> None:
    class Nested(WithLoaders):
        def on_train_start(self) -> None:
            self.trainer.validate(self)

    with pytest.raises(ConflictingOptions, match="Use another Trainer inside hooks"):
        trainer().fit(Nested())


def test_another_trainer_inside_a_hook() -> None:
    class Nested(WithLoaders):
        def on_train_end(self) -> None:
            self.inner = trainer().validate(Net(), loader(6), verbose=False)

    module = Nested()
    assert trainer().fit(module).status == "finished"
    assert module.inner[0]["val_value"] == 6.0


# -- smoke runs


@pytest.mark.parametrize(("given", "batches"), [(True, 1), (2, 2)])
def test_a_smoke_run_trains_validates_and_tests(given: Any, batches: int) -> None:
    module = WithLoaders()
    run = leyden.Trainer(accelerator="cpu", fast_dev_run=given, enable_progress_bar=False, enable_model_summary=False)
    result = run.fit(module)
    assert [step for step, _, _ in module.seen] == ["train"] * batches + ["val"] * batches + ["test"] * batches
    assert (result.status, result.steps) == ("finished", batches)


# -- the same module again


def test_many_verbs_in_a_row() -> None:
    run, module = trainer(), WithLoaders()
    for _ in range(2):
        run.fit(module)
        run.validate(module)
        run.test(module)
        run.predict(module)
    assert [step for step, _, _ in module.seen] == [
        "train",
        "train",
        "val",
        "val",
        "val",
        "val",
        "test",
        "test",
        "predict",
        "predict",
    ] * 2


def test_a_compiled_module_is_taken_as_what_it_was() -> None:
    module = WithLoaders()
    compiled = torch.compile(module, backend="eager")
    result = trainer().fit(compiled)  # type: ignore[arg-type]  # it stands for a module
    assert result.steps == 2
    assert values(module) == {"train": {10.0}, "val": {20.0}}


def test_the_boring_datamodule_serves_every_verb() -> None:
    run, module = trainer(limit_train_batches=2, limit_val_batches=2, limit_test_batches=2, limit_predict_batches=2), Net()
    data = BoringDataModule()
    run.fit(module, datamodule=data)
    for verb in VERBS:
        getattr(run, verb)(module, datamodule=data)
    assert len(module.seen) == 10


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_module_can_be_trained_inside_a_gradient_free_block(mode: Any) -> None:
    module = BoringModel()
    before = module.layer.weight.detach().clone()
    with mode():
        leyden.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, random_batches(2))
        assert not torch.is_grad_enabled()
    assert not torch.equal(before, module.layer.weight)


def test_a_validation_step_that_is_none_is_no_step() -> None:
    class Without(kit.Net):
        validation_step = None  # type: ignore[assignment]  # on purpose

    with pytest.warns(PossibleUserWarning, match="a validation loader, and Without has no `validation_step`: no validation runs"):
        run = kit.fit(Without(), random_batches(2, size=4), random_batches(2, size=4))
    assert run.global_step == 2
