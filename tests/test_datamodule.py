"""LightningDataModule: when its hooks are called, what it may bring, and what of it stands in a checkpoint."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

import leyden
from leyden import notices
from leyden.data.combined import CombinedLoader
from leyden.errors import ConflictingOptions, EmptyLoader, InvalidType, LegacyNotice, MissingMethod
from leyden.loggers import CSVLogger
from leyden.testing import BoringDataModule, BoringModel, RandomDataset, RandomIterableDataset


class Data(leyden.LightningDataModule):
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def prepare_data(self) -> None:
        self.asked.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.asked.append(f"setup {stage}")

    def teardown(self, stage: str) -> None:
        self.asked.append(f"teardown {stage}")

    def loader(self, name: str) -> Any:
        self.asked.append(name)
        return DataLoader(RandomDataset(32, 2))

    def train_dataloader(self) -> Any:
        return self.loader("train_dataloader")

    def val_dataloader(self) -> Any:
        return self.loader("val_dataloader")

    def test_dataloader(self) -> Any:
        return self.loader("test_dataloader")

    def predict_dataloader(self) -> Any:
        return self.loader("predict_dataloader")


trainer = partial(kit.trainer, max_epochs=2, limit_train_batches=2, limit_val_batches=1)


# -- hooks


def test_the_order_of_its_hooks_in_fit() -> None:
    data = Data()
    trainer().fit(BoringModel(), datamodule=data)
    assert data.asked == ["prepare_data", "setup fit", "val_dataloader", "train_dataloader", "teardown fit"]
    data = Data()
    trainer(num_sanity_val_steps=0).fit(BoringModel(), datamodule=data)
    assert data.asked == ["prepare_data", "setup fit", "train_dataloader", "val_dataloader", "teardown fit"]


@pytest.mark.parametrize(("verb", "stage"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_the_order_of_its_hooks_in_the_other_verbs(verb: str, stage: str) -> None:
    data = Data()
    getattr(trainer(), verb)(BoringModel(), datamodule=data)
    assert data.asked == ["prepare_data", f"setup {verb}", f"{stage}_dataloader", f"teardown {verb}"]


def test_it_comes_before_callbacks_and_module() -> None:
    order: list[str] = []

    class First(Data):
        def prepare_data(self) -> None:
            order.append("data prepare")

        def setup(self, stage: str) -> None:
            order.append("data setup")

        def teardown(self, stage: str) -> None:
            order.append("data teardown")

    class Second(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            order.append("callback setup")

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            order.append("callback teardown")

    class Third(BoringModel):
        def prepare_data(self) -> None:
            order.append("module prepare")

        def setup(self, stage: str) -> None:
            order.append("module setup")

        def teardown(self, stage: str) -> None:
            order.append("module teardown")

    trainer(callbacks=[Second()]).fit(Third(), datamodule=First())
    assert order == [
        *("data prepare", "module prepare", "data setup", "callback setup", "module setup"),
        *("data teardown", "callback teardown", "module teardown"),
    ]


@pytest.mark.parametrize("signature", ["stage", "default", "renamed", "none"])
def test_setup_may_take_the_stage_as_it_likes(signature: str) -> None:
    seen: list[Any] = []

    class Stage(Data):
        def setup(self, stage: str) -> None:
            seen.append(stage)

    class Default(Data):
        def setup(self, stage: str | None = None) -> None:  # type: ignore[override]  # as users write it
            seen.append(stage)

    class Renamed(Data):
        def setup(self, step: str) -> None:  # type: ignore[override]  # as users write it
            seen.append(step)

    class Without(Data):
        def setup(self) -> None:  # type: ignore[override]  # as users write it
            seen.append("fit")

    data = {"stage": Stage, "default": Default, "renamed": Renamed, "none": Without}[signature]()
    trainer().fit(BoringModel(), datamodule=data)
    assert seen == ["fit"]


def test_it_knows_its_trainer() -> None:
    class Asking(Data):
        def setup(self, stage: str) -> None:
            assert self.trainer is not None
            self.size = self.trainer.world_size

    data, run = Asking(), trainer()
    assert data.trainer is None
    run.fit(BoringModel(), datamodule=data)
    assert data.size == 1
    assert data.trainer is run
    assert run.datamodule is data


def test_its_transfer_hooks_win_over_the_module_s() -> None:
    order: list[str] = []

    class Transferring(Data):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            order.append("data before")
            return batch + 1

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            order.append(f"data to {device}")
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    class Module(BoringModel):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            order.append("module before")
            return batch

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            order.append("module after")
            return batch

    trainer(limit_test_batches=1).test(Module(), datamodule=Transferring())
    assert order == ["data before", "data to cpu", "module after"]


def test_it_hears_of_an_exception() -> None:
    heard: list[BaseException] = []

    class Listening(Data):
        def on_exception(self, exception: BaseException) -> None:
            heard.append(exception)

    class Failing(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("mine")

    data = Listening()
    with pytest.raises(ValueError, match="mine"):
        trainer().fit(Failing(), datamodule=data)
    assert [str(each) for each in heard] == ["mine"]
    assert data.asked[-1] == "teardown fit"


def test_several_fits_ask_again() -> None:
    data, run = Data(), trainer(num_sanity_val_steps=0)
    run.fit(BoringModel(), datamodule=data)
    first = list(data.asked)
    data.asked.clear()
    run.fit(BoringModel(), datamodule=data)
    assert data.asked == first


def test_loaders_may_be_several() -> None:
    class Several(Data):
        def train_dataloader(self) -> Any:
            return {"a": self.loader("a"), "b": self.loader("b")}

        def val_dataloader(self) -> Any:
            return [self.loader("c"), self.loader("d")]

    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert set(batch) == {"a", "b"}
            return self.step(batch["a"])

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            self.log("seen", float(dataloader_idx))

    run = trainer()
    run.fit(Module(), datamodule=Several())
    assert run.num_val_batches == [1, 1]


def test_a_loader_that_is_missing() -> None:
    class Nothing(leyden.LightningDataModule):
        pass

    with pytest.raises(MissingMethod, match="pass train_dataloaders="):
        trainer().fit(NoLoaders(), datamodule=Nothing())
    for stage in ("train", "val", "test", "predict"):
        with pytest.raises(MissingMethod, match=f"Nothing has no `{stage}_dataloader`"):
            getattr(Nothing(), f"{stage}_dataloader")()


class NoLoaders(leyden.LightningModule):
    """A module with steps and without data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(32, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out: Tensor = self.layer(batch)
        return out.mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("given", "said"), [(Data, "make an instance"), (3, "a leyden.LightningDataModule")])
