"""Several processes that were killed go on from their checkpoint to the same bits; other numbers of them go on with its state."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import outcomes_together, together
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.errors import CheckpointDamaged, CheckpointMissing


class Net(leyden.LightningModule):
    """Draws random numbers, logs, and dies in a hook: of training or of validation, at its batch ``at``."""

    def __init__(self, hook: str = "", at: int = -1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 1))
        self.hook, self.left = hook, at

    def reach(self, hook: str) -> None:
        if hook == self.hook:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.reach("training_step")
        loss = (self.net(batch[0] + 0.1 * torch.randn(3)) - batch[0].sum(1, keepdim=True)).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.reach("validation_step")
        self.log("value", (self.net(batch[0]) + torch.randn(())).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def samples(count: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(3.0 * count).view(count, 3) / (3 * count)), size, **options)


def trained(folder: str, hook: str, at: int, options: dict[str, Any], workers: int = 0) -> Any:
    leyden.seed_everything(7)
    module = Net(hook, at)
    keeps = ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    saves_inside = ModelCheckpoint(dirpath=folder, filename="v{step}", every_n_epochs=1, save_top_k=1)
    run = kit.trainer(
        keeps, saves_inside, **{"devices": 2, "max_epochs": 3, "enable_checkpointing": True, "val_check_interval": 3, **options}
    )
    run.fit(module, samples(32, 2, shuffle=True, num_workers=workers), samples(5, 1), ckpt_path="last")
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    return kit.weights(module), run.strategy.optimizer_state(run.optimizers[0]), metrics, run.global_step


def same(one: Any, other: Any) -> bool:
    return all(kit.same(a, b) for a, b in zip(one[:2], other[:2], strict=True)) and one[2:] == other[2:]


SLOW = pytest.mark.distributed


@pytest.mark.parametrize(
    ("options", "workers", "places"),
    [
        pytest.param({"accumulate_grad_batches": 3, "max_epochs": 2}, 0, [("training_step", 4)], id="window"),
        pytest.param({"accumulate_grad_batches": 3}, 0, [("training_step", 12), ("validation_step", 8)], id="places", marks=SLOW),
        pytest.param(
            {"accumulate_grad_batches": 2, "max_epochs": 2, "val_check_interval": 1.0},
            1,
            [("training_step", 12)],
            id="workers",
            marks=SLOW,
        ),
    ],
)
def test_two_processes_that_are_killed_go_on_to_the_same_bits(
    options: dict[str, Any], workers: int, places: list[tuple[str, int]], tmp_path: Path
) -> None:
    alone = together(2, trained, str(tmp_path / "alone"), "", -1, options, workers)
    for hook, at in places:
        folder = str(tmp_path / f"{hook} {at}")
        killed = outcomes_together(2, trained, folder, hook, at, options, workers)
        assert -signal.SIGKILL in killed
        gone_on = together(2, trained, folder, "", -1, options, workers)
        for expected, found in zip(alone, gone_on, strict=True):
            assert same(expected, found), (hook, at)


def in_turn(folder: str, world: int, epochs: int) -> Any:
    return trained(folder, "", -1, {"devices": world, "max_epochs": epochs})


def state_of_file(folder: str) -> Any:
    content = torch.load(Path(folder, "last.ckpt"), weights_only=False)
    return content["state_dict"], content["optimizer_states"], content["global_step"]


@SLOW
def test_another_number_of_processes_goes_on_with_the_same_state(tmp_path: Path) -> None:
    folder = str(tmp_path)
    in_turn(folder, 1, 1)
    steps = 16
    for epochs, world in enumerate((2, 4, 1), 2):
        before = state_of_file(folder)
        found = together(world, loaded, folder, world) if world > 1 else [loaded(folder, world)]
        for weights, optimizer in found:
            assert kit.same(weights, before[0])
            assert kit.same(optimizer["state"], before[1][0]["state"])
        done = together(world, in_turn, folder, world, epochs) if world > 1 else [in_turn(folder, world, epochs)]
        steps += 16 // world
        assert {each[3] for each in done} == {steps}, "each epoch reads its share once"


class Stops(leyden.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.found = kit.weights(pl_module), trainer.strategy.optimizer_state(trainer.optimizers[0])
        raise kit.Crash


def loaded(folder: str, world: int) -> Any:
    stops = Stops()
    run = kit.trainer(stops, devices=world, max_epochs=9, limit_val_batches=0)
    with pytest.raises(kit.Crash):
        run.fit(Net(), samples(32, 2), ckpt_path=str(Path(folder, "last.ckpt")))
    return stops.found


def reads(folder: str) -> tuple[int, list[str]]:
    """How many files this process opened as a checkpoint, and what it was told of those that cannot be read."""
    from leyden.checkpoint.files import TorchCheckpointIO

    count, load = [0], TorchCheckpointIO.load_checkpoint

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        return load(self, *args, **kwargs)

    TorchCheckpointIO.load_checkpoint = counted  # type: ignore[method-assign]
    run = kit.trainer(devices=2)
    run.validate(Net(), samples(4, 1), ckpt_path=str(Path(folder, "last.ckpt")), verbose=False)
    said = []
    for name in ("damaged.ckpt", "missing.ckpt"):
        try:
            run.validate(Net(), samples(4, 1), ckpt_path=str(Path(folder, name)))
        except (CheckpointDamaged, CheckpointMissing) as error:
            said.append(type(error).__name__)
    return count[0], said


def test_the_first_process_alone_reads_and_all_hear_what_is_wrong(tmp_path: Path) -> None:
    in_turn(str(tmp_path), 1, 1)
    content = bytearray((tmp_path / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.ckpt").write_bytes(content)
    first, second = together(2, reads, str(tmp_path))
    assert first == (2, ["CheckpointDamaged", "CheckpointMissing"])
    assert second == (0, ["CheckpointDamaged", "CheckpointMissing"])


class Notes(leyden.LightningModule):
    """Notes which samples it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += batch[0][:, 0].int().tolist()
        loss = self.layer(batch[0]).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-6)


