"""What only a GPU can show: the same promises on CUDA. Run by itself with ``pytest -m gpu``; skipped where there is none."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Net, differences, fit, rows, trainer, weights
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

import leyden
from leyden.callbacks import (
    DeviceStatsMonitor,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    ThroughputMonitor,
    WeightAveraging,
)
from leyden.devices.copy_ahead import CopyAhead
from leyden.devices.transfer import move_data_to_device
from leyden.errors import DeviceUnavailable
from leyden.loggers import CSVLogger
from leyden.strategies import DDPStrategy, FSDPStrategy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*there is no validation loader:leyden.errors.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.* holds the states of callbacks that this Trainer has not:leyden.errors.LeydenWarning"),
]

GPU: dict[str, Any] = {"accelerator": "gpu", "devices": 1}
PRECISIONS = ["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]


@pytest.fixture(autouse=True)
def every_cuda_failure_here() -> Iterator[None]:
    """A kernel that fails does so inside its own test."""
    leyden.seed_everything(7)
    yield
    torch.cuda.synchronize()


def data(batches: int = 8, size: int = 4, **options: Any) -> DataLoader[Any]:
    numbers = torch.rand(batches * size, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(list(numbers), batch_size=size, **{"shuffle": True, **options})  # type: ignore[arg-type]


# Numbers


class Descending(Net):
    """For 16 bits throughout, in which Adam's smallest number is 0."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_that_is_resumed_ends_with_the_same_bits(precision: str, tmp_path: Path) -> None:
    def one(folder: str, steps: int, ckpt_path: Any = None) -> tuple[leyden.Trainer, Net]:
        leyden.seed_everything(3)
        module = Net() if precision != "16-true" else Descending()
        saves = ModelCheckpoint(tmp_path / folder, every_n_train_steps=5, save_last=True, save_top_k=-1)
        run = trainer(saves, **GPU, precision=precision, max_epochs=3, max_steps=steps, enable_checkpointing=True)
        run.fit(module, data(), ckpt_path=ckpt_path)
        return run, module

    _, whole = one("whole", -1)
    one("cut", 11)
    run, resumed = one("cut", -1, ckpt_path=tmp_path / "cut" / "last.ckpt")
    assert run.global_step == 24
    assert differences(weights(whole), weights(resumed)) == []
    file = torch.load(tmp_path / "cut" / "last.ckpt", map_location="cpu", weights_only=True)
    assert Net.load_from_checkpoint(tmp_path / "cut" / "last.ckpt", map_location="cpu").device.type == "cpu"
    assert set(file["state_dict"]) == set(resumed.state_dict())


def test_the_same_numbers_as_a_loop_by_hand() -> None:
    leyden.seed_everything(5)
    module = Net()
    module_by_hand = Net()
    module_by_hand.load_state_dict(module.state_dict())
    batches = data(shuffle=False)
    leyden.seed_everything(6)
    fit(module, batches, **GPU, max_epochs=2)
    leyden.seed_everything(6)
    module_by_hand.to("cuda").train()
    optimizer = torch.optim.Adam(module_by_hand.parameters(), lr=0.02)
    for _ in range(2):
        for batch in batches:
            optimizer.zero_grad()
            module_by_hand.model(batch.to("cuda")).square().mean().backward()
            optimizer.step()
    assert differences(weights(module_by_hand.cpu()), weights(module)) == []


@pytest.mark.parametrize(
    "callback", [EMAWeightAveraging, lambda: StochasticWeightAveraging(0.05, 1), lambda: ModelPruning("l1_unstructured")]
)
def test_what_changes_weights_changes_them_on_a_gpu_as_on_the_cpu(callback: Any) -> None:
    found = []
    for accelerator in ("cpu", "gpu"):
        leyden.seed_everything(5)
        module = Net()
        module.model[1] = nn.Identity()  # dropout draws other numbers there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(module, data(shuffle=False), accelerator=accelerator, devices=1, max_epochs=4, callbacks=[callback()])
        found.append(weights(module))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name].cpu(), value, rtol=1e-4, atol=1e-5)