def test_what_is_no_datamodule(given: Any, said: str) -> None:
    with pytest.raises(InvalidType, match=said):
        trainer().fit(BoringModel(), datamodule=given)


# -- from datasets


def test_from_datasets() -> None:
    data = leyden.LightningDataModule.from_datasets(
        RandomDataset(32, 8), [RandomDataset(32, 4), RandomDataset(32, 2)], predict_dataset=RandomDataset(32, 2), batch_size=2
    )
    train = data.train_dataloader()
    assert (len(train), train.batch_size, train.num_workers) == (4, 2, 0)
    assert isinstance(train.sampler, RandomSampler)
    assert [len(each) for each in data.val_dataloader()] == [2, 1]
    assert isinstance(data.val_dataloader()[0].sampler, SequentialSampler)
    with pytest.raises(MissingMethod, match="test_dataloader"):
        data.test_dataloader()
    run = trainer()
    module = BoringModel()
    run.fit(module, datamodule=data)
    assert run.num_val_batches == [1, 1]
    assert len(run.predict(module, datamodule=data) or []) == 1


def test_from_datasets_of_none_of_a_loader_and_sample_by_sample() -> None:
    make = leyden.LightningDataModule.from_datasets
    with pytest.raises(EmptyLoader, match="has no batch"):
        kit.trainer().fit(BoringModel(), datamodule=make(RandomDataset(32, 0)))
    loader = DataLoader(RandomDataset(32, 4), batch_size=2)
    assert make(loader, batch_size=3).train_dataloader() is loader
    assert len(make(RandomDataset(32, 4), batch_size=np.int64(2)).train_dataloader()) == 2
    assert next(iter(make(RandomDataset(32, 4), batch_size=None).train_dataloader())).shape == (32,)


