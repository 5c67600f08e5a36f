"""Several real processes come to what one comes to: skipped batches, callbacks that decide, logged values, gathered gradients."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import outcomes_together, together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from leyden.distributed import talks
from leyden.errors import MetricsDiffer, PossibleUserWarning, Unsupported
from leyden.loggers import CSVLogger
from leyden.strategies.skips import may_skip


def rows(count: int) -> Tensor:
    return torch.arange(3.0 * count).view(count, 3) / count


def loader(count: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(rows(count)), size, **options)


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Skipping(Net):
    """Some batches give no loss on the second process, and one on neither."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if skipped(self.global_rank, batch_idx):
            return None
        return self.layer(batch[0]).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def skipped(rank: int, batch_idx: int) -> bool:
    return (rank == 1 and batch_idx % 3 == 1) or batch_idx == 5


def skipping_by_hand(window: int) -> tuple[dict[str, Tensor], int]:
    torch.manual_seed(3)
    module, steps, count = Skipping(), 0, 8
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for start in range(0, count, window):
        losses = [
            module.layer(rows(16)[2 * batch + rank][None]).pow(2).mean()
            for batch in range(start, min(count, start + window))
            for rank in range(2)
            if not skipped(rank, batch)
        ]
        if losses:
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
            steps += 1
    return kit.weights(module), steps


class NextEpoch(Callback):
    """Leaves out the rest of each epoch in the middle of a window."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 3 else None


class Looks(Net):
    """What a step can ask of the other processes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("mine", float(self.global_rank), rank_zero_only=True)
        rank = torch.tensor(float(self.global_rank), requires_grad=True)
        gathered = self.all_gather(rank, sync_grads=True)
        (gathered.sum() * (1 + self.global_rank)).backward()
        strategy = self.trainer.strategy
        self.found = {
            "gathered": gathered.tolist(),
            "gradient": rank.grad.item() if rank.grad is not None else None,
            "several": self.all_gather({"rank": torch.tensor([self.global_rank])})["rank"].tolist(),
            "mean": strategy.reduce(torch.tensor(float(self.global_rank))).item(),
            "max": strategy.reduce(torch.tensor(self.global_rank), reduce_op="max").item(),
            "said": strategy.broadcast(f"from {self.global_rank}", src=1),
            "any": strategy.reduce_boolean_decision(self.global_rank == 1, all=False),
        }
        if self.global_rank == 1:  # no other process is asked by these
            assert self.trainer.log_dir is not None
            assert self.logger is not None
            self.logger.experiment.log_metrics({"nowhere": 1.0})
            assert self.trainer.callback_metrics is not None
        return loss


