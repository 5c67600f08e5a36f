"""A run that is cut in the middle of a validation and goes on there ends with the values of one that was never cut."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn

from leyden.metrics.metric_objects import state_of
from leyden.metrics.metrics import AskedLog, Metrics

STEP_AND_EPOCH: AskedLog = (True, None, True, True, "mean", True, False, False)
EPOCH: AskedLog = (False, None, False, True, "mean", True, False, False)


class Net(nn.Module):
    """Metrics of training alone, of validation alone, of both, and one that holds another."""

    def __init__(self) -> None:
        super().__init__()
        self.train_mean = torchmetrics.MeanMetric()
        self.val_all = torchmetrics.CatMetric()
        self.both = torchmetrics.MeanMetric()
        self.range = torchmetrics.MinMaxMetric(torchmetrics.MeanMetric())


class Story:
    """Two training batches, a validation of two loaders, a training batch: what is said to ``metrics``, one thing at a time."""

    def __init__(self) -> None:
        self.net = Net()
        self.place = SimpleNamespace(where=None)
        self.metrics = Metrics()
        self.metrics.begin(self.place, self.net)
        self.seen: list[Any] = []

    def train_batch(self, value: float) -> None:
        metrics, net = self.metrics, self.net
        metrics.batch, metrics.size = torch.zeros(2), None
        self.place.where = "training_step"
        metrics.log("loss", torch.tensor(value), STEP_AND_EPOCH, None)
        net.train_mean.update(value)
        net.both(value)
        net.range.update(value)
        metrics.log("t", net.train_mean, EPOCH, None)
        metrics.log("b", net.both, STEP_AND_EPOCH, None)
        metrics.log("r", 2 * value, (False, None, False, True, "max", True, False, False), None)

    def val_batch(self, loader: int, value: float) -> None:
        metrics, net = self.metrics, self.net
        metrics.at(torch.zeros(1 + loader), loader, lambda: None)
        self.place.where = "validation_step"
        metrics.log("loss", value, STEP_AND_EPOCH, None)
        net.both.update(value)
        net.val_all.update(value)
        net.range.update(value)
        metrics.log("vb", net.both, EPOCH, None)
        self.look(metrics.step_row())

    def look(self, *more: Any) -> None:
        self.seen.append((plain(self.metrics.callback()), plain(self.metrics.logged()), self.metrics.bar(), *map(plain, more)))

    def before(self) -> None:
        self.metrics.start_epoch("train")
        self.metrics.start_batches(lambda: None)
        self.train_batch(1.0)
        self.train_batch(4.0)

    def validation(self) -> Iterator[Callable[[], Any]]:
        """The first only where nothing was said yet."""
        metrics = self.metrics
        yield lambda: metrics.start_epoch("val")
        for loader, values in enumerate([[10.0, 20.0], [30.0, 50.0, 70.0]]):
            for value in values:
                yield lambda loader=loader, value=value: self.val_batch(loader, value)
            yield lambda loader=loader, values=values: metrics.end_loader(loader, len(values))
        yield lambda: metrics.end_batches()
        yield lambda: self.end_hook()
        yield lambda: metrics.close()
        yield lambda: self.look(metrics.epoch_row(), metrics.epoch_results(0), metrics.epoch_results(1))

    def end_hook(self) -> None:
        self.place.where = "on_validation_epoch_end"
        self.metrics.log("all", float(self.net.val_all.compute().sum()), EPOCH, None)
        self.look()

    def after(self) -> None:
        metrics = self.metrics
        metrics.leave("train")
        self.train_batch(7.0)
        self.look(metrics.step_row())
        metrics.end_batches()
        metrics.close()
        self.look(metrics.epoch_row())
        self.seen.append({name: value.item() for name, value in self.net.range.compute().items()})
        metrics.end_epoch()


def plain(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def saved(story: Story) -> Any:
    """As a checkpoint has it."""
    objects = {
        name: story.metrics.set_aside(child) or state_of(child)
        for name, child in story.net.named_modules()
        if hasattr(child, "_defaults")
    }
    file = io.BytesIO()
    torch.save((story.metrics.state_dict(), objects), file)
    file.seek(0)
    with torch.inference_mode(False):  # where a run reads it, too
        return torch.load(file, weights_only=True)


def resumed(state: Any) -> Story:
    metrics_state, objects = state
    story = Story()
    story.metrics.load_state_dict(metrics_state)
    for name, kept in objects.items():
        part: Any = story.net.get_submodule(name)
        for key, value in kept["states"].items():
            setattr(part, key, value)
        part._update_count, part._forward_cache = kept["updates"], kept["forward"]
    story.metrics.enter("train")
    return story


LENGTH = len(list(Story().validation()))


@pytest.mark.parametrize("cut", range(1, LENGTH))
def test_a_validation_goes_on_where_it_was_cut(cut: int) -> None:
    whole = Story()
    whole.before()
    state: Any = None
    before = 0
    with torch.inference_mode():
        for at, event in enumerate(whole.validation()):
            if at == cut:
                state, before = saved(whole), len(whole.seen)
            event()
    whole.after()
    again = resumed(state)
    with torch.inference_mode():
        assert again.metrics.reenter("val")
        for at, event in enumerate(again.validation()):
            if at >= cut:
                event()
    again.after()
    assert again.seen == whole.seen[before:]
    assert whole.seen[-2][2]["b_step"] == 7.0


def test_what_was_not_cut_in_that_stage_is_begun_anew() -> None:
    story = Story()
    story.before()
    again = resumed(saved(story))
    assert not again.metrics.reenter("val")
    assert not Story().metrics.reenter("val")


def test_a_file_of_0_1_0_says_nothing_of_a_running_stage() -> None:
    story = Story()
    story.before()
    state, objects = saved(story)
    del state["running"]
    for entries in state["collections"].values():
        for entry in entries:
            del entry["read"]
    again = resumed((state, objects))
    assert not again.metrics.reenter("val")
    again.metrics.start_batches(lambda: None)
    again.train_batch(7.0)
    again.metrics.end_batches()
    assert plain(again.metrics.epoch_row()) == {"loss_epoch": 4.0, "t": 4.0, "b_epoch": 4.0, "r": 14.0}