def test_from_datasets_by_name_and_as_streams() -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Any:
            return iter(torch.ones(4, 32))

    data = leyden.LightningDataModule.from_datasets({"a": RandomDataset(32, 4), "b": Stream()}, batch_size=2)
    loaders = data.train_dataloader()
    assert set(loaders) == {"a", "b"}
    assert next(iter(loaders["b"])).shape == (2, 32)


def test_from_datasets_makes_the_subclass_with_its_arguments() -> None:
    class Mine(leyden.LightningDataModule):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

    data = Mine.from_datasets(RandomDataset(32, 2), size=3)
    assert isinstance(data, Mine)
    assert data.size == 3


# -- state and hyper-parameters


class Tuned(BoringDataModule):
    def __init__(self, batch_size: int = 2, folds: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.read = 0

    def state_dict(self) -> dict[str, Any]:
        return {"read": self.read}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.read = state_dict["read"]


def test_its_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    data, run = Tuned(), trainer()
    run.fit(BoringModel(), datamodule=data)
    data.read = 17
    run.save_checkpoint(tmp_path / "mine.ckpt")
    content = torch.load(tmp_path / "mine.ckpt")
    assert content["Tuned"] == {"read": 17}
    assert content["datamodule_hyper_parameters"] == {"batch_size": 2, "folds": 5}

    other = Tuned()
    trainer(max_epochs=3).fit(BoringModel(), datamodule=other, ckpt_path=tmp_path / "mine.ckpt")
    assert other.read == 17
    fresh = Tuned()
    trainer().test(BoringModel(), datamodule=fresh, ckpt_path=tmp_path / "mine.ckpt")
    assert fresh.read == 17


def test_its_checkpoint_hooks(tmp_path: Path) -> None:
    class Hooked(BoringDataModule):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["vocabulary"] = ["a", "b"]

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.vocabulary = checkpoint["vocabulary"]

    run = trainer()
    run.fit(BoringModel(), datamodule=Hooked())
    run.save_checkpoint(tmp_path / "mine.ckpt")
    data = Hooked()
    trainer().validate(BoringModel(), datamodule=data, ckpt_path=tmp_path / "mine.ckpt")
    assert data.vocabulary == ["a", "b"]


def test_it_is_made_again_from_a_checkpoint(tmp_path: Path) -> None:
    data, run = Tuned(batch_size=7), trainer()
    run.fit(BoringModel(), datamodule=data)
    data.read = 4
    run.save_checkpoint(tmp_path / "mine.ckpt")
    again = Tuned.load_from_checkpoint(tmp_path / "mine.ckpt", folds=9)
    assert (again.hparams.batch_size, again.hparams.folds, again.read) == (7, 9, 4)


def test_called_on_an_object_loading_says_that_this_one_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "noticed", set())
    data, module, run = Tuned(batch_size=7), BoringModel(), trainer()
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "mine.ckpt")
    assert data.load_from_checkpoint(tmp_path / "mine.ckpt").hparams.batch_size == 7
    assert module.load_from_checkpoint(tmp_path / "mine.ckpt") is not module
    assert "strict" in inspect.signature(module.load_from_checkpoint).parameters
    said = r"BoringModel.load_from_checkpoint: the object stays as it is, use what is returned"
    with pytest.warns(LegacyNotice, match=said):
        run.validate(module, verbose=False)


