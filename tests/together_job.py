"""A job whose features are drawn at random, that is broken off at random hooks and given again until it ends.

The guarantee's test (test_features_together.py) draws a few, the soak (benchmarks/soak_together.py) as many as it is told.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from kit import Crash, Unsynced
from real_processes import outcomes_together
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

import leyden
from leyden.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.hooks import HOOK_NAMES
from leyden.loggers import CSVLogger

Features = dict[str, Any]
Breaks = Sequence[tuple[int, str]]
"""At which hook of each try, and how."""

FEATURES: dict[str, Sequence[Any]] = {
    # what trains
    "batch_norm": (False, True),
    "dropout": (0.0, 0.3),
    "manual": (False, False, False, True),
    "optimizer": ("SGD", "AdamW", "RMSprop"),
    "groups": (1, 2),
    "schedule": (None, "step", "every other step", "epoch", "plateau", "one cycle", "sequence"),
    "skips": (False, False, False, False, True),
    "returns_dict": (False, True),
    # what is logged
    "on_step": (False, True),
    "reduce_fx": ("mean", "sum", "max"),
    "torchmetrics": (False, True),
    "collects": (False, True),
    "validation_draws": (False, True),
    # data
    "data": ("rows", "rows", "stream", "tensors", "weighted", "subset", "list", "dict"),
    "noise": (None, "torch", "numpy", "python"),
    "samples": (20, 23),
    "batch_size": (3, 5),
    "shuffle": (False, True),
    "drop_last": (False, True),
    # callbacks
    "checkpoints": ("every step", "every third step", "best by step", "best by epoch", "all", "plain"),
    "rewrites": (None, None, "EMA", "SWA", "pruning"),
    "finetuning": (False, False, True),
    "accumulation_schedule": (False, False, True),
    "early_stopping": (False, True),
    "rates": (False, True),
    # the Trainer
    "max_epochs": (2, 3),
    "max_steps": (-1, -1, 9),
    "accumulate_grad_batches": (1, 2, 3),
    "gradient_clip_val": (None, 0.1),
    "val_check_interval": (1.0, 0.5, 2),
    "check_val_every_n_epoch": (1, 2),
    "limit_val_batches": (1.0, 0, 2),
    "limit_train_batches": (1.0, 4, 0.6),
    "precision": ("32-true", "64-true", "bf16-mixed", "bf16-true"),
    "log_every_n_steps": (1, 2, 3),
    "reload_dataloaders_every_n_epochs": (0, 0, 1),
    "num_sanity_val_steps": (0, 2),
    "overfit_batches": (0, 0, 0, 3),
    "deterministic": (False, True),
}
"""Each, with what it may be; what is named twice comes twice as often."""
OF_TRAINER = list(FEATURES)[list(FEATURES).index("max_epochs") :]
ENDS = ("exception", "SIGTERM", "Ctrl-C")


# -- data


class Rows(Dataset[Any]):
    def __init__(self, samples: int, noise: str | None = None) -> None:
        self.samples, self.noise = samples, noise

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = {"torch": lambda: torch.rand(4), "numpy": lambda: torch.tensor(np.random.rand(4)), "python": random.random}
        drawn: Any = draw[self.noise]() if self.noise else 0.0
        return (index / self.samples + torch.arange(4.0) / 4 + 0.1 * drawn).float(), torch.tensor([float(index % 3)])


class Stream(IterableDataset[Any]):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return (self.rows[index] for index in range(len(self.rows)))


def training_data(features: Features) -> Any:
    samples, rows = features["samples"], Rows(features["samples"], features["noise"])
    how: dict[str, Any] = {"batch_size": features["batch_size"], "drop_last": features["drop_last"]}
    shuffled = {**how, "shuffle": features["shuffle"]}
    generator = torch.Generator().manual_seed(5)
    match features["data"]:
        case "stream":
            return DataLoader(Stream(rows), **how)
        case "tensors":
            return DataLoader(TensorDataset(torch.rand(samples, 4, generator=generator), torch.ones(samples, 1)), **shuffled)
        case "weighted":
            return DataLoader(rows, sampler=WeightedRandomSampler([1.0] * samples, samples), **how)
        case "subset":
            return DataLoader(Subset(rows, range(samples - 3)), generator=generator, **shuffled)
        case "list":
            return [DataLoader(rows, **shuffled), DataLoader(Rows(9), 2)]
        case "dict":
            return {"a": DataLoader(rows, **shuffled), "b": DataLoader(Rows(40), 2, shuffle=True)}
    return DataLoader(rows, **shuffled)


# -- what trains


class Net(leyden.LightningModule):
    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features, self.automatic_optimization = features, not features["manual"]
        norm = nn.BatchNorm1d(6) if features["batch_norm"] else nn.Identity()
        self.backbone = nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Dropout(features["dropout"]))
        self.head = nn.Linear(6, 1)
        self.error = torchmetrics.MeanAbsoluteError()
        self.collected: list[float] = []

    def loss_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, y = (each.to(self.head.weight.dtype) for each in batch)
        return nn.functional.mse_loss(self.head(self.backbone(x)), y), y

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features = self.features
        batch = {"list": lambda: batch[0], "dict": lambda: batch["a"]}.get(features["data"], lambda: batch)()
        loss, y = self.loss_of(batch)
        self.log("loss", loss, on_step=features["on_step"], on_epoch=True, batch_size=len(y))
        self.log("twice", 2 * loss, on_step=False, on_epoch=True, reduce_fx=features["reduce_fx"], batch_size=len(y))
        if features["torchmetrics"]:
            self.error(torch.zeros_like(y), y)
            self.log("error", self.error, on_step=features["on_step"], on_epoch=True, batch_size=len(y))
        if features["manual"]:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None
        if features["skips"] and batch_idx % 5 == 2:
            return None
        return {"loss": loss, "more": y} if features["returns_dict"] else loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.collected.append(float(batch_idx))

    def on_train_epoch_end(self) -> None:
        if self.features["collects"]:
            self.log("collected", sum(self.collected))
        self.collected.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss_of(batch)[0])
        if self.features["validation_draws"]:
            self.log("val_drawn", torch.rand(()))

    def configure_optimizers(self) -> Any:
        features = self.features
        parts = [self.backbone, self.head] if features["groups"] > 1 else [self]
        groups = [{"params": [each for each in part.parameters() if each.requires_grad]} for part in parts]
        optimizer = getattr(torch.optim, features["optimizer"])([group for group in groups if group["params"]], lr=0.01)
        scheduled = {"interval": "epoch" if features["schedule"] == "epoch" else "step", "frequency": 1}
        match features["schedule"]:
            case None:
                return optimizer
            case "step" | "every other step":
                scheduled |= {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9)}
                scheduled |= {"frequency": 1 if features["schedule"] == "step" else 2}
            case "epoch":
                scheduled |= {"scheduler": lr_scheduler.StepLR(optimizer, 1, 0.8)}
            case "plateau":
                plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
                scheduled = {"scheduler": plateau, "monitor": "loss", "strict": False}
            case "one cycle":
                scheduled |= {"scheduler": lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=200)}
            case _:
                both = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
                scheduled |= {"scheduler": lr_scheduler.SequentialLR(optimizer, both, [3])}
        return {"optimizer": optimizer, "lr_scheduler": scheduled}


class Thaws(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.005)


# -- the command


class BreaksOff(leyden.Callback):
    """Counts the hooks, and ends the run at one of them in one way or another."""

    def __init__(self, at: int, how: str) -> None:
        self.left, self.how = at, how
        for name in HOOK_NAMES:
            if name not in ("state_dict", "load_state_dict", "on_exception", "teardown"):
                setattr(self, name, self._hook)

    def _hook(self, *arguments: Any, **keywords: Any) -> None:
        self.left -= 1
        if self.left == 0:
            if self.how == "exception":
                raise Crash
            signal.raise_signal({"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}[self.how])


def callbacks(features: Features) -> list[leyden.Callback]:
    loss = "loss_epoch" if features["on_step"] else "loss"
    by = "val_loss" if features["limit_val_batches"] else loss
    made: list[leyden.Callback] = [
        {
            "every step": lambda: ModelCheckpoint(every_n_train_steps=1, save_last=True),
            "every third step": lambda: ModelCheckpoint(every_n_train_steps=3),
            "best by step": lambda: ModelCheckpoint(monitor=by, save_top_k=2, every_n_train_steps=2, save_last=True),
            "best by epoch": lambda: ModelCheckpoint(monitor=by, save_last=True),
            "all": lambda: ModelCheckpoint(save_top_k=-1),
            "plain": ModelCheckpoint,
        }[features["checkpoints"]]()
    ]
    rewrites = features["rewrites"]
    asked: list[tuple[bool, Callable[[], leyden.Callback]]] = [
        (features["early_stopping"], lambda: EarlyStopping(loss, check_on_train_epoch_end=True)),
        (features["rates"], LearningRateMonitor),
        (rewrites == "EMA", lambda: EMAWeightAveraging(decay=0.9)),
        (rewrites == "SWA", lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)),
        (rewrites == "pruning", lambda: ModelPruning("l1_unstructured", amount=0.2)),
        (features["accumulation_schedule"] and not features["manual"], lambda: GradientAccumulationScheduler({1: 2})),
        (features["finetuning"], Thaws),
    ]
    return made + [make() for wanted, make in asked if wanted]


def given_once(features: Features, folder: Path, at: int, how: str) -> tuple[leyden.Trainer, Net, Any]:
    """One try: what is left of the run after it, and what ``fit`` returned; ``None`` where it was broken off."""
    options = {name: features[name] for name in OF_TRAINER}
    if features["manual"] or features["accumulation_schedule"]:
        options["accumulate_grad_batches"] = 1
    if features["manual"]:
        options["gradient_clip_val"] = None
    leyden.seed_everything(7)
    trainer = leyden.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=features.get("strategy", "auto"),
        callbacks=[*callbacks(features), *([BreaksOff(at, how)] if at else [])],
        logger=CSVLogger(folder, name="logs"),
        default_root_dir=folder,
        plugins=[TorchCheckpointIO(Unsynced())],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    net, result = Net(features), None
    with contextlib.suppress(Crash, SystemExit):
        result = trainer.fit(net, training_data(features), DataLoader(Rows(7), 3), ckpt_path="last")
    return trainer, net, result


def ended(features: Features, breaks: Breaks) -> dict[str, Any]:
    """The same command over and over, until no break is left and the run ends by itself: what it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        for at, how in [*breaks, (0, "")]:
            trainer, net, result = given_once(features, Path(folder), at, how)
        return left_by(trainer, net, result)


