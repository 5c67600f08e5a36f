"""Metrics as 0.9 to 1.4 made and called them: without a task, by names of then."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Iterator
from typing import Any

import kit
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden import notices
from leyden.errors import InvalidType
from leyden.testing import BoringModel

torchmetrics = pytest.importorskip("torchmetrics")
functional = importlib.import_module("leyden.metrics.functional")
metrics = importlib.import_module("leyden.metrics")


@pytest.fixture(autouse=True)
def nobody_waits_for_a_notice() -> Iterator[None]:
    yield
    notices.waiting.clear()


LABELS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12)


def value(found: Any) -> Any:
    return found.tolist()


@given(LABELS)
def test_counts_over_labels(pairs: list[tuple[int, int]]) -> None:
    preds, target = (torch.tensor(column) for column in zip(*pairs, strict=True))
    shares = torch.nn.functional.one_hot(preds, 3).float()
    right = (preds == target).float().mean()
    for given_preds in (preds, shares):
        assert value(functional.accuracy(given_preds, target)) == pytest.approx(float(right))
        assert value(metrics.Accuracy()(given_preds, target)) == pytest.approx(float(right))
        for name in ("Precision", "Recall", "F1", "FBeta"):
            assert value(getattr(metrics, name)()(given_preds, target)) == pytest.approx(float(right))
            today = getattr(torchmetrics, {"F1": "F1Score", "FBeta": "FBetaScore"}.get(name, name))
            more = {"beta": 1.0} if name == "FBeta" else {}
            expected = today(task="multiclass", num_classes=3, average="macro", **more)(preds, target)
            former = getattr(metrics, name)(num_classes=3, average="macro", **more)(given_preds, target)
            assert value(former) == pytest.approx(float(expected))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.integers(0, 1)), min_size=1, max_size=12))
def test_counts_over_shares_of_yes(pairs: list[tuple[float, int]]) -> None:
    preds, target = (torch.tensor(column) for column in zip(*pairs, strict=True))
    preds = preds + 0.01  # today's threshold is not reached by its own value
    for name, today in (("Accuracy", "Accuracy"), ("Precision", "Precision"), ("Recall", "Recall"), ("F1", "F1Score")):
        expected = getattr(torchmetrics, today)(task="binary")(preds, target)
        assert value(getattr(metrics, name)()(preds, target)) == pytest.approx(float(expected))
    expected = torchmetrics.FBetaScore(task="binary", beta=2.0)(preds, target)
    assert value(metrics.FBeta(beta=2.0)(preds, target)) == pytest.approx(float(expected))


def test_other_metrics_and_functions() -> None:
    preds, target = torch.tensor([1, 0, 2]), torch.tensor([1, 0, 1])
    table = [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert value(functional.confusion_matrix(preds, target)) == table
    assert value(metrics.ConfusionMatrix(num_classes=3)(preds, target)) == table
    assert value(functional.iou(preds, target)) == value(metrics.IoU(num_classes=3)(preds, target)) == 0.5
    shares = torch.tensor([0.1, 0.8, 0.3])
    assert (
        value(functional.auroc(shares, torch.tensor([0, 1, 0]))) == value(metrics.AUROC()(shares, torch.tensor([0, 1, 0]))) == 1
    )
    assert value(functional.accuracy(torch.eye(3), torch.tensor([0, 1, 0]), 3)) == pytest.approx(2 / 3)  # 0.9's second argument
    assert value(functional.f1_score(preds, target, num_classes=3, class_reduction="macro")) == pytest.approx(5 / 9)
    assert value(metrics.Accuracy(top_k=2)(torch.tensor([[0.5, 0.4, 0.1]]), torch.tensor([1]))) == 1
    assert value(metrics.Accuracy(subset_accuracy=True)(torch.tensor([[0.9, 0.1]]), torch.tensor([[1, 1]]))) == 0
    several = metrics.F1(num_classes=2, multilabel=True)(torch.tensor([[0.9, 0.1]]), torch.tensor([[1, 0]]))
    assert value(several) == 1
    assert issubclass(metrics.PSNR, torchmetrics.image.PeakSignalNoiseRatio)
    assert functional.mean_squared_error is torchmetrics.functional.mean_squared_error
    made = metrics.MeanSquaredError(compute_on_step=False)
    assert isinstance(made, torchmetrics.MeanSquaredError)
    assert isinstance(torchmetrics.MeanSquaredError(), metrics.MeanSquaredError)
    assert not isinstance(torchmetrics.MeanAbsoluteError(), metrics.MeanSquaredError)
    assert value(pickle.loads(pickle.dumps(made))(torch.tensor([1.0]), torch.tensor([3.0]))) == 4


def test_a_metric_of_one_s_own_may_say_when_it_computes() -> None:
    class Own(metrics.Metric):  # type: ignore[misc]  # found by its name
        def __init__(self) -> None:
            super().__init__(compute_on_step=False, dist_sync_on_step=False)

        def update(self) -> None:
            pass

        def compute(self) -> None:
            pass

    assert isinstance(Own(), torchmetrics.Metric)
    assert isinstance(torchmetrics.MeanMetric(), metrics.Metric)


@pytest.mark.parametrize("average", ["macro", "weighted", "none", None])
def test_an_average_over_classes_needs_their_number(average: Any) -> None:
    preds, target = torch.tensor([1, 0, 2]), torch.tensor([1, 0, 1])
    for name, function in (("Precision", "precision"), ("Recall", "recall"), ("F1", "f1"), ("Accuracy", "accuracy")):
        with pytest.raises(ValueError, match="num_classes="):
            getattr(metrics, name)(average=average)
        known = getattr(metrics, name)(num_classes=3, average=average)(preds, target)
        assert torch.equal(getattr(functional, function)(preds, target, average=average), known)


def test_todays_arguments_are_todays() -> None:
    preds, target = torch.tensor([1, 0, 2]), torch.tensor([1, 0, 1])
    assert type(metrics.Accuracy(task="multiclass", num_classes=3)).__name__ == "MulticlassAccuracy"
    assert type(metrics.F1Score("multiclass", num_classes=3)).__name__ == "MulticlassF1Score"
    assert value(functional.accuracy(preds, target, task="multiclass", num_classes=3)) == pytest.approx(2 / 3)
    assert issubclass(metrics.Accuracy, torchmetrics.Accuracy)


def test_they_are_copied_and_pickled() -> None:
    for made in (metrics.Accuracy(compute_on_step=False), metrics.F1()):
        made(torch.tensor([1]), torch.tensor([1]))
        assert value(copy.deepcopy(made).compute()) == value(pickle.loads(pickle.dumps(made)).compute()) == 1


def test_a_collection_names_them_as_then() -> None:
    made = [metrics.Accuracy(), metrics.Precision(num_classes=3, average="macro"), metrics.F1(), metrics.AUROC(num_classes=3)]
    together = pickle.loads(pickle.dumps(metrics.MetricCollection(made)))
    assert sorted(together(torch.eye(3), torch.arange(3))) == ["AUROC", "Accuracy", "F1", "Precision"]
    former = importlib.import_module("leyden.metrics.former")
    assert former.BinaryRecallAsRecall.__name__ == "Recall"
    for unknown in ("NobodyAsRecall", "BinaryRecall"):
        assert not hasattr(former, unknown)


def test_bad_input() -> None:
    with pytest.raises(InvalidType, match="predictions for a target of shape"):
        metrics.Accuracy()(torch.zeros(3), torch.zeros(4))
    for room in (metrics, functional):
        with pytest.raises(AttributeError, match="Nobody"):
            room.NobodyHadThis  # noqa: B018  # asked for
    with pytest.raises((TypeError, ValueError)):
        metrics.Accuracy(thresold=0.5)


def test_a_program_of_1_1_logs_them() -> None:
    class Classifier(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.accuracy = pl.metrics.Accuracy()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.log("val_acc", self.accuracy(x.softmax(-1), y), on_step=False, on_epoch=True)
            self.accuracy_of_epoch = self.accuracy
            self.log("val_acc_object", self.accuracy_of_epoch)

    data = DataLoader(TensorDataset(torch.eye(32)[:6], torch.tensor([0, 1, 2, 3, 0, 0])), batch_size=4)
    run = kit.trainer()
    run.fit(Classifier(), data, data)
    assert float(run.callback_metrics["val_acc"]) == pytest.approx(4 / 6)
    assert float(run.callback_metrics["val_acc_object"]) == pytest.approx(4 / 6)