COUNT = 61


def notes(path: str, world: int, size: int, steps: int, shuffle: bool, options: dict[str, Any], epochs: int = 1) -> list[int]:
    """The samples that this process sees in ``steps`` more steps, or to the end with -1; the run is saved then."""
    module, data = Notes(), TensorDataset(torch.arange(float(COUNT)).view(-1, 1))
    begun = Path(path).exists()
    so_far = torch.load(path, weights_only=False)["global_step"] if begun else 0
    run = kit.trainer(devices=world, max_epochs=epochs, max_steps=steps if steps < 0 else so_far + steps)
    loader = DataLoader(data, size, shuffle=shuffle, **options)
    run.fit(module, loader, ckpt_path=path if begun else None)
    run.strategy.barrier()
    run.save_checkpoint(path)
    return list(module.seen)


def in_parts(path: str, parts: list[tuple[int, int, int]], shuffle: bool, options: dict[str, Any]) -> list[int]:
    seen: list[int] = []
    for world, size, steps in parts:
        words = (path, world, size, steps, shuffle, options)
        found = together(world, notes, *words) if world > 1 else [notes(*words)]
        seen += [sample for each in found for sample in each]
    return seen


CHANGES = [
    pytest.param([(2, 3, 4), (1, 2, -1)], True, {}, id="2 to 1"),
    pytest.param([(1, 4, 5), (2, 3, -1)], False, {}, id="1 to 2"),
    pytest.param([(2, 3, 2), (3, 2, 3), (2, 4, -1)], True, {}, id="2 to 3 to 2", marks=SLOW),
    pytest.param([(2, 3, 2), (3, 3, -1)], True, {"num_workers": 1}, id="workers", marks=SLOW),
]