def in_both(size: int, devices: int, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, options in {"window 1": {}, "window 3": {"accumulate_grad_batches": 3}}.items():
        if devices > 1:
            torch.manual_seed(3)
            module = Skipping()
            run = kit.trainer(devices=devices, **options)
            run.fit(module, loader(16, 1))
            found[name] = kit.weights(module), run.global_step

    torch.manual_seed(3)
    module, keeps = Net(), ModelCheckpoint(folder, monitor="val_loss", save_top_k=2)
    stops = EarlyStopping("val_loss", min_delta=0.01, patience=1)
    run = kit.trainer(
        keeps,
        stops,
        EMAWeightAveraging(decay=0.5),
        devices=devices,
        max_epochs=30,
        enable_checkpointing=True,
        precision="32-true",
    )
    run.fit(module, loader(16, size, shuffle=True), loader(5, 1))
    found["decided"] = run.current_epoch, keeps.best_model_path, [group["lr"] for group in run.optimizers[0].param_groups]
    found["weights"] = kit.weights(module)

    torch.manual_seed(3)
    module = Skipping()
    if devices > 1:
        run = kit.trainer(NextEpoch(), devices=devices, max_epochs=2, accumulate_grad_batches=8)
        run.fit(module, loader(16, 1))
        found["left out"] = kit.weights(module)
        looks = Looks()
        run = kit.trainer(devices=devices, logger=CSVLogger(folder, version=1), log_every_n_steps=1)
        run.fit(looks, loader(5, 2), loader(5, 1))
        found["looks"], found["mine"] = looks.found, float(run.callback_metrics["mine"])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def two(folder: str) -> list[dict[str, Any]]:
    return together(2, in_both, 2, 2, folder + "/two")


@pytest.mark.parametrize("window", [1, 3])
def test_a_batch_that_is_skipped_on_one_process_leaves_a_mean_of_the_rest(two: list[dict[str, Any]], window: int) -> None:
    weights, steps = skipping_by_hand(window)
    for found in two:
        assert found[f"window {window}"][1] == steps
        for name, value in weights.items():
            assert torch.allclose(value, found[f"window {window}"][0][name], atol=1e-6)
    assert kit.same(two[0][f"window {window}"][0], two[1][f"window {window}"][0])


def test_callbacks_and_schedulers_decide_as_in_one_process(two: list[dict[str, Any]], folder: str) -> None:
    first, second = two
    one = in_both(4, 1, folder + "/one")
    assert first["decided"] == second["decided"]
    assert first["decided"][0] == one["decided"][0]
    assert first["decided"][1].rsplit("/", 1)[1] == one["decided"][1].rsplit("/", 1)[1]
    assert first["decided"][2] == pytest.approx(one["decided"][2])
    assert kit.same(first["weights"], second["weights"])
    for name, value in one["weights"].items():
        assert torch.allclose(value, first["weights"][name], atol=1e-5)


class OneNextEpoch(NextEpoch):
    """The second process alone wishes to leave out the rest."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        return super().on_train_batch_start(trainer, pl_module, batch, batch_idx) if trainer.global_rank else None


class Stepping(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def left_early(devices: int, size: int) -> list[tuple[dict[str, Tensor], int]]:
    found = []
    if devices > 1:
        talks.ALIKE_WITHIN = 0.3
    for callback in (NextEpoch(), OneNextEpoch())[:devices]:
        torch.manual_seed(3)
        module, run = Stepping(), kit.trainer(callback, devices=devices, max_epochs=2, accumulate_grad_batches=2)
        run.fit(module, loader(64, size), loader(4, 1))
        found.append((kit.weights(module), run.global_step))
    return found


def test_an_epoch_that_all_leave_at_one_batch_ends_there() -> None:
    (whole, steps), *_ = left_early(1, 4)
    first, second = together(2, left_early, 2, 2)
    for (mine, here), (other, there) in zip(first, second, strict=True):
        assert here == there
        assert kit.same(mine, other)
    assert first[0][1] == steps == 4
    assert first[1][1] > steps, "the first process was in that batch already"
    for name, value in whole.items():
        assert torch.allclose(first[0][0][name], value, atol=1e-6)


class BySteps(Net):
    """Decides by values that are each process's own: those of steps, and one that the first process alone means."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("loss", loss)
        self.log("mine", float(-self.current_epoch if self.global_rank == 0 else self.current_epoch), rank_zero_only=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "loss", "interval": "step"}}


def by_steps(size: int, devices: int, strategy: str, folder: str) -> dict[str, Any]:
    torch.manual_seed(3)
    module = BySteps()
    keeps = ModelCheckpoint(folder, "{epoch}-{loss:.4f}", monitor="loss", save_top_k=1, save_on_train_epoch_end=True)
    stops = EarlyStopping("mine", patience=1, check_on_train_epoch_end=True)
    run = kit.trainer(keeps, stops, devices=devices, strategy=strategy, max_epochs=4, enable_checkpointing=True)
    run.fit(module, loader(16, size), loader(4, 1))
    names = sorted(path.rsplit("/", 1)[1] for path in keeps.best_k_models)
    return {"epochs": run.current_epoch, "names": names, "rate": [group["lr"] for group in run.optimizers[0].param_groups]}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_decides_by_the_values_of_steps_decides_by_their_mean_on_all(strategy: str, tmp_path: Path) -> None:
    one = by_steps(4, 1, "auto", str(tmp_path / "one"))
    assert one["epochs"] == 4
    assert one["rate"][0] < 0.05
    first, second = together(2, by_steps, 2, 2, strategy, str(tmp_path / "two"))
    assert first == second
    assert first == one | {"rate": pytest.approx(one["rate"])}
    assert [path.name for path in (tmp_path / "two").iterdir()] == first["names"]


def test_an_epoch_that_is_left_inside_a_window_steps_alike(two: list[dict[str, Any]]) -> None:
    assert kit.same(two[0]["left out"], two[1]["left out"])
    torch.manual_seed(3)
    module = Skipping()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for _ in range(2):  # the first three batches of an epoch; the second gives no loss on the second process
        optimizer.zero_grad()
        torch.stack([module.layer(rows(16)[[each]]).pow(2).mean() for each in (0, 1, 2, 4, 5)]).mean().backward()
        optimizer.step()
    for name, value in module.state_dict().items():
        assert torch.allclose(two[0]["left out"][name], value, atol=1e-6)