def ended_together(features: Features, breaks: Sequence[tuple[int, str, int]], world: int) -> list[Any]:
    """As :func:`ended`, by ``world`` processes, one of which (the third of each break; -1: all) breaks off: what each leaves."""
    with tempfile.TemporaryDirectory() as folder:
        for at, how, rank in [*breaks, (0, "", -1)]:
            outcomes = outcomes_together(world, one_of_many, features, folder, at, how, rank)
        for outcome in outcomes:
            if isinstance(outcome, BaseException | int):
                raise outcome if isinstance(outcome, BaseException) else AssertionError(f"a process ended with {outcome}")
        for others in outcomes[1:]:  # which resume with the first one's
            del others["history"], others["rows"]
            others["weights"] = {name: value for name, value in others["weights"].items() if "running" not in name}
        return outcomes


def one_of_many(features: Features, folder: str, at: int, how: str, rank: int) -> dict[str, Any] | None:
    """What this process of several does, and leaves where the run ended by itself."""
    warnings.simplefilter("ignore")
    here = int(os.environ["RANK"])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer, net, result = given_once(features, Path(folder), at if rank in (-1, here) else 0, how)
    return left_by(trainer, net, result) if not at and result is not None else None


def left_by(trainer: leyden.Trainer, net: Net, result: Any) -> dict[str, Any]:
    rows = Path(trainer.logger.log_dir or "", "metrics.csv")
    keeper = trainer.checkpoint_callback
    return {
        "weights": net.state_dict(),
        "optimizers": [each.state_dict() for each in trainer.optimizers],
        "schedulers": [repr(each.scheduler.state_dict()) for each in trainer.lr_scheduler_configs],
        "history": [dict(sorted(row.items())) for row in result.history],  # in whatever order they were logged
        "status": (result.status, result.epochs, result.steps),
        "rows": rows.read_text() if rows.exists() else "",
        "best": [(os.path.basename(path), score) for path, score in keeper.best_k_models.items()],
    }
