"""What a verb was asked for: all that a process has to be given that is started to carry it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leyden.datamodule import LightningDataModule
from leyden.module import LightningModule
from leyden.state.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Job:
    """The arguments of a verb, read and checked at its door. It is as picklable as what the user passed."""

    module: LightningModule
    loaders: dict[str, Any]
    """What was passed as loaders, by stage."""
    datamodule: LightningDataModule | None
    ckpt_path: Any
    weights_only: bool | None
    stage: Stage | None = None
    """The stage of an evaluation."""
    implicit: bool = False
    """Whether no module and no checkpoint was named, so that the best weights of the last fit are meant."""
    verbose: bool = True
    keep: bool = True
    """Whether predictions are returned."""
