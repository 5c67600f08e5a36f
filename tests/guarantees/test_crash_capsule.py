"""Guarantee 11: a step that raises, or whose loss is not finite, is kept, and fails the same way again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import in_a_fresh_process, same, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.errors import CheckpointMissing, InvalidOption, InvalidType, NonFiniteLoss


class Rows(Dataset[torch.Tensor]):
    def __init__(self, poisoned: int | None = None) -> None:
        self.poisoned = poisoned

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), float("nan") if index == self.poisoned else index / 80)


class Failing(leyden.LightningModule):
    """Dropout makes every loss depend on the random state; ``fails_at`` raises with the loss in its text."""

    def __init__(self, fails_at: int | None = None, place: str = "forward") -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.fails_at, self.place = fails_at, place

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.net(batch).pow(2).mean()
        self.log("loss", loss)
        if batch_idx == self.fails_at and self.place == "forward":
            raise ArithmeticError(f"loss {loss.item()!r}")
        self.failing_now = batch_idx == self.fails_at
        return loss

    def on_after_backward(self) -> None:
        if self.failing_now and self.place == "backward":
            total = sum(float(p.grad.sum()) for p in self.parameters() if p.grad is not None)
            raise ArithmeticError(f"gradients {total!r}")

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.1)


quiet = partial(kit.trainer, max_epochs=2, logger=None, enable_checkpointing=None)


def capsule_in(folder: Path) -> Path:
    found = [path.parent for path in folder.rglob("capsule.ckpt")]
    assert len(found) == 1
    return found[0]


def fail(module: leyden.LightningModule, folder: Path, data: Rows | None = None, **options: Any) -> Exception:
    leyden.seed_everything(3, verbose=False)
    with pytest.raises((ArithmeticError, NonFiniteLoss)) as caught:
        quiet(default_root_dir=folder, **options).fit(module, DataLoader(data or Rows(), batch_size=4, shuffle=data is None))
    return caught.value


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_an_exception_is_reproduced_to_the_bit(tmp_path: Path, place: str) -> None:
    module = Failing(13, place)
    error = fail(module, tmp_path)
    torch.rand(7)  # the process has gone on
    for _ in range(2):
        with pytest.raises(ArithmeticError) as again:
            leyden.replay(capsule_in(tmp_path), module)
        assert str(again.value) == str(error)


def test_with_weights_any_instance_of_the_module_will_do(tmp_path: Path) -> None:
    error = fail(Failing(13), tmp_path, crash_capsule="weights")
    other = Failing(13)
    before = weights(other)
    with pytest.raises(ArithmeticError, match="loss") as again:
        leyden.replay(capsule_in(tmp_path), other)
    assert str(again.value) == str(error)
    assert same(before, weights(other))


def test_in_a_fresh_process(tmp_path: Path) -> None:
    error = fail(Failing(13), tmp_path, crash_capsule="weights")
    shown = in_a_fresh_process(f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 1)]!r}
        import leyden
        from test_crash_capsule import Failing
        try:
            leyden.replay({str(capsule_in(tmp_path))!r}, Failing(13))
        except ArithmeticError as error:
            print(error)
    """)
    assert shown.strip() == str(error)


def test_the_batch_of_a_loss_that_is_not_finite_is_found(tmp_path: Path) -> None:
    error = fail(module := Failing(), tmp_path, Rows(poisoned=26))
    assert "training batch 6 of this fit" in str(error)
    stored = torch.load(capsule_in(tmp_path) / "capsule.ckpt", weights_only=True)
    assert stored["batch_idx"] == 6
    assert torch.isnan(stored["batch"][2]).all()
    assert torch.isfinite(stored["batch"][:2]).all()
    loss = leyden.replay(capsule_in(tmp_path), module)
    assert loss is not None
    assert torch.isnan(loss)


def test_with_weights_a_bad_loss_is_seen_at_once(tmp_path: Path) -> None:
    fail(Failing(), tmp_path, Rows(poisoned=26), crash_capsule="weights")
    stored = torch.load(capsule_in(tmp_path) / "capsule.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in stored["weights"].values())
    loss = leyden.replay(capsule_in(tmp_path), Failing())
    assert loss is not None
    assert torch.isnan(loss)


def test_the_folder_tells_a_reader_what_happened(tmp_path: Path) -> None:
    fail(Failing(2), tmp_path)
    text = (capsule_in(tmp_path) / "traceback.txt").read_text()
    assert "ArithmeticError: loss" in text
    assert "in training_step" in text
    assert f"torch: {torch.__version__}" in text


def test_replaying_leaves_the_random_state_alone(tmp_path: Path) -> None:
    fail(module := Failing(2), tmp_path)
    torch.manual_seed(1)
    with pytest.raises(ArithmeticError):
        leyden.replay(capsule_in(tmp_path), module)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("options", [{"crash_capsule": False}, {"logger": False, "enable_checkpointing": False}])
def test_nothing_is_written_where_nothing_was_asked_for(tmp_path: Path, options: dict[str, Any]) -> None:
    fail(Failing(2), tmp_path, **options)
    assert not list(tmp_path.rglob("capsule.ckpt"))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="no crash capsule in"):
        leyden.replay(tmp_path, Failing())
    with pytest.raises(InvalidOption, match="crash_capsule='wieghts' cannot be used"):
        leyden.Trainer(crash_capsule="wieghts")
    fail(Failing(2), tmp_path)
    with pytest.raises(InvalidType, match="LightningModule whose step failed"):
        leyden.replay(capsule_in(tmp_path), nn.Linear(1, 1))  # type: ignore[arg-type]  # on purpose
