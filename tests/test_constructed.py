"""A subclass whose constructor forgets ``super().__init__()`` is told so, once something that it lacks is needed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import kit
import pytest
from torch import nn

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer, WeightAveraging
from leyden.errors import MisconfigurationException, NotConstructed
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.plugins import AsyncCheckpointIO, MixedPrecision
from leyden.profilers import SimpleProfiler
from leyden.strategies import DDPStrategy, SingleDeviceStrategy
from leyden.testing import BoringModel


def forgetful(base: type) -> Any:
    class Mine(base):  # type: ignore[misc]  # any base
        def __init__(self) -> None:
            self.own = 1

    return Mine()


PARTS = [
    *[("callbacks", base) for base in (ModelCheckpoint, EarlyStopping, Timer, RichProgressBar, WeightAveraging)],
    *[("logger", base) for base in (CSVLogger, TensorBoardLogger)],
    *[("strategy", base) for base in (SingleDeviceStrategy, DDPStrategy)],
    *[("plugins", base) for base in (AsyncCheckpointIO, MixedPrecision)],
    ("profiler", SimpleProfiler),
]


@pytest.mark.parametrize(("option", "base"), PARTS, ids=lambda each: getattr(each, "__name__", each))
def test_it_is_named(option: str, base: type, tmp_path: Path) -> None:
    given = {"enable_checkpointing": True, "enable_progress_bar": base is RichProgressBar, option: forgetful(base)}
    with pytest.raises(NotConstructed, match=r"Mine\.__init__ has to call super\(\)\.__init__\(\)") as caught:
        kit.trainer(**given, default_root_dir=tmp_path, limit_train_batches=1).fit(BoringModel())
    assert isinstance(caught.value, AttributeError)
    assert isinstance(caught.value, MisconfigurationException)


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """What is still called of it, so that it can end, lacks as much."""
    with pytest.raises(NotConstructed):
        kit.trainer(profiler=forgetful(SimpleProfiler), logger=forgetful(CSVLogger)).fit(BoringModel())
    assert caplog.text == ""


def test_of_a_trainer() -> None:
    class Mine(leyden.Trainer):
        def __init__(self) -> None:
            self.own = 1

    with pytest.raises(NotConstructed, match=r"Mine\.__init__ has to call super\(\)\.__init__\(\)"):
        Mine().fit(BoringModel())


def test_what_needs_nothing_of_it_runs() -> None:
    class Data(leyden.LightningDataModule):
        def __init__(self) -> None:
            self.own = 1

        def train_dataloader(self) -> Any:
            return BoringModel().train_dataloader()

    kit.trainer(limit_train_batches=1, limit_val_batches=0).fit(BoringModel(), datamodule=Data())


def test_a_name_that_is_used_too_early() -> None:
    class Early(EarlyStopping):
        def __init__(self) -> None:
            self.patience += 1
            super().__init__("loss")

    with pytest.raises(NotConstructed, match="and before it uses what that sets: 'patience' is missing"):
        Early()


def test_other_missing_names_stay_what_they_are() -> None:
    class Mine(EarlyStopping):
        def __init__(self) -> None:
            super().__init__("loss")

        @property
        def patient(self) -> Any:
            return self.nowhere

    class Hidden(EarlyStopping):
        def __init__(self) -> None:
            self.own = 1

        @property
        def patience(self) -> Any:  # type: ignore[override]  # an author's own
            return self.nowhere

    for part, name in ((Mine(), "nowhere"), (Mine(), "patient"), (Hidden(), "patience"), (EarlyStopping("loss"), "nowhere")):
        with pytest.raises(AttributeError, match=rf"^'{type(part).__name__}' object has no attribute 'nowhere'$") as caught:
            getattr(part, name)
        assert not isinstance(caught.value, NotConstructed)
    assert not hasattr(forgetful(EarlyStopping), "monitor")
    assert getattr(forgetful(EarlyStopping), "patience", 7) == 7


def test_copies_are_made_as_ever() -> None:
    bare = forgetful(EarlyStopping)
    assert vars(copy.deepcopy(bare)) == vars(copy.copy(bare)) == {"own": 1}
    whole = EarlyStopping("loss", patience=5)
    assert pickle.loads(pickle.dumps(whole)).patience == copy.deepcopy(whole).patience == 5


def test_beside_a_base_that_looks_for_names_too() -> None:
    class Both(EarlyStopping, nn.Module):
        def __init__(self, forgets: bool) -> None:
            nn.Module.__init__(self)
            self.layer = nn.Linear(1, 1)
            if not forgets:
                EarlyStopping.__init__(self, "loss")

    assert isinstance(Both(forgets=False).layer, nn.Linear)
    with pytest.raises(AttributeError, match=r"^'Both' object has no attribute 'nowhere'$"):
        _ = Both(forgets=False).nowhere
    with pytest.raises(NotConstructed, match="'patience' is missing"):
        _ = Both(forgets=True).patience