def test_what_a_step_asks_of_the_others(two: list[dict[str, Any]], folder: str) -> None:
    for rank, found in enumerate(two):
        assert found["looks"] == {
            "gathered": [0.0, 1.0],
            "gradient": 3.0,
            "several": [[0], [1]],
            "mean": 0.5,
            "max": 1,
            "said": "from 1",
            "any": True,
        }
        assert found["mine"] == rank, "each its own"
    written = kit.rows(folder + "/two/lightning_logs/version_1")
    assert "nowhere" not in {name for row in written for name in row}
    assert {row["mine"] for row in written if "mine" in row} == {"0.0"}


class Differing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log(f"loss of {self.global_rank}", 1.0, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)


def faulty(kind: str) -> None:
    module = {"names": Differing, "norm": Normed, "stream": Net}[kind]()
    data = DataLoader(kit.Stream(rows(4))) if kind == "stream" else loader(4, 1)
    kit.trainer(devices=2, sync_batchnorm=kind == "norm").fit(module, data)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("names", MetricsDiffer, "'loss of 0' .* was logged by process 0, and not by 1"),
        ("norm", Unsupported, "sync_batchnorm=True .* GPUs alone"),
        ("stream", Unsupported, "iterable dataset .*use_distributed_sampler=False"),
    ],
)
def test_what_cannot_be_is_a_named_error_on_both(kind: str, error: type[Exception], words: str) -> None:
    for outcome in outcomes_together(2, faulty, kind):
        with pytest.raises(error, match=words):
            raise outcome


class LoggedByOne(Net):
    """From the third batch on the second process has a value by which something decides, and the first has not."""

    def __init__(self, decides: str) -> None:
        super().__init__()
        self.decides = decides

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_rank and batch_idx > 1:
            self.log("value", 1.0)
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        configured = {"scheduler": plateau, "monitor": "value", "interval": "step", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": configured} if self.decides == "plateau" else optimizer

    def configure_callbacks(self) -> list[Any]:
        return {
            "checkpoint": [ModelCheckpoint(monitor="value", every_n_train_steps=1)],
            "name": [ModelCheckpoint(filename="{step}-{value}", every_n_train_steps=1)],
            "stopping": [EarlyStopping("value", strict=False, check_on_train_epoch_end=True)],
            "plateau": [],
        }[self.decides]


def decided_by_one(decides: str, folder: str) -> None:
    saves = decides in ("checkpoint", "name")
    options = {"default_root_dir": folder, "enable_checkpointing": saves}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        kit.trainer(devices=2, **options).fit(LoggedByOne(decides), loader(16, 2), loader(4, 1))


@pytest.mark.parametrize("decides", ["checkpoint", "name", "stopping", "plateau"])
def test_a_value_that_one_process_lacks_decides_nothing_and_is_named(decides: str, tmp_path: Path) -> None:
    _, second = outcomes_together(2, decided_by_one, decides, str(tmp_path))
    assert isinstance(second, MetricsDiffer), second
    assert "process 0 has logged no value of a step by the name of 'value'" in str(second)


def test_which_steps_may_skip_is_read_off_their_code() -> None:
    class Falls(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx:
                return self.layer(batch)

    class Shared(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.both(batch)

        def both(self, batch: Any) -> Any:
            return None if batch is None else batch

    class Sure(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.both(batch)

        def both(self, batch: Any) -> Any:
            self.log("a", 1.0)
            return batch.sum()

    class Wrapped(Net):
        training_step = functools.partialmethod(Net.training_step)  # type: ignore[assignment]  # as decorators may leave it

    def decorated(step: Any) -> Any:
        @functools.wraps(step)
        def wrapper(*args: Any) -> Any:
            return step(*args)

        return wrapper

    loss = torch.nn.MSELoss()

    class Enclosing(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return loss(self.layer(batch[0]), later)

    class SureBelow(Net):
        training_step = decorated(Sure.training_step)

    class SkipsBelow(Net):
        training_step = decorated(Skipping.training_step)

    class Opaque(Net):
        training_step = decorated(functools.partial(Net.training_step))

    may = (Falls, Shared, Wrapped, Skipping, SkipsBelow, Opaque)
    assert [made.__name__ for made in (*may, Sure, Net, Enclosing, SureBelow) if may_skip(made())] == [
        made.__name__ for made in may
    ]
    later = 0.0
