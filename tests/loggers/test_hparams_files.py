"""Hyper-parameters in files of their own."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from leyden.core.saving import (
    convert,
    load_hparams_from_tags_csv,
    load_hparams_from_yaml,
    save_hparams_to_tags_csv,
    save_hparams_to_yaml,
    update_hparams,
)
from leyden.errors import InvalidOption, InvalidType

VALUES = {"width": 3, "rate": 1e-3, "name": "abc", "on": True, "none": None}


@pytest.mark.parametrize("given", [VALUES, Namespace(**VALUES)])
def test_there_and_back(given: Any, tmp_path: Path) -> None:
    save_hparams_to_yaml(tmp_path / "h.yaml", given)
    assert load_hparams_from_yaml(tmp_path / "h.yaml", use_omegaconf=False) == VALUES
    save_hparams_to_tags_csv(tmp_path / "h.csv", given)
    assert (tmp_path / "h.csv").read_text().splitlines()[:2] == ["key,value", "width,3"]
    read = load_hparams_from_tags_csv(tmp_path / "h.csv")
    assert [read[name] for name in ("width", "rate", "name", "on")] == [3, 1e-3, "abc", True]
    assert load_hparams_from_yaml(tmp_path / "missing.yaml") == {}


def test_omegaconf(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"a": 2, "b": "${a}"})
    save_hparams_to_yaml(tmp_path / "h.yaml", config)
    loaded = load_hparams_from_yaml(tmp_path / "h.yaml")
    assert loaded == config
    assert omegaconf.OmegaConf.is_config(loaded)
    save_hparams_to_yaml(tmp_path / "h.yaml", config, use_omegaconf=False)
    assert load_hparams_from_yaml(tmp_path / "h.yaml", use_omegaconf=False) == {"a": 2, "b": 2}


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    for save in (save_hparams_to_yaml, save_hparams_to_tags_csv):
        with pytest.raises(InvalidOption, match="a file in a folder that is there"):
            save(tmp_path / "none" / "h", VALUES)
        with pytest.raises(InvalidType, match="hparams=3"):
            save(tmp_path / "h", 3)  # type: ignore[arg-type]  # the mistake under test


def test_updates_go_into_the_mapping_that_is_there() -> None:
    hparams: dict[str, Any] = {"a": {"b": 1, "c": 2}, "d": 3}
    update_hparams(hparams, {"a": {"b": 4}, "d": 5, "e": {"f": 6}})
    assert hparams == {"a": {"b": 4, "c": 2}, "d": 5, "e": {"f": 6}}


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1e-3", 1e-3), ("None", None), ("[1, 2]", [1, 2]), ("abc", "abc")])
def test_words(text: str, value: Any) -> None:
    assert convert(text) == value
