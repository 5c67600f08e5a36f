"""Metrics as programs of 0.9 to 1.4 make and call them, without today's ``task``. Imported where torchmetrics is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torchmetrics
import torchmetrics.classification
import torchmetrics.image
import torchmetrics.text
from torch import Tensor
from torchmetrics import functional

from leyden.errors import InvalidOption, InvalidType
from leyden.notices import notice

RENAMED = {
    "F1": "F1Score",
    "FBeta": "FBetaScore",
    "IoU": "JaccardIndex",
    "MatthewsCorrcoef": "MatthewsCorrCoef",
    "PearsonCorrcoef": "PearsonCorrCoef",
    "PSNR": "PeakSignalNoiseRatio",
    "SpearmanCorrcoef": "SpearmanCorrCoef",
    "SSIM": "StructuralSimilarityIndexMeasure",
    "WER": "WordErrorRate",
}
"""A class's name of then: torchmetrics' of today."""
TASKS = {
    *("Accuracy", "Precision", "Recall", "F1Score", "FBetaScore", "StatScores", "AUROC", "ROC", "AveragePrecision"),
    *("PrecisionRecallCurve", "ConfusionMatrix", "JaccardIndex", "HammingDistance", "CohenKappa", "MatthewsCorrCoef"),
}
"""Classes of today that ask for a task."""
FUNCTIONS = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "average_precision": "AveragePrecision",
    "cohen_kappa": "CohenKappa",
    "confusion_matrix": "ConfusionMatrix",
    "f1": "F1Score",
    "f1_score": "F1Score",
    "fbeta": "FBetaScore",
    "fbeta_score": "FBetaScore",
    "hamming_distance": "HammingDistance",
    "iou": "JaccardIndex",
    "matthews_corrcoef": "MatthewsCorrCoef",
    "precision": "Precision",
    "precision_recall_curve": "PrecisionRecallCurve",
    "recall": "Recall",
    "roc": "ROC",
    "stat_scores": "StatScores",
}
"""A function of then: the class of today that counts what it does."""
RENAMED_FUNCTIONS = {
    "psnr": "peak_signal_noise_ratio",
    "spearman_corrcoef": "spearman_corrcoef",
    "ssim": "structural_similarity_index_measure",
    "wer": "word_error_rate",
}
_FIRST = {"Accuracy": "threshold", "HammingDistance": "threshold"}
_COUNTED = ("Precision", "Recall", "F1Score", "FBetaScore")
_NO_MEANING = ("compute_on_step", "is_multiclass", "multiclass", "pos_label", "mdmc_average", "mdmc_reduce")


def hits(preds: Tensor, target: Tensor, threshold: float, top_k: int | None = None) -> tuple[Tensor, Tensor]:
    """What was predicted, made like ``target``: labels as they are; of shares for each class (second dimension) the largest; of
    one share for each sample whether it reaches ``threshold``. Of the ``top_k`` largest the one that is right, if one is.

    Raises :class:`InvalidType` where the shapes do not fit.
    """
    if preds.ndim == target.ndim + 1:
        if top_k is None or top_k == 1:
            return preds.argmax(dim=1), target
        best = preds.topk(top_k, dim=1).indices
        right = (best == target.unsqueeze(1)).any(dim=1)
        return torch.where(right, target, best[:, 0]), target
    if preds.shape != target.shape:
        raise InvalidType(
            "preds",
            preds,
            f"predictions for a target of shape {tuple(target.shape)}, or those with the classes as second dimension",
        )
    return ((preds >= threshold).long() if preds.is_floating_point() else preds), target


class Accuracy(torchmetrics.Metric):
    """The share of predictions that are right: labels, shares for each class, or shares for each of several labels.

    Args:
        threshold: From which on a share counts as "yes", where predictions have the target's shape.
        top_k: How many of the largest shares may be the right one.
        subset_accuracy: Whether a sample with several labels, or several positions, is right only as a whole.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, threshold: float = 0.5, top_k: int | None = None, subset_accuracy: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold, self.top_k, self.subset_accuracy = threshold, top_k, subset_accuracy
        self.add_state("correct", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        preds, target = hits(preds, target, self.threshold, self.top_k)
        right = preds == target
        if self.subset_accuracy and right.ndim > 1:
            right = right.flatten(1).all(dim=1)
        self.correct += right.sum()
        self.total += right.numel()

    def compute(self) -> Tensor:
        return self.correct.float() / self.total


class Counted(torchmetrics.Metric):
    """Precision, recall or their weighted harmonic mean over all samples at once, without being told how many classes there are.

    Args:
        kind: Today's name of what is counted.
        beta: How much more recall weighs than precision.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    both: Tensor
    predicted: Tensor
    true: Tensor

    def __init__(self, kind: str, threshold: float = 0.5, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.threshold, self.beta = kind, threshold, beta
        for name in ("both", "predicted", "true"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        shares_of_yes = preds.shape == target.shape and preds.is_floating_point()
        preds, target = hits(preds, target, self.threshold)
        if shares_of_yes:
            self.both += (preds * target).long().sum()
            self.predicted += preds.sum()
            self.true += target.long().sum()
        else:
            self.both += (preds == target).sum()
            self.predicted += target.numel()
            self.true += target.numel()

    def compute(self) -> Tensor:
        both, predicted, true = self.both.float(), self.predicted.float(), self.true.float()
        weight = {"Precision": 0.0, "Recall": None}.get(self.kind, self.beta**2)
        whole = true if weight is None else weight * true + predicted
        return torch.where(
            whole > 0, (1 if weight is None else 1 + weight) * both / whole.clamp(min=1e-12), torch.zeros_like(both)
        )


def _made(name: str, args: tuple[Any, ...], given: dict[str, Any]) -> torchmetrics.Metric:
    """The metric that torchmetrics calls ``name``, from arguments of then or of today."""
    todays = getattr(torchmetrics, name)
    if "task" in given or (args and isinstance(args[0], str)):
        made: torchmetrics.Metric = todays(*args, **given)
        return made
    order = [_FIRST.get(name, "num_classes"), *(["beta"] if name == "FBetaScore" else []), "threshold", "average"]
    given = {**dict(zip(order, args, strict=False)), **given}
    for word in _NO_MEANING:
        given.pop(word, None)
    if "class_reduction" in given:  # 0.9's word
        given["average"] = given.pop("class_reduction")
    several, classes = given.pop("multilabel", False), given.pop("num_classes", None)
    average = given.get("average", "micro")
    if several:
        return todays(task="multilabel", num_labels=classes, **given)  # type: ignore[no-any-return]  # chosen by its name
    if classes is not None and classes > 1 and not (name == "Accuracy" and average == "micro"):
        given.pop("threshold", None)
        return todays(task="multiclass", num_classes=classes, **given)  # type: ignore[no-any-return]  # chosen by its name
    if classes is None and average != "micro" and name in ("Accuracy", *_COUNTED):
        raise InvalidOption(
            "average", average, f"'micro', or num_classes= beside it: {name} has to know of how many classes it takes the average"
        )
    if name == "Accuracy":
        given.pop("average", None)
        return Accuracy(**given)
    if name in _COUNTED and average in ("micro", None):
        given.pop("average", None)
        return Counted(name, **given)
    given.pop("average", None)
    return todays(task="binary", **given)  # type: ignore[no-any-return]  # chosen by its name


_AS = "As"


@functools.cache
def _called(kind: str, name: str) -> type:
    """The class ``kind``, of torchmetrics or of this file, called ``name``: a MetricCollection names its values by that."""
    cls = globals().get(kind) or getattr(torchmetrics.classification, kind)
    return type(name, (cls,), {"__module__": __name__, "__qualname__": f"{kind}{_AS}{name}", "__doc__": cls.__doc__})


def __getattr__(name: str) -> Any:
    """By such a name pickle finds one of these classes."""
    kind, _, called = name.partition(_AS)
    if called and (kind in globals() or hasattr(torchmetrics.classification, kind)):
        return _called(kind, called)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def former_class(name: str) -> Any:
    """What ``leyden.metrics`` has under ``name``: torchmetrics' class, that also takes the arguments of then."""
    today = RENAMED.get(name, name)
    try:
        # the room's own first: what the package has of the same name warns
        todays = (
            getattr(torchmetrics.image, today, None) or getattr(torchmetrics.text, today, None) or getattr(torchmetrics, today)
        )
    except AttributeError:
        raise AttributeError(f"module 'torchmetrics' has no attribute {today!r}") from None
    if today not in TASKS:
        return _as_then(name, todays) if issubclass(todays, torchmetrics.Metric) else todays

    def new(cls: type, *args: Any, **kwargs: Any) -> torchmetrics.Metric:
        made = _made(today, args, kwargs)
        if "task" not in kwargs and not (args and isinstance(args[0], str)) and type(made).__name__ != name:
            made.__class__ = _called(type(made).__name__, name)
        return made

    return type(name, (todays,), {"__new__": new, "__module__": "leyden.metrics", "__doc__": todays.__doc__})


def _as_then(name: str, todays: type) -> type:
    """torchmetrics' class ``todays``, which takes ``compute_on_step`` too. Whatever is one of ``todays`` is one of it."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.pop("compute_on_step", None) is not None:
            notice(f"{name}(compute_on_step=...)", "no word: call metric.update(...) where the value is not wanted")
        todays.__init__(self, *args, **kwargs)  # type: ignore[misc]  # the class's own, whatever a subclass's is

    def covers(cls: type, other: type) -> Any:
        return todays in other.__mro__ if cls is made else NotImplemented

    attributes = {"__init__": functools.wraps(todays.__init__)(init), "__module__": "leyden.metrics", "__doc__": todays.__doc__}  # type: ignore[misc]  # as above
    made = type(todays)(todays.__name__, (todays,), {**attributes, "__subclasshook__": classmethod(covers)})
    return made


@functools.cache
def former_function(name: str) -> Callable[..., Any]:
    """What ``leyden.metrics.functional`` has under ``name``: torchmetrics' function, that also takes the arguments of then."""
    todays: Callable[..., Any] | None = getattr(functional, RENAMED_FUNCTIONS.get(name, name), None)
    if name not in FUNCTIONS:
        if todays is None:
            raise AttributeError(f"module 'torchmetrics.functional' has no attribute {name!r}")
        return todays

    def former(preds: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
        if "task" in kwargs or (args and isinstance(args[0], str)):
            assert todays is not None
            return todays(preds, target, *args, **kwargs)
        kind = FUNCTIONS[name]
        if kind == "Accuracy" and args and isinstance(args[0], int):  # 0.9's second one
            kwargs["num_classes"], args = args[0], args[1:]
        shares_of_yes = preds.shape == target.shape and preds.is_floating_point()
        whole = kind in ("Accuracy", *_COUNTED) and not {"average", "class_reduction"} & kwargs.keys()
        if kwargs.get("num_classes") is None and not shares_of_yes and not args and not whole:
            most = preds.shape[1] if preds.ndim > target.ndim else int(torch.max(preds.max(), target.max())) + 1
            if most > 2 or kind in ("ConfusionMatrix", "JaccardIndex", "CohenKappa", "MatthewsCorrCoef"):
                kwargs["num_classes"] = max(2, most)
        return _made(kind, args, kwargs)(preds, target)

    former.__name__, former.__doc__ = name, inspect.getdoc(todays)
    return former
