"""Tuner.scale_batch_size and BatchSizeFinder: which sizes are tried, what counts as out of memory, and what is refused."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from processes_of_threads import ProcessesOfThreads, run_together
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import leyden
from leyden.callbacks import BasePredictionWriter, BatchSizeFinder, TQDMProgressBar
from leyden.errors import (
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    LeydenWarning,
    MisconfigurationException,
    MissingMethod,
    UnknownName,
    Unsupported,
)
from leyden.strategies import SingleDeviceStrategy
from leyden.tuner import Tuner

FULL = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Net(leyden.LightningModule):
    """Runs out of memory with more than ``limit`` samples; notes the sizes that were tried."""

    def __init__(self, samples: int = 1000, limit: int = 100, error: BaseException = FULL, batch_size: Any = 2) -> None:
        super().__init__()
        self.samples, self.limit, self.error, self.batch_size = samples, limit, error, batch_size
        self.layer = nn.Linear(2, 1)
        TRIED.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if TRIED[-1:] != [len(batch[0])]:
            TRIED.append(len(batch[0]))
        if len(batch[0]) > self.limit:
            raise self.error
        return self.layer(batch[0]).square().mean()

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(self.samples, 2)), batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


TRIED: list[int] = []  # what a module notes itself is put back


def scaled(module: Net, trainer: Any = None, **arguments: Any) -> tuple[int | None, list[int]]:
    found = Tuner(trainer or kit.trainer()).scale_batch_size(module, **{"steps_per_trial": 1, **arguments})
    return found, list(TRIED)


BETWEEN = [2, 4, 8, 16, 32, 64, 128, 96, 112, 104, 100, 102, 101]
CASES: list[tuple[dict[str, Any], dict[str, Any], int, list[int]]] = [
    ({}, {}, 64, [2, 4, 8, 16, 32, 64, 128]),
    ({}, {"init_val": 7}, 56, [7, 14, 28, 56, 112]),
    ({}, {"mode": "binsearch", "margin": 0.0}, 100, BETWEEN),
    ({}, {"mode": "Binsearch"}, 95, BETWEEN),
    ({}, {"mode": "binsearch", "margin": 0.5}, 50, BETWEEN),
    ({}, {"max_trials": 3}, 8, [2, 4, 8]),
    ({}, {"max_trials": 3, "mode": "binsearch", "margin": 0}, 8, [2, 4, 8]),
    ({}, {"max_val": 10}, 10, [2, 4, 8, 10]),
    ({}, {"max_val": 10, "mode": "binsearch", "margin": 0}, 10, [2, 4, 8, 10]),
    ({}, {"max_val": 4, "init_val": 20}, 4, [4]),
    ({"samples": 20}, {}, 32, [2, 4, 8, 16, 20]),
    ({"samples": 16}, {}, 16, [2, 4, 8, 16]),
    ({"samples": 16, "batch_size": 20}, {}, 20, [16]),
    ({"limit": 3}, {"init_val": 16}, 2, [16, 8, 4, 2]),
    ({"limit": 5}, {"init_val": 16, "mode": "binsearch", "margin": 0.0}, 5, [16, 8, 4, 6, 5]),
    ({"limit": 1}, {"mode": "binsearch"}, 1, [2, 1]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_sizes_grow_until_they_do_not_fit(case: tuple[dict[str, Any], dict[str, Any], int, list[int]]) -> None:
    given, arguments, size, tried = case
    module = Net(**given)
    assert scaled(module, **arguments) == (size, tried)
    assert module.batch_size == size


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_each_verb_can_be_what_has_to_fit(method: str) -> None:
    module = Net()
    assert scaled(module, method=method) == (64, [2, 4, 8, 16, 32, 64, 128])
    assert not module.layer.weight.grad


def test_each_size_has_its_steps_with_the_modules_hooks_whatever_limits_the_fit() -> None:
    heard: list[Any] = []

    class Hooked(Net):
        def on_train_start(self) -> None:
            heard.append("start")

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            heard.append((len(batch[0]), batch_idx))

    trainer = kit.trainer(limit_train_batches=1, max_steps=1, accumulate_grad_batches=2)
    assert scaled(Hooked(samples=5), trainer, steps_per_trial=2, max_val=4)[0] == 4
    two = ["start", (2, 0), (2, 1), (1, 2), (2, 0)]
    assert heard == [*two[:4], "start", (4, 0), (1, 1), (4, 0), (1, 1)]


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("out"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_these_errors_say_that_memory_ran_out(error: Exception) -> None:
    assert scaled(Net(limit=3, error=error))[0] == 2


def test_real_memory_runs_out() -> None:
    class Large(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(batch[0]) > 4:
                torch.empty(1 << 46)
            return super().training_step(batch, batch_idx)

    assert scaled(Large())[0] == 4


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("x")])
def test_any_other_error_is_the_users_and_the_size_is_what_it_was(error: Exception) -> None:
    module = Net(limit=3, error=error)
    with pytest.raises(type(error)) as caught:
        scaled(module)
    assert caught.value is error
    assert module.batch_size == 2


def test_when_not_even_one_sample_fits_that_is_said() -> None:
    for mode in ("power", "binsearch"):
        module = Net(limit=0)
        with pytest.raises(MisconfigurationException, match=r"tried batch_size=1, and it does not work either: CUDA out of mem"):
            scaled(module, mode=mode)
        assert module.batch_size == 2


def test_a_size_that_leaves_no_batch_does_not_fit() -> None:
    class Whole(Net):
        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(torch.ones(self.samples, 2)), batch_size=self.batch_size, drop_last=True)

    assert scaled(Whole(samples=10))[0] == 8
    assert scaled(Whole(samples=10), mode="binsearch", margin=0)[0] == 10


def test_data_without_a_length_is_scaled_until_something_else_ends_it() -> None:
    class Endless(Net):
        def train_dataloader(self) -> Any:
            return DataLoader(kit.Stream([torch.ones(2)] * 2000), batch_size=self.batch_size)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step([batch], batch_idx)

    assert scaled(Endless())[0] == 64


def test_several_loaders_side_by_side_go_by_the_longest() -> None:
    class Two(Net):
        def train_dataloader(self) -> Any:
            return {each: DataLoader(TensorDataset(torch.ones(each, 2)), batch_size=self.batch_size) for each in (10, 20)}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[20], batch_idx)

    assert scaled(Two())[0] == 32


# -- where the size stands


class Data(leyden.LightningDataModule):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(1000, 2)), batch_size=self.batch_size)


class Plain(Net):
    train_dataloader = leyden.LightningModule.train_dataloader

    def __init__(self) -> None:
        super().__init__()
        del self.batch_size


def test_it_is_set_in_a_datamodule_and_its_hparams() -> None:
    data = Data()
    assert scaled(Plain(), datamodule=data)[0] == 64
    assert [data.batch_size, data.hparams.batch_size] == [64, 64]
    again = Data()
    assert scaled(Plain(), train_dataloaders=again)[0] == 64
    assert again.batch_size == 64


def test_it_is_put_back_in_every_holder_when_something_raises() -> None:
    module, data = Plain(), Data()
    module.error = KeyError("x")
    with pytest.raises(KeyError):
        scaled(module, datamodule=data)
    assert [data.batch_size, data.hparams.batch_size] == [2, 2]


def test_another_name() -> None:
    module = Net()
    module.size = 4
    module.train_dataloader = lambda: DataLoader(TensorDataset(torch.ones(99, 2)), batch_size=module.size)  # type: ignore[method-assign]  # of this one
    assert scaled(module, batch_arg_name="size", max_val=16)[0] == module.size == 16
    assert module.batch_size == 2


def test_an_attribute_and_a_hyperparameter_of_one_name_are_pointed_out() -> None:
    class Both(Net):
        def __init__(self, batch_size: int = 2) -> None:
            super().__init__(batch_size=batch_size)
            self.save_hyperparameters()

    module = Both()
    with pytest.warns(LeydenWarning, match="as an attribute and in hparams too"):
        assert scaled(module, max_val=4)[0] == module.batch_size == module.hparams.batch_size == 4


def test_a_loader_that_does_not_read_the_size_is_pointed_out() -> None:
    module = Net()
    module.train_dataloader = lambda: DataLoader(TensorDataset(torch.ones(9, 2)), batch_size=3)  # type: ignore[method-assign]  # of this one
    with pytest.warns(LeydenWarning, match=r"set 2, and train_dataloader made a loader with batch_size=3: it does not read"):
        scaled(module, max_val=8)


# -- what is refused


def test_a_missing_attribute_is_named_before_anything_runs() -> None:
    with pytest.raises(UnknownName, match=r"no batch size to set.*Did you mean 'batch_size'"):
        scaled(Net(), batch_arg_name="batchsize")
    with pytest.raises(UnknownName, match="no batch size to set"):
        kit.trainer(BatchSizeFinder()).fit(Plain(), datamodule=type("D", (Data,), {"__init__": object.__init__})())
    assert TRIED == []


def test_several_processes_are_refused() -> None:
    def body(processes: ProcessesOfThreads) -> None:
        trainer = kit.trainer(strategy=SingleDeviceStrategy(processes=processes))
        with pytest.raises(Unsupported, match="works in one process, and there are 2"):
            scaled(Net(), trainer)

    run_together(2, body)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_loaders_that_were_passed_are_refused(verb: str) -> None:
    loader = DataLoader(TensorDataset(torch.ones(4, 2)))
    with pytest.raises(Unsupported, match=f"cannot change loaders that were passed to {verb}"):
        scaled(Net(), method=verb, **{"train_dataloaders" if verb == "fit" else "dataloaders": loader})
    with pytest.raises(Unsupported, match="cannot change loaders"):
        getattr(kit.trainer(BatchSizeFinder()), verb)(Net(), loader)
    assert TRIED == []


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_several_loaders_to_evaluate_are_refused(method: str) -> None:
    class Two(Net):
        def val_dataloader(self) -> Any:
            return [self.train_dataloader(), self.train_dataloader()]

        test_dataloader = predict_dataloader = val_dataloader

    with pytest.raises(Unsupported, match="works with one loader"):
        scaled(Two(), method=method)
    with pytest.raises(Unsupported, match="works with one loader"):
        getattr(kit.trainer(BatchSizeFinder()), method)(Two())
    assert TRIED == []


def test_fast_dev_run_leaves_no_search_and_says_so() -> None:
    finder = BatchSizeFinder(init_val=3)
    assert finder.optimal_batch_size == 3
    with pytest.warns(LeydenWarning, match="does nothing in a run with fast_dev_run"):
        leyden.Trainer(accelerator="cpu", fast_dev_run=True, callbacks=[finder]).fit(Net())
    assert finder.optimal_batch_size is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"mode": "triple"}, "mode='triple'"),
    ({"steps_per_trial": 0}, "steps_per_trial"),
    ({"init_val": 0}, "init_val"),
    ({"init_val": "two"}, "init_val"),
    ({"max_trials": 0}, "max_trials"),
    ({"margin": 1.0}, "margin"),
    ({"margin": -0.1}, "margin"),
    ({"max_val": 0}, "max_val"),
    ({"batch_arg_name": ""}, "batch_arg_name"),
    ({"method": "train"}, "method='train'"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=lambda value: str(value))
def test_a_wrong_value_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        scaled(Net(), **wrong)
    if "method" not in wrong:
        with pytest.raises(InvalidOption, match=said):
            BatchSizeFinder(**wrong)


def test_loaders_belong_to_their_verb_and_the_trainer_has_no_finder_of_its_own() -> None:
    with pytest.raises(ConflictingOptions, match="pass train_dataloaders="):
        scaled(Net(), dataloaders=[])
    with pytest.raises(ConflictingOptions, match="For test pass dataloaders="):
        scaled(Net(), method="test", train_dataloaders=[])
    with pytest.raises(ConflictingOptions, match="BatchSizeFinder among its callbacks"):
        scaled(Net(), kit.trainer(BatchSizeFinder()))
    with pytest.raises(MissingMethod, match="has no `test_step`"):
        scaled(type("N", (Net,), {"test_step": leyden.LightningModule.test_step})(), method="test")
    with pytest.raises(InvalidType, match="model"):
        scaled(nn.Linear(1, 1))  # type: ignore[arg-type]  # what is tested


# -- as a callback


def test_the_callback_trains_with_what_it_finds_and_the_bar_knows_the_batches() -> None:
    finder, totals = BatchSizeFinder(steps_per_trial=1), []

    class Bar(TQDMProgressBar):
        def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
            totals.append(self.total_train_batches)
            super().on_train_epoch_start(trainer, *args)

    module = Net()
    trainer = kit.trainer(finder, Bar(), enable_progress_bar=True)
    trainer.fit(module)
    assert (finder.optimal_batch_size, module.batch_size, trainer.global_step) == (64, 64, 16)
    assert totals == [16]
    assert TRIED[-2:] == [64, 40]


def test_a_writer_of_predictions_gets_the_indices_of_the_size_that_was_found() -> None:
    got: list[Any] = []

    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, *_: Any) -> None:
            got.append(list(batch_indices))

    kit.trainer(BatchSizeFinder(max_val=4), Writer("batch")).predict(Net(samples=6))
    assert got == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_callback_evaluates_with_what_it_finds(verb: str) -> None:
    batches = []

    class Counts(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("size", float(len(batch[0])), reduce_fx="max")
            batches.append(len(batch[0]))
            return loss

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * torch.ones(len(batch[0]))

    module = Counts().eval()
    module.layer.train()
    trainer = kit.trainer(BatchSizeFinder(steps_per_trial=1), logger=False)
    found = getattr(trainer, verb)(module)
    assert module.batch_size == 64
    if verb == "predict":
        assert [len(batch) for batch in found] == [64] * 15 + [40]
    else:
        assert found == [{"size": 64.0}]
        assert batches[-16:] == [64] * 15 + [40]
        assert getattr(trainer, f"num_{'val' if verb == 'validate' else verb}_batches") == [16]
    assert [module.training, module.layer.training] == [False, True]


def test_a_validation_inside_a_fit_searches_nothing() -> None:
    finder = BatchSizeFinder(steps_per_trial=1, max_val=4)
    trainer = kit.trainer(finder, num_sanity_val_steps=1)
    trainer.fit(Net(samples=20))
    assert TRIED[:2] == [2, 4]
    assert trainer.global_step == 5


def test_a_subclass_searches_again_at_the_epochs_of_its_choice() -> None:
    class Again(BatchSizeFinder):
        def __init__(self, milestones: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.milestones = milestones

        def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
            return

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch in self.milestones or trainer.current_epoch == 0:
                self.scale_batch_size(trainer, pl_module)
                pl_module.limit = 16

    module = Net(samples=100, limit=4)
    trainer = kit.trainer(Again((2,), steps_per_trial=1), max_epochs=3, val_check_interval=0.5, limit_val_batches=1)
    trainer.fit(module)
    assert module.batch_size == 16
    assert trainer.global_step == 25 + 25 + 7


def test_the_sizes_are_told(caplog: Any) -> None:
    with caplog.at_level("INFO", "leyden"):
        scaled(Net(limit=5), mode="binsearch", margin=0.25)
    assert [record.getMessage() for record in caplog.records] == [
        "Batch size 2 succeeded, trying batch size 4",
        "Batch size 4 succeeded, trying batch size 8",
        "Batch size 8 failed, trying batch size 6",
        "Batch size 6 failed, trying batch size 5",
        "Applying margin of 25.0%, reducing batch size from 5 to 3",
        "Finished batch size finder, will continue with full run using batch size 3",
    ]


class Counting(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return (torch.ones(2),)


def test_workers_that_stay_are_left_to_the_fit() -> None:
    class Working(Net):
        def train_dataloader(self) -> Any:
            return DataLoader(Counting(), batch_size=self.batch_size, num_workers=1, persistent_workers=True)

    module = Working()
    assert scaled(module, max_val=4)[0] == 4
    kit.trainer().fit(module)
