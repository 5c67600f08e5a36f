"""What an epoch has collected in attributes is there after a cut inside it; what counts over all epochs is the user's own."""

from __future__ import annotations

from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import leyden
from leyden.checkpoint.collected import collected_by, put_collected, set_anew
from leyden.testing import random_batches


def quietly(function: Any) -> Any:
    @wraps(function)
    def run(*args: Any) -> Any:
        return function(*args)

    return run


class Outputs(kit.Tiny):
    """The list of an epoch's outputs, made in ``__init__`` and emptied at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.outputs: list[Any] = []
        self.ends: list[int] = []
        self.told = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.layer(batch).square().mean()
        self.collect(loss, batch)
        return loss

    def collect(self, loss: Tensor, batch: Tensor) -> None:
        self.outputs.append(loss)

    def mean(self) -> Any:
        return torch.stack(self.outputs).mean()

    def on_train_epoch_end(self) -> None:
        self.log("mean", self.mean())
        self.outputs.clear()
        self.ends.append(self.current_epoch)
        self.told += 1


class MadeAtTheStart(Outputs):
    @quietly
    def on_train_epoch_start(self) -> None:
        self.outputs = []

    def on_train_epoch_end(self) -> None:
        self.log("mean", self.mean())


class ByAMethodOfItsOwn(Outputs):
    def begin_anew(self) -> None:
        self.right, self.of, self.by_size = 0, 0.0, {"rows": ()}

    def collect(self, loss: Tensor, batch: Tensor) -> None:
        self.right += int((batch > 0).sum())
        self.of += loss.item()
        self.by_size["rows"] = (*self.by_size["rows"], batch.sum())

    def on_train_epoch_start(self) -> None:
        self.begin_anew()

    def on_train_epoch_end(self) -> None:
        self.log("mean", self.right / (1 + self.of) + sum(self.by_size["rows"]))


class Named(Outputs):
    """A text that each epoch's start sets."""

    def on_train_epoch_start(self) -> None:
        self.phase = "warm" if self.current_epoch < 1 else "cold"

    def collect(self, loss: Tensor, batch: Tensor) -> None:
        self.log("mean", {"warm": 1.0, "cold": 2.0}[self.phase] * loss, on_epoch=True, on_step=False)

    def on_train_epoch_end(self) -> None:
        pass


class Collects(leyden.Callback):
    def on_train_epoch_start(self, trainer: leyden.Trainer, pl_module: leyden.LightningModule) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())

    def on_train_epoch_end(self, trainer: leyden.Trainer, pl_module: leyden.LightningModule) -> None:
        pl_module.log("by callback", sum(self.losses) / len(self.losses))


def fitted(kind: type[Outputs], path: Path, cut: int | None = None, resume: bool = False) -> tuple[Outputs, list[Any]]:
    leyden.seed_everything(0)
    module = kind()

    def stop() -> None:
        run.save_checkpoint(path)
        raise kit.Crash

    callbacks = [Collects(), Collects(), *([] if cut is None else [kit.at_batch(cut, stop)])]
    run = kit.trainer(*callbacks, max_epochs=2)
    data: Any = torch.randn(80, 4, generator=torch.Generator().manual_seed(5))
    with suppress(kit.Crash):
        run.fit(module, DataLoader(data, 4), ckpt_path=path if resume else None)
    return module, run.leyden_fit.history


@pytest.mark.parametrize("kind", [Outputs, MadeAtTheStart, ByAMethodOfItsOwn, Named])
def test_a_run_that_was_cut_inside_an_epoch(kind: type[Outputs], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    _, whole = fitted(kind, path)
    assert len(whole) == 2
    assert {"mean", "by callback"} <= whole[0].keys()
    for cut in (3, 19, 23):  # in the first epoch, at its last batch, in the second one
        fitted(kind, path, cut=cut)
        module, history = fitted(kind, path, resume=True)
        assert history == whole, cut
        if kind is Outputs:  # those are of this process alone
            assert (module.ends, module.told) == ([0, 1][cut // 20 :], 2 - cut // 20)


def test_what_is_set_anew() -> None:
    assert {"outputs"} <= set_anew(Outputs)
    assert not {"ends", "told", "layer"} & set_anew(Outputs)
    assert {"right", "of", "by_size"} <= set_anew(ByAMethodOfItsOwn)
    assert set_anew(leyden.LightningModule) == set_anew(leyden.Callback) == frozenset()


def test_what_no_file_can_hold_or_nobody_sets_today_is_left_as_it_is() -> None:
    class Holds(leyden.LightningModule):
        def on_train_epoch_start(self) -> None:
            self.held: Any = None
            self.gone = 1

    class HoldsLess(leyden.LightningModule):
        def on_train_epoch_start(self) -> None:
            self.held: Any = None

    module, other = Holds(), HoldsLess()
    other.held = "own"
    for value in (print, [object()], {(1, 2): 3}, {"a": partial(print)}, torch.ones(2).to_sparse()):
        module.held = value
        assert collected_by(module, []) == {}
    module.held, module.gone = [torch.ones(1, requires_grad=True)], 1
    state = collected_by(module, [])
    put_collected(state, other, [Collects()])
    assert (other.held, hasattr(other, "gone")) == ([torch.ones(1)], False)
    assert not other.held[0].requires_grad


def tree() -> dict[str, Any]:
    """A tree whose children know their parent."""
    root: dict[str, Any] = {"weight": 0.5, "children": []}
    root["children"].append({"weight": 0.25, "parent": root})
    return root


class Tree(kit.Net):
    """Holds one from the beginning, makes another in each epoch, and one in each step."""

    def __init__(self, given: Any = None) -> None:
        super().__init__()
        self.held, self.begun, self.made = given or tree(), None, None

    def on_train_epoch_start(self) -> None:
        self.begun = tree()

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.made = tree()
        return super().training_step(batch, batch_idx)


def test_what_holds_itself_costs_no_run(tmp_path: Path) -> None:
    batches, path = (random_batches(4, 2, 4), random_batches(2, 2, 4)), tmp_path / "cut.ckpt"
    kit.fit(Tree(tree()), *batches)
    first = kit.trainer(kit.at_batch(1, lambda: first.save_checkpoint(path)))
    first.fit(Tree(), *batches)
    resumed = kit.trainer()
    resumed.fit(module := Tree(), *batches, ckpt_path=path)
    assert (resumed.global_step, module.held["children"][0]["parent"] is module.held) == (4, True)
