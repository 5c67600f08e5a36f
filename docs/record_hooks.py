"""Run small real trainings with every hook overridden, and write the order in which they fired into hooks.md.

``python docs/record_hooks.py`` writes the page anew; a test holds it equal to a fresh recording.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import leyden
from leyden.hooks import HOOK_NAMES
from leyden.testing import RandomDataset
from leyden.trainer.checks import DATAMODULE_METHODS, MODULE_METHODS

PAGE = Path(__file__).parent / "hooks.md"
Event = tuple[int, str, str]  # calls that it is nested in, who, hook


class Record:
    """What fired, in order. A call made inside a hook is one deeper than the hook."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.depth = 0

    def overriding(self, base: type, who: str, names: list[str], **extra: Any) -> Any:
        """An instance of ``base`` that records each of ``names`` and then does what ``base`` does."""

        def recording(name: str) -> Callable[..., Any]:
            original = extra.get(name) or getattr(base, name)

            @functools.wraps(original)
            def hook(*arguments: Any, **keywords: Any) -> Any:
                self.events.append((self.depth, who, name))
                self.depth += 1
                try:
                    return original(*arguments, **keywords)
                finally:
                    self.depth -= 1

            return hook

        kept = {name: value for name, value in extra.items() if name not in names}
        return type(base.__name__, (base,), {**kept, **{name: recording(name) for name in names}})()


