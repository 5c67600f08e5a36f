"""What 1.4 to 1.9's command line took, and LightningCLI still takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from kit import QUIET

import leyden
import leyden.utilities.cli as face
from leyden import notices
from leyden.cli import LightningCLI
from leyden.errors import InvalidType, LegacyNotice, UnknownName
from leyden.testing import BoringDataModule, BoringModel

ONCE = {**QUIET, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "logger": False}


@pytest.fixture(autouse=True)
def own_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notices are this test's alone, and there is no command line."""
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(notices, "noticed", set())
    monkeypatch.setattr(notices, "waiting", {})


def cli(**more: Any) -> LightningCLI:
    return LightningCLI(BoringModel, BoringDataModule, args=[], run=False, trainer_defaults=ONCE, **more)


def test_where_the_configuration_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("another run's\n")
    old = {"save_config_filename": "mine.yaml", "save_config_overwrite": True, "save_config_multifile": False}
    with pytest.warns(LegacyNotice, match=r"LightningCLI\(save_config_overwrite=...\)  save_config_kwargs={'overwrite': ...}"):
        LightningCLI(BoringModel, BoringDataModule, args=["fit"], trainer_defaults=ONCE, **old)  # type: ignore[arg-type]  # older
    assert "max_epochs: 1" in Path("mine.yaml").read_text()
    today = cli(save_config_overwrite=True, save_config_kwargs={"overwrite": False})
    assert today.save_config_kwargs == {"overwrite": False}


def test_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_TRAINER__MAX_EPOCHS", "4")
    made = cli(description="My program.", env_prefix="MINE", env_parse=True)
    assert made.parser.description == "My program."
    assert made.trainer.max_epochs == 4


def test_a_wrong_word_is_named_as_ever() -> None:
    with pytest.raises(UnknownName, match=r"LightningCLI got an unknown argument 'save_confg_kwargs'. Did you mean 'save_"):
        cli(save_confg_kwargs={})


class InARegistry(BoringModel): ...


def test_registries() -> None:
    registry = type(face.MODEL_REGISTRY)()

    @registry(key="other")
    class Second(BoringModel): ...

    assert registry(InARegistry) is InARegistry
    assert (registry.names, registry.classes) == (["other", "InARegistry"], (Second, InARegistry))
    registry.register_classes(leyden.testing, leyden.LightningModule)
    assert registry["BoringModel"] is BoringModel
    assert "LightningModule" not in registry
    with pytest.raises(InvalidType, match="cls=3 cannot be used: expected a class"):
        registry(3)
    assert type(LightningCLI(args=["--model=InARegistry"], run=False, trainer_defaults=ONCE).model) is InARegistry