def test_as_text_it_tells_its_loaders() -> None:
    class Both(leyden.LightningDataModule):
        def val_dataloader(self) -> Any:
            return [DataLoader(RandomDataset(2, 5)), DataLoader(RandomIterableDataset(2, 5))]

        def test_dataloader(self) -> Any:
            return CombinedLoader({"a": DataLoader(RandomDataset(2, 3), batch_size=2), "b": [1, 2]})

        def predict_dataloader(self) -> Any:
            torch.rand(1)
            return DataLoader(RandomDataset(2, 9))

    before = torch.get_rng_state()
    assert str(Both()) == (
        "{Train dataloader: None}\n{Validation dataloader: 1. size=5 ; 2. size=NA}\n{Test dataloader: a. size=3 ; b. size=2}\n"
        "{Predict dataloader: size=9}"
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert str(BoringDataModule()).count("None") == 4  # before setup there are none


class Sized(BoringModel):
    def __init__(self, width: int = 3, batch_size: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_its_hyper_parameters_are_logged_with_the_module_s(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer(logger=logger).fit(Sized(), datamodule=Tuned())
    written = (Path(str(logger.log_dir)) / "hparams.yaml").read_text()
    assert {line.split(":")[0] for line in written.splitlines()} == {"width", "batch_size", "folds"}


def test_hyper_parameters_that_contradict(tmp_path: Path) -> None:
    with pytest.raises(ConflictingOptions, match=r"both save the hyper-parameters \['batch_size'\]"):
        trainer(logger=CSVLogger(tmp_path)).fit(Sized(batch_size=3), datamodule=Tuned(batch_size=2))


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_hyper_parameters_of_several_numbers_contradict_by_their_values(kind: Any, tmp_path: Path) -> None:
    class Weighed(BoringModel):
        def __init__(self, weights: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    class WeighedData(BoringDataModule):
        def __init__(self, weights: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    trainer(logger=CSVLogger(tmp_path)).fit(Weighed(kind([1.0, 2.0])), datamodule=WeighedData(kind([1.0, 2.0])))
    with pytest.raises(ConflictingOptions, match=r"both save the hyper-parameters \['weights'\]"):
        trainer(logger=CSVLogger(tmp_path)).fit(Weighed(kind([1.0, 2.0])), datamodule=WeighedData(kind([1.0, 3.0])))


def test_hyper_parameters_need_not_be_logged(tmp_path: Path) -> None:
    class Silent(BoringDataModule):
        def __init__(self, batch_size: int = 9) -> None:
            super().__init__()
            self.save_hyperparameters(logger=False)

    logger = CSVLogger(tmp_path)
    trainer(logger=logger).fit(Sized(), datamodule=Silent())
    assert "batch_size: 2" in (Path(str(logger.log_dir)) / "hparams.yaml").read_text()


# -- an ordinary object


def test_it_can_be_used_without_a_trainer() -> None:
    data = BoringDataModule()
    data.prepare_data()
    data.setup("fit")
    assert next(iter(data.train_dataloader())).shape == (1, 32)


def test_it_can_be_copied_and_pickled_after_a_run() -> None:
    data = Tuned(batch_size=6)
    trainer().fit(BoringModel(), datamodule=data)
    for each in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert each.hparams.batch_size == 6
    assert pickle.loads(pickle.dumps(data)).trainer is None


def test_from_datasets_tells_a_constructor_that_asks() -> None:
    class Named(leyden.LightningDataModule):
        def __init__(self, batch_size: int = 1) -> None:
            super().__init__()
            self.told = {"batch_size": batch_size}

    class Open(leyden.LightningDataModule):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__()
            self.told = kwargs

    class Closed(leyden.LightningDataModule):
        told = None

    data = RandomDataset(32, 8)
    assert Named.from_datasets(data, batch_size=4, num_workers=2).told == {"batch_size": 4}
    assert Open.from_datasets(data, batch_size=4, num_workers=2).told == {"batch_size": 4, "num_workers": 2}
    assert Closed.from_datasets(data, batch_size=4).told is None