@pytest.mark.parametrize(("parts", "shuffle", "options"), CHANGES)
def test_inside_an_epoch_other_processes_read_each_sample_that_is_left_once(
    parts: list[tuple[int, int, int]], shuffle: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    seen = in_parts(str(tmp_path / "saved"), parts, shuffle, options)
    assert len(set(seen)) == len(seen), "none twice"
    left_out = COUNT - len(seen)
    assert 0 <= left_out < parts[-1][0], "none lost, but for an end that does not go around all processes"


def test_later_epochs_too_are_read_on_from_where_they_were_cut(tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    begun = [sample for each in together(2, notes, path, 2, 3, 4, True, {}, 2) for sample in each]
    alone = notes(path, 1, 3, 13 + 5, True, {}, 2)  # 13 steps to the epoch's end
    left = COUNT - len(begun)
    assert sorted([*begun, *alone[:left]]) == list(range(COUNT))
    rest = notes(path, 1, 3, -1, True, {}, 2)
    assert sorted([*alone[left:], *rest]) == list(range(COUNT))


class Pairs(Notes):
    """Trains on the first of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[0], batch_idx)


def pairs(path: str, world: int) -> list[str]:
    data = DataLoader(TensorDataset(torch.arange(float(COUNT)).view(-1, 1)), 2)
    run = kit.trainer(devices=world, max_epochs=1, max_steps=3 if world > 1 else -1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.fit(Pairs(), [data, data], ckpt_path=path if world == 1 else None)
    if world > 1:
        run.save_checkpoint(path)
    return [str(each.message) for each in said]


def test_data_that_others_cannot_read_on_from_one_sample_is_told_of(tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    assert not any("come twice" in each for said in together(2, pairs, path, 2) for each in said)
    (said,) = {each for each in pairs(path, 1) if "come twice" in each}
    assert said.startswith("The run was cut inside an epoch by 2 processes, and 1 share ")


class LogsLate(Notes):
    """Logs where a validation ends, which is where a checkpoint is saved."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("each", batch[0].mean())

    def on_validation_epoch_end(self) -> None:
        self.log("late", float(self.global_rank + 1))


def logged_late(folder: str, world: int, epochs: int) -> dict[str, float]:
    keeps = ModelCheckpoint(dirpath=folder, monitor="each", save_last=True)
    run = kit.trainer(keeps, devices=world, max_epochs=epochs, enable_checkpointing=True)
    data = TensorDataset(torch.arange(8.0).view(-1, 1))
    run.fit(LogsLate(), DataLoader(data, 2), DataLoader(data, 2), ckpt_path="last")
    return {name: float(run.callback_metrics[name]) for name in ("each", "late", "loss")}


def test_more_processes_go_on_from_a_checkpoint_of_a_validations_end(tmp_path: Path) -> None:
    assert logged_late(str(tmp_path), 1, 1)["late"] == 1
    first, second = together(2, logged_late, str(tmp_path), 2, 2)
    assert first == second
    assert (first["each"], first["late"]) == (3.5, 1.5)


class Counting(leyden.LightningModule):
    """Logs the numbers of its samples in every way that an epoch has."""

    def __init__(self) -> None:
        from torchmetrics import CatMetric, MeanMetric  # two seconds, in each process: most have no use for it

        super().__init__()
        self.layer, self.mean, self.kept = nn.Linear(1, 1), MeanMetric(), CatMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        numbers = batch[0][:, 0]
        for reduce in ("mean", "sum", "min", "max"):
            self.log(reduce, getattr(numbers, reduce)(), on_step=False, on_epoch=True, reduce_fx=reduce)
        self.log("number", float(numbers.sum()), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("function", numbers.sum(), on_step=False, on_epoch=True, reduce_fx=lambda values: values.sum())
        self.mean.update(numbers)
        self.kept.update(numbers)
        self.log("metric", self.mean, on_step=False, on_epoch=True)
        return 0 * self.layer(batch[0]).sum()

    def on_train_epoch_end(self) -> None:
        kept: Any = self.kept.compute()
        self.log("kept", kept.sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def counted(folder: str, world: int, steps: int) -> dict[str, float]:
    keeps = ModelCheckpoint(dirpath=folder, save_last=True)
    run = kit.trainer(keeps, devices=world, max_steps=steps, enable_checkpointing=True)
    numbers = torch.arange(1.0, 25.0).view(24, 1)
    run.fit(Counting(), DataLoader(TensorDataset(numbers), 2, shuffle=True), ckpt_path="last")
    return {name: float(value) for name, value in run.callback_metrics.items() if name != "loss"}


WHOLE = {"mean": 12.5, "sum": 300.0, "min": 1.0, "max": 24.0, "number": 300.0, "function": 300.0, "metric": 12.5, "kept": 300.0}


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(3, 2, marks=SLOW)])
def test_fewer_processes_take_over_what_the_others_had_counted_of_the_epoch(before: int, after: int, tmp_path: Path) -> None:
    folder = str(tmp_path)
    together(before, counted, folder, before, 2)
    rest = (24 - before * 2 * 2) // (after * 2)
    found = together(after, counted, folder, after, 2 + rest) if after > 1 else [counted(folder, after, 2 + rest)]
    assert found == [WHOLE] * after


class OneOfMany(Net):
    """Keeps one number of a larger tensor, whose stride is not 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.arange(8.0)[::8])


def with_one_of_many(path: str) -> float:
    rows = DataLoader(TensorDataset(torch.arange(12.0).view(4, 3)), 1)
    run = kit.trainer(devices=2, max_epochs=1)
    run.fit(OneOfMany(), rows)
    run.save_checkpoint(path)
    module = OneOfMany()
    module.one.add_(3.0)  # type: ignore[operator]  # a tensor
    kit.trainer(devices=2, max_epochs=2).fit(module, rows, ckpt_path=path)
    return float(module.one)  # type: ignore[arg-type]  # as above


def test_a_tensor_of_one_number_with_a_stride_reaches_every_process(tmp_path: Path) -> None:
    assert together(2, with_one_of_many, str(tmp_path / "saved.ckpt")) == [0.0, 0.0]
