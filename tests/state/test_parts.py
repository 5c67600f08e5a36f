"""What a checkpoint's parts hold, by the moment of the save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from kit import fit

import leyden
from leyden.testing import BoringModel, Recorder, random_batches


class Saving(leyden.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: leyden.Trainer, when: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{when}.ckpt")

    def on_train_batch_end(self, trainer: leyden.Trainer, *args: Any) -> None:
        self.save(trainer, "training")

    def on_validation_batch_end(self, trainer: leyden.Trainer, *args: Any) -> None:
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer: leyden.Trainer, *args: Any) -> None:
        self.save(trainer, "epoch end")


def test_how_far_a_validation_is_stands_in_files_that_were_saved_inside_of_one_alone(tmp_path: Path) -> None:
    fit(BoringModel(), random_batches(2), random_batches(3), callbacks=[Saving(tmp_path)])
    held = {}
    for file in tmp_path.iterdir():
        (own,) = torch.load(file, weights_only=True)["leyden"]["processes"]
        held[file.stem] = own["evaluation"]
    assert held.pop("validation") is not None
    assert held == {"training": None, "epoch end": None}


def test_the_batch_stands_in_files_that_were_saved_while_it_was_trained_on_alone(tmp_path: Path) -> None:
    moments = (
        "on_train_batch_start",
        "on_before_zero_grad",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )
    held: dict[str, Any] = {}

    def saves(moment: str) -> Any:
        def save(trainer: leyden.Trainer, *args: Any) -> None:
            if trainer.leyden_fit.progress.batches + (moment != "on_train_batch_end") == 3:
                trainer.save_checkpoint(tmp_path / "now.ckpt")
                (own,) = torch.load(tmp_path / "now.ckpt", weights_only=True)["leyden"]["processes"]
                held[moment] = own["flight"] and (own["flight"]["index"], own["flight"].get("batch"))

        return save

    batches = random_batches(4)
    third = list(batches)[2]
    fit(BoringModel(), batches, callbacks=[Recorder(**{moment: saves(moment)}) for moment in moments])
    assert list(held) == list(moments)
    assert held.pop("on_train_batch_end") is None
    for index, batch in held.values():
        assert index == 2
        assert torch.equal(batch, third)
