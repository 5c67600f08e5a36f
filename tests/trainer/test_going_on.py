"""Going on in the same process: limits that are set on the fit loop after a fit let the next one continue it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.errors import LeydenWarning
from leyden.loggers import CSVLogger

DATA = torch.randn(24, 4, generator=torch.Generator().manual_seed(3))


def loaders() -> tuple[Any, Any]:
    return DataLoader(DATA, 4, shuffle=True), DataLoader(DATA, 8)  # type: ignore[arg-type]


class Net(kit.Net):
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []
        self.configured = 0

    def on_train_epoch_start(self) -> None:
        self.epochs.append(self.current_epoch)

    def configure_optimizers(self) -> Any:
        self.configured += 1
        return super().configure_optimizers()


def run(*callbacks: Any, **options: Any) -> leyden.Trainer:
    leyden.seed_everything(1)
    return kit.trainer(*callbacks, **options)


@pytest.mark.parametrize(
    ("first", "then", "whole"),
    [
        ({"max_epochs": 2}, {"max_epochs": 4}, {"max_epochs": 4}),
        ({"max_epochs": 2}, {"max_epochs": -1, "max_steps": 20}, {"max_epochs": -1, "max_steps": 20}),
        ({"max_epochs": -1, "max_steps": 8}, {"max_steps": 15}, {"max_epochs": -1, "max_steps": 15}),
        ({"max_epochs": 9, "max_steps": 8}, {"max_epochs": 3, "max_steps": None}, {"max_epochs": 3}),
        ({"max_epochs": 1, "accumulate_grad_batches": 4}, {"max_epochs": 2}, {"max_epochs": 2, "accumulate_grad_batches": 4}),
    ],
)
def test_it_has_the_bits_of_one_fit(first: Any, then: Any, whole: Any) -> None:
    trainer = run(**first)
    net = Net()
    trainer.fit(net, *loaders())
    (optimizer,) = trainer.optimizers
    torch.rand(7)  # a notebook's other cells
    trainer.validate(net, DataLoader(DATA, 3))  # type: ignore[arg-type]
    for name, limit in then.items():
        setattr(trainer.fit_loop.epoch_loop if name == "max_steps" else trainer.fit_loop, name, limit)
    trainer.fit(net, *loaders())
    other, once = run(**whole), Net()
    other.fit(once, *loaders())
    assert kit.same(kit.weights(once), kit.weights(net))
    assert (trainer.global_step, trainer.current_epoch) == (other.global_step, other.current_epoch)
    assert net.configured == 1
    assert trainer.optimizers[0] is optimizer
    assert net.epochs == once.epochs


def test_a_plain_second_fit_starts_afresh() -> None:
    trainer, net = run(max_epochs=1), Net()
    trainer.fit(net, *loaders())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(net, *loaders())
    trainer.fit(net, *loaders())
    assert net.epochs == [0, 1, 0, 1]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(Net(), *loaders())  # another module
    trainer.fit(net, *loaders())
    assert net.epochs == [0, 1, 0, 1, 0, 1, 2]


def test_limits_that_are_set_before_or_inside_a_fit_are_only_limits() -> None:
    def more(trainer: Any, *_: Any) -> None:
        trainer.fit_loop.max_epochs = 2

    trainer, net = run(leyden.testing.Recorder(on_train_start=more), max_epochs=1), Net()
    trainer.fit_loop.max_epochs = 1
    trainer.fit(net, *loaders())
    trainer.fit(net, *loaders())
    assert net.epochs == [0, 1, 0, 1]


def test_lower_limits_train_nothing() -> None:
    trainer, net = run(max_epochs=2), Net()
    trainer.fit(net, *loaders())
    before = kit.weights(net)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(net, *loaders())
    assert net.epochs == [0, 1]
    assert kit.same(before, kit.weights(net))


def test_callbacks_and_loggers_go_on(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_loss", patience=50)
    writer = ModelCheckpoint(tmp_path / "kept", monitor="val_loss", save_top_k=-1, save_last=True)
    options: dict[str, Any] = {"logger": CSVLogger(tmp_path), "enable_checkpointing": True, "log_every_n_steps": 2}
    trainer, net = run(stopping, writer, max_epochs=2, **options), Net()
    trainer.fit(net, *loaders())
    best = float(stopping.best_score)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(net, *loaders())
    assert float(stopping.best_score) <= best
    assert len(writer.best_k_models) == 4
    rows = kit.rows(trainer.log_dir)
    assert [row["epoch"] for row in rows if "val_loss" in row] == ["0", "1", "2", "3"]
    assert [row["step"] for row in rows if "loss" in row] == [str(step) for step in range(1, 24, 2)]


def test_parameters_that_were_replaced_are_trained_by_optimizers_of_their_own() -> None:
    trainer, net = run(max_epochs=1), Net()
    trainer.fit(net, *loaders())
    name, old = next((name, child) for name, child in net.named_modules() if isinstance(child, torch.nn.Linear))
    head = torch.nn.Linear(old.in_features, old.out_features)
    net.set_submodule(name, head)
    before = head.weight.detach().clone()
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(LeydenWarning, match="Parameters of Net were replaced since the last fit"):
        trainer.fit(net, *loaders())
    assert net.epochs == [0, 1]
    assert net.configured == 2
    assert not torch.equal(before, head.weight)


def test_after_a_fit_that_failed_it_starts_afresh() -> None:
    trainer, net = run(kit.at_batch(8, _crash), max_epochs=2), Net()
    with pytest.raises(kit.Crash):
        trainer.fit(net, *loaders())
    trainer.fit_loop.max_epochs = 1
    trainer.fit(net, *loaders())
    assert net.epochs == [0, 1, 0]


def _crash() -> None:
    raise kit.Crash
