"""Weights as safetensors files: read by others, and put back with what did not fit said."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import same
from torch import nn

from leyden.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointMismatch,
    CheckpointMissing,
    CheckpointWriteFailed,
    InvalidOption,
    InvalidType,
    MissingPackage,
)
from leyden.testing import BoringModel
from leyden.utilities.weights import load_weights, save_weights

safetensors = pytest.importorskip("safetensors.torch")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


class Overlapping(Tied):
    """With buffers that are parts of others, or lie in memory in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[2:4])
        self.register_buffer("turned", torch.randn(2, 3).t())


def test_what_is_saved_is_loaded_and_others_read_it(tmp_path: Path) -> None:
    module, other = BoringModel(), BoringModel()
    save_weights(module, tmp_path / "new" / "model.safetensors", {"note": "mine"})
    assert load_weights(other, tmp_path / "new" / "model.safetensors") == ([], [])
    assert same(module, other)
    read = safetensors.load_file(tmp_path / "new" / "model.safetensors")
    assert all(torch.equal(read[name], value) for name, value in module.state_dict().items())
    assert os.listdir(tmp_path / "new") == ["model.safetensors"]


def test_tied_weights_are_written_once_and_come_back_tied(tmp_path: Path) -> None:
    module, other, third = Tied(), Tied(), Tied()
    save_weights(module, tmp_path / "tied.safetensors")
    assert "head.weight" not in safetensors.load_file(tmp_path / "tied.safetensors")
    assert load_weights(other, tmp_path / "tied.safetensors") == ([], [])
    assert same(module, other)
    assert other.head.weight is other.embedding.weight
    safetensors.load_model(third, tmp_path / "tied.safetensors")
    assert same(module, third)


def test_parts_of_one_memory_are_written_as_they_are(tmp_path: Path) -> None:
    module, other = Overlapping(), Overlapping()
    module.whole.mul_(2)
    save_weights(module, tmp_path / "parts.safetensors")
    assert load_weights(other, tmp_path / "parts.safetensors") == ([], [])
    assert same(module, other)


def test_what_does_not_fit_is_refused_or_said(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(CheckpointMismatch, match=r"missing \['0.weight', '0.bias'\], unexpected \['bias', 'weight'\]"):
        load_weights(other, tmp_path / "a.safetensors")
    missing, unexpected = load_weights(other, tmp_path / "a.safetensors", strict=False)
    assert (missing, sorted(unexpected)) == (["0.weight", "0.bias"], ["bias", "weight"])
    with pytest.raises(CheckpointMismatch, match="do not fit Linear"):
        load_weights(nn.Linear(2, 3), tmp_path / "a.safetensors", strict=False)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="There are no weights at"):
        load_weights(nn.Linear(2, 2), tmp_path / "none.safetensors")
    save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-3])
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        load_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")


def test_what_is_no_place_for_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below: dict[Any, tuple[Any, str]] = {
        tmp_path / "file" / "a.safetensors": (CheckpointWriteFailed, "file is a file, and no folder"),
        f"{tmp_path}/new/": (InvalidOption, "expected the path of a file, and this is a folder"),
        "a\0b": (InvalidOption, "expected a path"),
        3: (InvalidType, "path=3"),
        "nowhere://a": (InvalidOption, "fsspec"),
    }
    for place, (error, words) in below.items():
        with pytest.raises(error, match=words):
            save_weights(nn.Linear(2, 2), place)
    for place, kind in ((tmp_path / "file" / "a", CheckpointMissing), (tmp_path, CheckpointError), (3, InvalidType)):
        with pytest.raises(kind):
            load_weights(nn.Linear(2, 2), place)  # type: ignore[arg-type]  # one of them is the mistake under test
    assert os.listdir(tmp_path) == ["file"]


def test_an_url_is_written_and_read(own_folder: Path) -> None:
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    save_weights(module, "memory://some/a.safetensors")
    assert load_weights(other, "memory://some/a.safetensors") == ([], [])
    assert same(module, other)
    assert os.listdir() == []


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a": 1}

    with pytest.raises(InvalidType, match="_extra_state"):
        save_weights(Extra(2, 2), tmp_path / "a.safetensors")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointWriteFailed, match="No space left"):
        save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_without_the_package_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return plain(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackage, match=r"pip install 'leyden\[safetensors\]'"):
        save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")
