"""Guarantee 11: a step that raises, or whose loss is not finite, is kept, and fails the same way again."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
from kit import same, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset
from warm_python import python

import leyden
from leyden.crash.capsule import Capsule
from leyden.errors import CheckpointMissing, InvalidOption, InvalidType, LeydenWarning, NonFiniteLoss


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


def test_in_another_process(tmp_path: Path) -> None:
    error = fail(Failing(13), tmp_path, crash_capsule="weights")
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 1)]!r}
import leyden
from test_crash_capsule import Failing
try:
    leyden.replay({str(capsule_in(tmp_path))!r}, Failing(13))
except ArithmeticError as error:
    print(error)
"""
    done = python("-c", program)
    assert done.stdout.strip() == str(error), done.stderr


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


# -- the batch as it was, and whatever else the step drew from


class InPlace(leyden.LightningModule):
    """Changes its batch in place, and fails from the ``fails_at``-th step on with what it made of it in its text."""

    def __init__(self, fails_at: int, kind: str) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.fails_at, self.kind = fails_at, kind
        self.draws = [torch.Generator().manual_seed(3), np.random.default_rng(3), random.Random(3)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        changed = batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch, list) else batch
        changed += 1
        noise = float(torch.rand((), generator=self.draws[0])) + self.draws[1].random() + self.draws[2].random()
        if batch_idx >= self.fails_at:
            raise ArithmeticError(f"{float(changed.sum())!r} {noise!r} {float(torch.rand(()))!r}")
        return self.net(torch.as_tensor(changed)[:, :4]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


COLLATES: dict[str, Any] = {
    "tensor": lambda x: x,
    "list": lambda x: [x, None, "a name"],
    "dict": lambda x: {"x": x, "more": (1, {"deeper": x[:1]})},
    "array": lambda x: x.numpy(),
}


@pytest.mark.parametrize("kind", COLLATES)
@pytest.mark.parametrize(("fails_at", "columns"), [(0, 4), (3, 4), (70, 4), (70, 10_000)])
def test_the_batch_is_kept_as_it_was(tmp_path: Path, kind: str, fails_at: int, columns: int) -> None:
    data = DataLoader(
        kit.ones(80, columns).dataset, batch_size=1, collate_fn=lambda rows: COLLATES[kind](rows[0][0][None].clone())
    )
    with pytest.raises(ArithmeticError) as first:
        quiet(default_root_dir=tmp_path).fit(InPlace(fails_at, kind), data)
    for _ in range(2):
        module = InPlace(fails_at, kind)
        with pytest.raises(ArithmeticError) as again:
            leyden.replay(capsule_in(tmp_path), module)
        assert str(again.value) == str(first.value)
        assert module.draws[2].random() == random.Random(3).random()  # the module is as it was given


def test_a_change_that_nobody_could_foresee_is_said(tmp_path: Path) -> None:
    class Late(InPlace):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx < 60:
                return self.net(batch[:, :4]).square().mean()
            return super().training_step(batch, batch_idx)

    data = DataLoader(kit.ones(80, 10_000).dataset, batch_size=1, collate_fn=lambda rows: rows[0][0][None].clone())
    with pytest.raises(ArithmeticError):
        quiet(default_root_dir=tmp_path).fit(Late(60, "tensor"), data)
    with pytest.warns(leyden.errors.LeydenWarning, match="changed in place"), pytest.raises(ArithmeticError):
        leyden.replay(capsule_in(tmp_path), Late(60, "tensor"))


def test_a_batch_that_cannot_be_read_any_more_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which a kernel has failed answers nothing: the error that is raised is the step's own."""

    def refuse(*args: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Capsule, "_failed", refuse)
    with pytest.raises(ArithmeticError), pytest.warns(leyden.errors.LeydenWarning, match="could not be written.*device-side"):
        quiet(default_root_dir=tmp_path).fit(InPlace(1, "tensor"), kit.ones(80, 4))


class Own:
    """A batch as a graph library makes it."""

    def __init__(self, x: Any) -> None:
        self.x = x


SIZES: dict[str, Callable[[int], int]] = {
    "alike": lambda i: 50_000,
    "the first one small": lambda i: 50_000 if i else 10,
    "growing": lambda i: 10 * 2 ** min(i, 14),
    "small, and one large": lambda i: 500_000 if i == 30 else 10,
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("make", [Own, lambda x: x, lambda x: x.numpy(), lambda x: [x], lambda x: x[:1]])
def test_no_batch_is_held_longer_than_the_next_one_needs(tmp_path: Path, sizes: str, make: Any) -> None:
    """Also what is copied of them stays within a budget, whatever they are made of and however they grow."""
    alive: list[Any] = []
    most = [0, 0]

    class Looks(kit.Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            held = batch[0] if isinstance(batch, list) else batch
            alive.append(weakref.ref(held))
            capsule = self.trainer.leyden_fit.losses.capsule
            copies = sum(noted.batch.nbytes for noted in capsule.kept if hasattr(noted.batch, "nbytes"))
            most[:] = [max(most[0], sum(ref() is not None for ref in alive)), max(most[1], copies)]
            return self.layer(torch.ones(1, 2)).sum()

    data = DataLoader(range(120), batch_size=None, collate_fn=lambda i: make(torch.ones(SIZES[sizes](i))))
    quiet(default_root_dir=tmp_path, max_epochs=1).fit(Looks(), data)
    assert most[0] <= 2
    assert most[1] <= 256 * 2**10


@pytest.mark.parametrize("size", [4, 50_000])
def test_the_batch_of_a_bad_loss_is_the_right_one_or_none(tmp_path: Path, size: int) -> None:
    """Batch 60 is bad; it is seen 40 batches later, when a large one is gone."""

    class First(kit.Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 55 else self.layer(batch[:2]).sum()

    rows = torch.ones(120, size)
    rows[60] = float("nan")
    with pytest.raises(NonFiniteLoss):
        quiet(default_root_dir=tmp_path).fit(First(), DataLoader(rows, batch_size=None))
    stored = torch.load(capsule_in(tmp_path) / "capsule.ckpt", weights_only=True)
    assert stored["batch_idx"] == 60
    if size == 4:
        assert torch.isnan(stored["batch"]).all()
    else:
        with pytest.raises(InvalidType, match="the batch 60, which was let go of"):
            leyden.replay(capsule_in(tmp_path), First())
        loss = leyden.replay(capsule_in(tmp_path), First(), batch=rows[60])
        assert loss is not None
        assert torch.isnan(loss)


def test_a_step_is_run_again_where_it_failed(tmp_path: Path) -> None:
    """On the kind of device that it failed on, which may not be the one that a Trainer takes by itself."""
    fail(Failing(13), tmp_path)
    path = capsule_in(tmp_path) / "capsule.ckpt"
    capsule = torch.load(path, weights_only=True)
    assert capsule["device"] == "cpu"
    torch.save({**capsule, "device": "mps"}, path)
    with pytest.raises(ArithmeticError), pytest.warns(LeydenWarning, match=r"failed on mps, which is not here: bits may differ"):
        leyden.replay(path.parent, Failing(13))


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_no_batch_outlives_its_verb(verb: str) -> None:
    """Not even until the garbage collector runs: on a GPU it would hold memory that the next run needs."""
    alive: list[Any] = []

    class Looks(kit.Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            alive.append(weakref.ref(batch))
            return self.layer(batch).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return self.training_step(batch, batch_idx).detach()

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.training_step(batch, batch_idx).detach()

    run, module = kit.trainer(), Looks()
    loaders = [DataLoader(torch.rand(6, 2), batch_size=2)] * (2 if verb == "fit" else 1)
    getattr(run, verb)(module, *loaders)
    assert len(alive) >= 3
    assert not any(ref() is not None for ref in alive)