class Module(leyden.LightningModule):
    """A linear layer, with a scheduler that steps every batch and one that steps every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).square().mean()
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        return self.layer(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        each_batch = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        each_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        return [optimizer], [{"scheduler": each_batch, "interval": "step"}, each_epoch]


class Data(leyden.LightningDataModule):
    """Two batches for training, one for everything else."""

    batches = 2

    def train_dataloader(self) -> Any:
        return DataLoader(RandomDataset(2, self.batches))

    def val_dataloader(self) -> Any:
        return DataLoader(RandomDataset(2, 1))

    def test_dataloader(self) -> Any:
        return DataLoader(RandomDataset(2, 1))

    def predict_dataloader(self) -> Any:
        return DataLoader(RandomDataset(2, 1))


class SavesLast(leyden.Callback):
    """Stands where ModelCheckpoint stands, and saves after each epoch."""

    leyden_phase = "checkpoint"

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint("saved.ckpt")


CHECKPOINT_HOOKS = ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"]
STATE = ["state_dict", "load_state_dict"]


def record(
    verb: str = "fit",
    *,
    module: dict[str, Any] | None = None,
    checkpoint: bool = False,
    batches: int = 2,
    ckpt_path: str | None = None,
    **options: Any,
) -> list[Event]:
    """The events of one verb. ``module`` overrides methods of :class:`Module`."""
    seen = Record()
    callbacks = [seen.overriding(leyden.Callback, "callback", list(HOOK_NAMES), state_dict=some_state)]
    if checkpoint:
        callbacks.append(seen.overriding(SavesLast, "checkpoint", CHECKPOINT_HOOKS))
    trainer = leyden.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
            **options,
        }
    )
    own = seen.overriding(Module, "module", sorted({*MODULE_METHODS, *STATE} - {"forward"}), **(module or {}))
    data = seen.overriding(Data, "datamodule", sorted(DATAMODULE_METHODS - {*TRANSFER}), batches=batches, state_dict=some_state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", leyden.errors.LeydenWarning)
        with contextlib.suppress(Raised):
            getattr(trainer, verb)(own, datamodule=data, ckpt_path=ckpt_path)
    return seen.events


TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Raised(Exception):
    """What the failing run raises."""


def some_state(self: Any) -> dict[str, int]:
    return {"seen": 1}


def raising(self: Any, batch: Any, batch_idx: int) -> Any:
    raise Raised


def skipping(self: Any, batch: Any, batch_idx: int) -> int | None:
    return -1 if batch_idx == 1 else None


def resumed() -> list[str]:
    """A fit that goes on from a checkpoint of the same module."""
    record(checkpoint=True)
    return record(max_epochs=2, ckpt_path="saved.ckpt")


def on_a_plateau(self: Any) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}


def between(events: list[Event], first: str, last: str) -> list[Event]:
    """The events from the first ``first`` to the last ``last``."""
    names = [name for _, _, name in events]
    return events[names.index(first) : len(names) - names[::-1].index(last)]


def written(events: list[Event]) -> str:
    """One line an event. Who hears the same hook one after another shares a line; what happens inside is indented."""
    lines: list[tuple[int, list[str], str]] = []
    inside = 0
    for depth, who, name in events:
        if lines and lines[-1][2] == name and who not in lines[-1][1] and name not in STATE:
            lines[-1][1].append(who)
            continue
        if name.endswith("_end") and any(line[2] == name[:-4] + "_start" for line in lines):
            inside = next(line[0] for line in reversed(lines) if line[2] == name[:-4] + "_start") - depth
        elif lines and lines[-1][2].endswith("_start"):
            inside = lines[-1][0] + 1 - depth
        lines.append((inside + depth, [who], name))
    width = max(len(", ".join(who)) for _, who, _ in lines)
    text = "\n".join(f"{', '.join(who):{width}}  {'  ' * level}{name}" for level, who, name in lines)
    return f"```text\n{text}\n```"


def sections() -> Iterator[tuple[str, str, list[Event]]]:
    """Title, explanation and events of each part of the page."""
    yield (
        "Fit",
        "One epoch of two batches, with a sanity check and a validation at the epoch's end. `optimizer_step` stands around "
        "everything that its closure does; where the module does not override it, there is no closure and the order is the same.",
        record(num_sanity_val_steps=1),
    )
    yield (
        "Accumulation",
        "`accumulate_grad_batches=2` over three batches. Gradients are reset before a window's first backward; the last window "
        "is short, and scaled by its own length.",
        between(record(accumulate_grad_batches=2, batches=3), "on_train_epoch_start", "on_train_epoch_end"),
    )
    yield (
        "Validation inside an epoch",
        "`val_check_interval=1`: validation follows the batch that makes it due, after `on_train_batch_end`.",
        between(record(val_check_interval=1), "on_train_epoch_start", "on_train_epoch_end"),
    )
    yield (
        "Checkpoints, and schedulers that wait for a metric",
        'A callback with `leyden_phase = "checkpoint"`, as `ModelCheckpoint` is one, hears `on_train_batch_end`, '
        "`on_validation_end` and `on_train_epoch_end` after the module, when the row of metrics is written. "
        "`ReduceLROnPlateau` (the last `lr_scheduler_step`) is stepped before, so that the file holds its new state. A callback "
        "with `leyden_reads_epoch_metrics = True`, as `EarlyStopping` is one, hears `on_train_epoch_end` late too.",
        between(record(checkpoint=True, module={"configure_optimizers": on_a_plateau}), "on_validation_end", "on_train_end"),
    )
    yield (
        "Resume",
        "`fit(..., ckpt_path=...)`, up to the first batch. There is no sanity check.",
        between(resumed(), "configure_callbacks", "on_train_epoch_start"),
    )
    yield (
        "Skipping the rest of an epoch",
        "`on_train_batch_start` returned `-1` at the second batch. Schedulers that count epochs step all the same.",
        between(record(module={"on_train_batch_start": skipping}), "on_train_epoch_start", "on_train_epoch_end"),
    )
    yield ("Validate", "", record("validate"))
    yield ("Test", "", record("test"))
    yield ("Predict", "", record("predict"))
    yield (
        "An exception",
        "`training_step` raised. Teardown always runs; an error in a teardown is told to `on_exception` as well.",
        between(record(module={"training_step": raising}), "on_train_batch_start", "teardown"),
    )


def page() -> str:
    """The whole page."""
    parts = [
        "# Hooks, in the order in which they fire\n\n"
        "Recorded from real runs with every hook overridden, by `docs/record_hooks.py`. Callbacks hear a hook in the order in "
        "which they were given, then the module does. Where a datamodule overrides a transfer hook, its version is used and not "
        "the module's."
    ]
    with tempfile.TemporaryDirectory() as folder, standing_in(folder):
        for title, text, events in sections():
            parts.append("\n\n".join(part for part in (f"## {title}", text, written(events)) if part))
    return "\n\n".join(parts) + "\n"


@contextlib.contextmanager
def standing_in(folder: str) -> Iterator[None]:
    """``contextlib.chdir``, which Python 3.10 lacks."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