class Collects(Net):
    """Logs tensors of both devices and keeps them, in training and in its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.train_there: list[Tensor] = []
        self.train_here: list[Tensor] = []
        self.val_there: list[Tensor] = []
        self.val_here: list[Tensor] = []
        self.found: dict[str, Any] = {}

    def on_train_epoch_start(self) -> None:
        self.train_there, self.train_here = [], []

    def on_validation_epoch_start(self) -> None:
        self.val_there, self.val_here = [], []

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.collect("train", loss, self.train_there, self.train_here)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.collect("val", self.model(batch).square().mean(), self.val_there, self.val_here)

    def collect(self, stage: str, loss: Tensor, there: list[Tensor], here: list[Tensor]) -> None:
        there.append(loss.detach())
        here.append(loss.detach().cpu())
        self.log(f"{stage}_beside", here[-1], on_epoch=True, on_step=False)
        for name, function in {"mean": "mean", "min": "min", "max": "max", "own": torch.std}.items():
            for which, value in {"there": loss, "both": loss if len(here) % 2 else here[-1]}.items():
                self.log(f"{stage}_{which}_{name}", value, on_epoch=True, on_step=False, reduce_fx=function)

    def on_train_epoch_end(self) -> None:
        self.note("train", self.train_there, self.train_here)

    def on_validation_epoch_end(self) -> None:
        self.note("val", self.val_there, self.val_here)

    def note(self, stage: str, there: list[Tensor], here: list[Tensor]) -> None:
        self.found[stage] = [(torch.stack(values).tolist(), str(values[0].device)) for values in (there, here)]


def places(run: leyden.Trainer) -> dict[str, Any]:
    return {name: (value.item(), value.device.type, value.dtype) for name, value in run.callback_metrics.items()}


def test_what_a_run_holds_is_on_its_device_again_or_on_the_cpu_where_it_was_there(tmp_path: Path) -> None:
    """Cut inside a training epoch and inside its validation, again and again."""

    class Cut(Exception):
        pass

    class CutAt(leyden.Callback):
        def __init__(self, *places: tuple[str, int]) -> None:
            self.places, self.count = places, 0

        def saves(self, run: leyden.Trainer, hook: str, batch_idx: int) -> None:
            if not run.sanity_checking and (hook, batch_idx) == self.places[0]:
                run.save_checkpoint(tmp_path / "cut.ckpt")
                raise Cut

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.saves(trainer, "train", batch_idx)

        def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, index: int, *_: Any) -> None:
            self.saves(trainer, "val", index)

    options: dict[str, Any] = {**GPU, "max_epochs": 1, "num_sanity_val_steps": 0}
    whole = Collects()
    run = fit(whole, data(), data(), **options)
    leyden.seed_everything(7)
    resumed, path = Collects(), None
    for place in (("train", 1), ("train", 4), ("train", 5), ("val", 1), ("val", 3), ("val", 6)):
        with pytest.raises(Cut):
            fit(resumed, data(), data(), **options, callbacks=[CutAt(place)], ckpt_path=path)
        resumed, path = Collects(), tmp_path / "cut.ckpt"
    again = fit(resumed, data(), data(), **options, ckpt_path=path)
    assert differences(weights(whole), weights(resumed)) == []
    assert places(again) == places(run)
    assert resumed.found == whole.found
    assert [device for _, device in whole.found["train"]] == ["cuda:0", "cpu"]


def test_a_file_that_was_saved_after_an_error_is_gone_on_from(tmp_path: Path) -> None:
    """The losses that nobody had looked at are on the device again."""

    class Fails(Net):
        fails = True

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if self.fails and batch_idx == 5:
                raise RuntimeError("here")
            return super().training_step(batch, batch_idx)

    leyden.seed_everything(3)
    whole = Fails()
    whole.fails = False
    fit(whole, data(), **GPU, max_epochs=2)
    leyden.seed_everything(3)
    saves = ModelCheckpoint(tmp_path, save_on_exception=True)
    with pytest.raises(RuntimeError, match="here"):
        fit(Fails(), data(), **GPU, max_epochs=2, callbacks=[saves], enable_checkpointing=True)
    (file,) = tmp_path.glob("*.ckpt")
    resumed = Fails()
    resumed.fails = False
    fit(resumed, data(), **GPU, max_epochs=2, ckpt_path=file)
    assert differences(weights(whole), weights(resumed)) == []


def test_one_loss_on_the_cpu() -> None:
    class Once(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return torch.zeros((), requires_grad=True) if batch_idx == 3 else super().training_step(batch, batch_idx)

    assert fit(Once(), data(), **GPU).global_step == 8


def test_an_average_of_everything_counts_as_the_cpus_does() -> None:
    found = []
    for accelerator in ("cpu", "gpu"):
        leyden.seed_everything(5)
        module = Net()
        module.model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
        fit(module, data(shuffle=False), accelerator=accelerator, devices=1, max_epochs=2, callbacks=[WeightAveraging()])
        found.append(weights(module))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name].cpu(), value, rtol=1e-4, atol=1e-5)


# Copies that run beside the step before


@dataclass
class Sample:
    x: Tensor
    name: str


def test_copies_beside_are_the_same_batches() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    move = CopyAhead(device)
    wide = torch.rand(6, 8)
    given = {
        "plain": wide,
        "columns": wide[:, 1:5],
        "expanded": torch.ones(1, 4).expand(3, 4),
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "pinned": torch.rand(3).pin_memory(),
        "there already": torch.rand(3, device=device),
        "graded": torch.rand(3, requires_grad=True),
        "sparse": torch.eye(3).to_sparse(),
        "parameter": nn.Parameter(torch.rand(2)),
        "packed": pack_sequence([torch.rand(3), torch.rand(2)]),
        "sample": Sample(torch.rand(2), "a"),
        "rest": (1, "b", None, torch.tensor(2.5)),
    }
    for _ in range(5):
        found, expected = move(given), move_data_to_device(given, device)
        for name in ("plain", "columns", "expanded", "channels_last", "empty", "pinned", "there already", "graded", "parameter"):
            assert found[name].device == device
            assert torch.equal(found[name], expected[name])
            assert found[name].stride() == expected[name].stride(), name
        assert torch.equal(found["sparse"].to_dense(), expected["sparse"].to_dense())
        assert torch.equal(found["packed"].data, expected["packed"].data)
        assert found["packed"].data.is_cuda
        assert found["sample"].x.is_cuda
        assert found["sample"].name == "a"
        assert found["rest"][:3] == (1, "b", None)
        assert found["rest"][3].item() == 2.5
        assert given["plain"] is wide
        assert not given["plain"].is_cuda
        assert found["there already"] is given["there already"]


def test_a_copy_runs_beside_the_step_before_it() -> None:
    """The copy of a large batch is done while the device is still busy with what was queued before it."""
    device = torch.device("cuda", torch.cuda.current_device())
    move, batch = CopyAhead(device), torch.rand(4_000_000).pin_memory()
    move(batch)  # the streams and their memory are there
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    moved = move(batch)
    copied = torch.cuda.Event()
    copied.record(move._stream)
    copied.synchronize()
    assert not torch.cuda.current_stream().query()  # the sleep goes on
    torch.cuda.synchronize()
    assert torch.equal(moved.cpu(), batch)


def test_batches_in_flight_are_not_overwritten() -> None:
    """The device lags behind; every batch is still what it was when its step comes."""
    device = torch.device("cuda", torch.cuda.current_device())
    move, sums = CopyAhead(device), []
    for number in range(12):
        moved = move(torch.full((200_000,), float(number)))
        torch.cuda._sleep(20_000_000)
        sums.append(moved.double().sum())
        del moved
    assert [each.item() / 200_000 for each in sums] == list(map(float, range(12)))


def test_the_host_stays_within_one_batch_of_the_device() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    move, batch = CopyAhead(device), torch.rand(1_000_000)
    move(batch)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(20):
        moved = move(batch)
        torch.cuda._sleep(20_000_000)
        del moved
    assert torch.cuda.max_memory_allocated() - before <= 6 * 4_000_000


class Waits(leyden.LightningModule):
    """Counts what makes the host wait for the device between two of its steps."""

    def __init__(self, first: int = 5) -> None:
        super().__init__()
        self.layer, self.first = nn.Linear(64, 64), first
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.first:
            torch.cuda.set_sync_debug_mode("error")
        loss = self.layer(batch[0]).square().mean()
        self.log_dict({"loss": loss, "double": loss * 2}, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first + 20:
            torch.cuda.set_sync_debug_mode("default")

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_the_gpu(precision: str, tmp_path: Path) -> None:
    run = trainer(
        ModelCheckpoint(tmp_path / "saves", every_n_epochs=1),
        **GPU,
        precision=precision,
        gradient_clip_val=1.0,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=50,
        enable_progress_bar=True,
        enable_checkpointing=True,
    )
    try:
        run.fit(Waits(), DataLoader(TensorDataset(torch.rand(320, 64)), batch_size=8))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.global_step == 40


# Several processes' strategies, in one process with one GPU


STRATEGIES = {
    "ddp": lambda: "ddp",
    "fsdp": lambda: "fsdp",
    "fsdp, weights on the CPU": lambda: "fsdp_cpu_offload",
    "ddp, static graph": lambda: DDPStrategy(static_graph=True),
    "fsdp, checkpointed": lambda: FSDPStrategy(activation_checkpointing_policy={nn.Linear}),
    "fsdp, a folder": lambda: FSDPStrategy(state_dict_type="sharded"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_of_several_processes_with_nccl(name: str, tmp_path: Path) -> None:
    losses = []
    for place, made in enumerate((lambda: "auto", STRATEGIES[name])):
        leyden.seed_everything(5)
        saves = ModelCheckpoint(tmp_path / str(place), every_n_train_steps=4, save_top_k=-1, save_last=True)
        options: dict[str, Any] = {**GPU, "enable_checkpointing": True}
        first = fit(Net(), data(shuffle=False), data(), **options, strategy=made(), max_epochs=2, callbacks=[saves])
        on = fit(Net(), data(shuffle=False), data(), **options, strategy=made(), max_epochs=3, ckpt_path=saves.last_model_path)
        assert on.global_step == 24
        losses.append([run.callback_metrics[each].item() for run in (first, on) for each in ("loss", "val_loss")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_sync_batchnorm() -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    module = Normed()
    fit(module, data(), **GPU, strategy="ddp", sync_batchnorm=True)
    assert type(module.model[1]) is nn.BatchNorm1d


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(DeviceUnavailable, match=str(torch.cuda.device_count() + 1)):
        trainer(accelerator="gpu", devices=torch.cuda.device_count() + 1, strategy="ddp")


# What watches and what tunes


def test_what_watches_a_gpu(tmp_path: Path) -> None:
    class Measured(Net):
        def __init__(self) -> None:
            super().__init__()
            self.flops_per_batch = 1000

    logger = CSVLogger(tmp_path)
    fit(
        Measured(),
        data(40),
        **GPU,
        logger=logger,
        log_every_n_steps=5,
        callbacks=[DeviceStatsMonitor(), ThroughputMonitor(batch_size_fn=len, window_size=5)],
        profiler="simple",
        precision="bf16-mixed",
    )
    names = {name for row in rows(logger.log_dir) for name in row}
    assert any("allocated_bytes.all.current" in name for name in names)
    assert any(name.endswith("device/mfu") for name in names)


def test_the_parts_of_a_step_are_measured_on_the_device(tmp_path: Path) -> None:
    from leyden.profilers import PyTorchProfiler, SimpleProfiler

    profiler = SimpleProfiler()
    fit(Net(), data(20), **GPU, profiler=profiler)
    assert "forward" in profiler.summary()
    assert "transfer" in profiler.summary()
    traced = PyTorchProfiler(tmp_path, "trace", emit_nvtx=False, export_to_chrome=True)
    fit(Net(), data(20), **GPU, profiler=traced)
    traces = list(tmp_path.glob("*.json*"))
    assert traces
    assert "cuda" in traced.summary().lower()


class Grows(Dataset[Tensor]):
    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> Tensor:
        return torch.ones(4)


def test_a_batch_that_does_not_fit_ends_the_search_for_its_size() -> None:
    """Real memory runs out, and the search goes back to the size that fitted."""

    class Hungry(Net):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size, self.tried = 2, []

        def train_dataloader(self) -> Any:
            return DataLoader(Grows(), batch_size=self.batch_size)

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.tried.append(len(batch))
            torch.empty(len(batch) << 30, dtype=torch.uint8, device=self.device)  # a GiB a sample
            return super().training_step(batch, batch_idx)

    module = Hungry()
    run = trainer(**GPU)
    found = leyden.tuner.Tuner(run).scale_batch_size(module, mode="binsearch", steps_per_trial=1)
    total = torch.cuda.get_device_properties(0).total_memory >> 30
    assert total * 0.8 <= found <= total
    assert module.batch_size == found


def test_the_rate_finder_puts_everything_back() -> None:
    module = Net()
    fit(module, data(), **GPU, callbacks=[LearningRateFinder(num_training_steps=20, update_attr=False)], max_steps=0)


def test_compiled_numbers_agree_with_eager() -> None:
    found = []
    for compiles in (False, True):
        leyden.seed_everything(5)
        module = Net()
        module.model[1] = nn.Identity()
        fit(torch.compile(module) if compiles else module, data(shuffle=False), **GPU, max_epochs=2)  # type: ignore[arg-type]
        found.append(weights(module))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name].cpu(), value.cpu(), rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_leaves_its_capsule(tmp_path: Path) -> None:
    class Bursts(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss / 0 if batch_idx == 3 else loss

    with pytest.raises(leyden.errors.NonFiniteLoss, match="batch 3"):
        fit(Bursts(), data(), **GPU, logger=CSVLogger(tmp_path))


def test_predictions_come_to_the_cpu_in_order() -> None:
    class Echo(Net):
        def predict_step(self, batch: Tensor, batch_idx: int) -> Any:
            return {"x": batch * 2, "device": str(batch.device)}

    batches = data(shuffle=False)
    found = trainer(**GPU).predict(Echo(), batches)
    assert {each["x"].device.type for each in found} == {"cpu"}
    assert {each["device"] for each in found} == {"cuda:0"}
    assert torch.equal(torch.cat([each["x"] for each in found]), torch.cat(list(batches)) * 2)


def test_by_itself_a_trainer_takes_the_gpu() -> None:
    run = leyden.Trainer(logger=False, enable_checkpointing=False)
    assert run.strategy.root_device.type == "cuda"
    assert run.num_devices >= 1


class Collecting(Dataset[Tensor]):
    """Looks for garbage in the worker that reads it."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Tensor:
        gc.collect()
        return torch.full((4,), float(index))


def test_forked_workers_leave_the_garbage_of_runs_before_alone() -> None:
    """A batch of an earlier run that only a cycle keeps was used on two streams: no forked process may free it."""
    for _ in range(3):
        run = fit(Net(), DataLoader(Collecting(), 8, num_workers=2, multiprocessing_context="fork"), **GPU)
        run.itself, run.batch = run, CopyAhead(torch.device("cuda", 0))(torch.rand(8, 4))
        del run


def test_no_batch_outlives_its_run() -> None:
    fit(Net(), data(), **GPU)  # cuBLAS keeps memory of its own from here on
    batches, before = torch.rand(3, 1 << 20, 4), torch.cuda.memory_allocated()
    module = Net()
    run = fit(module, DataLoader(batches, batch_size=None), **GPU)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 20
    assert run.global_step == 3


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, lambda parameters: torch.optim.Adam(parameters, fused=True), torch.optim.LBFGS]
)
def test_an_ended_fit_leaves_nothing_on_the_gpu_and_goes_on_where_it_was(make: Any) -> None:
    class Wide(Net):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(4, 1 << 18), nn.Linear(1 << 18, 1))

        def configure_optimizers(self) -> Any:
            return make(self.parameters())

    leyden.seed_everything(3)
    whole = Wide()
    fit(whole, data(), **GPU, max_epochs=2)
    leyden.seed_everything(3)
    module, before = Wide(), torch.cuda.memory_allocated()
    run = fit(module, data(), **GPU, max_epochs=1)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 20
    run.fit_loop.max_epochs = 2
    run.fit(module, data())
    assert run.global_step == 16
    assert differences(weights(whole), weights(module)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_loaders_and_workers(workers: int) -> None:
    plain, pins = Net(), Net()
    pins.load_state_dict(plain.state_dict())
    for module, options in ((plain, {}), (pins, {"pin_memory": True, "num_workers": workers})):
        leyden.seed_everything(5)
        fit(module, data(shuffle=False, **options), **GPU)
    assert differences(weights(plain), weights(pins)) == []
