"""Hyper-parameters that only pickle can write: made again where a file is trusted, and never otherwise."""

from __future__ import annotations

import argparse
import os
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leyden
from leyden.cli.contents import show
from leyden.errors import CheckpointForeign, CheckpointMismatch, LeydenWarning, MissingHyperparameter, PossibleUserWarning
from leyden.plugins import ShardedCheckpointIO
from leyden.testing import BoringModel

pytestmark = [
    pytest.mark.filterwarnings("ignore:Some values cannot be written:leyden.errors.LeydenWarning"),
    pytest.mark.filterwarnings("ignore:The hyper-parameter '.*' is a torch module:leyden.errors.PossibleUserWarning"),
]


class Scale:
    """An object of a user's own; says where it was made again, and draws while it is written."""

    made_again = 0

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __getstate__(self) -> dict[str, Any]:
        random.random()
        torch.rand(1)
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Scale.made_again += 1
        vars(self).update(state)


@dataclass
class Config:
    width: int
    scale: Scale


class Keeps(BoringModel):
    def __init__(self, value: Any, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.value = value


class Wraps(BoringModel):
    """Trains the module that it was given, which two places of it share."""

    def __init__(self, net: nn.Module, pair: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = net
        self.register_buffer("not_written", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.net(x))


class KeepsData(leyden.LightningDataModule):
    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.scale = scale


def saved(module: Any, folder: Path, data: Any = None, plugins: Any = None, **options: Any) -> Path:
    """A checkpoint of ``module`` after two steps."""
    trainer = leyden.Trainer(
        max_steps=2, logger=False, enable_progress_bar=False, default_root_dir=folder, limit_val_batches=0, plugins=plugins
    )
    if data is not None:
        data.train_dataloader = module.train_dataloader
        trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module)
    trainer.save_checkpoint(folder / "a.ckpt", **options)
    return folder / "a.ckpt"


def scale_in(value: Any) -> Scale:
    found: Scale = value["deep"][0] if isinstance(value, dict) else getattr(value, "scale", value)
    return found


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "weights alone"])
@pytest.mark.parametrize(
    "value",
    [Scale(3.0), {"deep": [Scale(3.0)], "n": 1}, Config(2, Scale(3.0)), argparse.Namespace(width=2, scale=Scale(3.0))],
    ids=lambda value: type(value).__name__,
)
def test_an_object_comes_back_with_the_word_alone(tmp_path: Path, value: Any, whole: bool):
    path = saved(Keeps(value, lr=0.5), tmp_path, weights_only=not whole)
    Scale.made_again = 0
    torch.load(path, weights_only=True)
    show(str(path))
    if isinstance(value, Scale):
        with pytest.raises(MissingHyperparameter, match=r"value=\.\.\.\)\. Or weights_only=False makes 'value' again"):
            Keeps.load_from_checkpoint(path)
    assert Keeps.load_from_checkpoint(path, value=7).value == 7
    assert Keeps.load_from_checkpoint(path, value=7, weights_only=False).value == 7  # passed, so nothing is read
    assert Scale.made_again == 0

    loaded = Keeps.load_from_checkpoint(path, weights_only=False)
    assert Scale.made_again > 0
    assert type(loaded.value) is type(value)
    assert scale_in(loaded.value).factor == 3.0
    assert loaded.hparams.lr == 0.5
    assert scale_in(loaded.hparams.value).factor == 3.0
    again = Keeps.load_from_checkpoint(saved(loaded, tmp_path), weights_only=False)
    assert scale_in(again.value).factor == 3.0


@pytest.mark.parametrize("attribute", ["as a whole", "assigned"])
def test_one_namespace_with_an_object_in_it(tmp_path: Path, attribute: str):
    class Takes(BoringModel):
        def __init__(self, hparams: Any) -> None:
            super().__init__()
            if attribute == "assigned":
                self.hparams = hparams
            else:
                self.save_hyperparameters(hparams)

    path = saved(Takes(argparse.Namespace(lr=0.5, scale=Scale(3.0))), tmp_path)
    loaded = Takes.load_from_checkpoint(path, weights_only=False)
    assert (loaded.hparams.lr, loaded.hparams.scale.factor) == (0.5, 3.0)


def test_a_module_comes_back_and_its_weights_stand_in_the_file_once(tmp_path: Path):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(32, 512), nn.Linear(512, 32))
    net[1].weight.requires_grad_(False)
    net.register_buffer("shift", torch.arange(4.0))
    net.register_buffer("not_written", torch.full((2,), 5.0), persistent=False)
    module = Wraps(net, pair={"first": net[0], "same": net[0], "own": torch.full((2,), 7.0)})
    path = saved(module, tmp_path)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    assert path.stat().st_size < weights + 100_000  # a second copy would be 131 kB more

    with torch.random.fork_rng():
        loaded = Wraps.load_from_checkpoint(path, weights_only=False)
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.net[1].weight.requires_grad is False
    assert loaded.net[0].weight.requires_grad is True
    assert torch.equal(loaded.net.not_written, torch.full((2,), 5.0))
    assert loaded.hparams.pair["first"] is loaded.hparams.pair["same"]
    assert torch.equal(loaded.hparams.pair["own"], torch.full((2,), 7.0))
    assert torch.equal(loaded.hparams.pair["first"].weight, module.net[0].weight)
    saved(loaded, tmp_path)  # it trains


def test_shared_weights_are_shared_again(tmp_path: Path):
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    net[1].weight = net[0].weight
    loaded = Wraps.load_from_checkpoint(saved(Wraps(net), tmp_path), weights_only=False)
    assert loaded.net[1].weight is loaded.net[0].weight


@pytest.mark.filterwarnings("ignore:.*sharded:leyden.errors.LeydenWarning")
def test_a_folder_of_shards_holds_them_too(tmp_path: Path):
    net = nn.Linear(32, 32)
    loaded = Wraps.load_from_checkpoint(saved(Wraps(net), tmp_path, plugins=[ShardedCheckpointIO()]), weights_only=False)
    assert torch.equal(loaded.net.weight, net.weight)


def test_a_datamodules_object(tmp_path: Path):
    path = saved(BoringModel(), tmp_path, KeepsData(Scale(3.0)))
    with pytest.raises(MissingHyperparameter, match="weights_only=False makes 'scale' again"):
        KeepsData.load_from_checkpoint(path)
    assert KeepsData.load_from_checkpoint(path, weights_only=False).scale.factor == 3.0


def test_a_resumed_run_writes_it_again(tmp_path: Path):
    path = saved(Keeps(Scale(3.0)), tmp_path)
    trainer = leyden.Trainer(
        max_steps=4, logger=False, enable_progress_bar=False, enable_checkpointing=False, limit_val_batches=0
    )
    trainer.fit(Keeps(Scale(3.0)), ckpt_path=path)
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    assert Keeps.load_from_checkpoint(tmp_path / "b.ckpt", weights_only=False).value.factor == 3.0


@pytest.mark.parametrize("value", [lambda: 3, os.scandir, threading.Lock()], ids=["lambda", "function", "lock"])
def test_what_pickle_cannot_write_is_asked_for(tmp_path: Path, value: Any):
    path = saved(Keeps(value), tmp_path)
    if value is os.scandir:
        assert Keeps.load_from_checkpoint(path, weights_only=False).value is value
        return
    for word in (None, False):
        with pytest.raises(MissingHyperparameter, match=r"Pass what is missing: .*value=\.\.\.\)\.$"):
            Keeps.load_from_checkpoint(path, weights_only=word)


def test_what_is_too_large_is_asked_for_and_not_tried_at_every_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leyden.hparams_pickled._LARGEST", 1000)
    tried = []

    class Large(Scale):
        def __getstate__(self) -> dict[str, Any]:
            tried.append(self)
            return vars(self)

    monkeypatch.setitem(globals(), "Large", Large)
    Large.__qualname__ = "Large"
    for large in (Large("x" * 2000), Large(torch.zeros(2000))):  # type: ignore[arg-type]
        module = Keeps(large)
        tried.clear()
        path = saved(module, tmp_path)
        assert tried == [large]  # two files were written
        with pytest.raises(MissingHyperparameter, match="'value'"):
            Keeps.load_from_checkpoint(path, weights_only=False)
    assert Keeps.load_from_checkpoint(saved(Keeps(Large(1.0)), tmp_path), weights_only=False).value.factor == 1.0


def test_a_class_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(Keeps(Scale(3.0)), tmp_path)
    monkeypatch.delitem(globals(), "Scale")
    with pytest.raises(CheckpointMismatch, match=r"'value' in '.*a\.ckpt' cannot be unpickled \(AttributeError.*value=\.\.\."):
        Keeps.load_from_checkpoint(path, weights_only=False)
    assert Keeps.load_from_checkpoint(path, value=1, weights_only=False).value == 1


def test_a_weight_that_the_file_has_no_longer_is_named(tmp_path: Path):
    class Slim(Wraps):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            del checkpoint["state_dict"]["net.weight"]

    path = saved(Slim(nn.Linear(32, 32)), tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"'net' in .* cannot be unpickled \(KeyError: 'net.weight'\)"):
        Slim.load_from_checkpoint(path, weights_only=False)


def test_writing_a_pickle_draws_nothing_of_the_run(tmp_path: Path):
    def drawn(value: Any) -> tuple[Any, ...]:
        module = Keeps(value)
        leyden.seed_everything(1, verbose=False)
        module.layer.reset_parameters()
        saved(module, tmp_path)
        return torch.rand(1).item(), random.random(), *(p.sum().item() for p in module.parameters())

    assert drawn(Scale(3.0)) == drawn(1)


def test_what_nobody_asked_to_keep_is_not_pickled(tmp_path: Path):
    class NeverSaved(BoringModel):
        def __init__(self, scale: Scale) -> None:
            super().__init__()

    path = saved(NeverSaved(Scale(3.0)), tmp_path)
    assert "pickled" not in torch.load(path, weights_only=True)["leyden"]
    with pytest.raises(MissingHyperparameter, match=r"scale=\.\.\.\)\.$"):
        NeverSaved.load_from_checkpoint(path, weights_only=False)


def test_the_notices_name_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leyden.checkpoint.layout._named_once", set())
    with pytest.warns(PossibleUserWarning, match=r"can only be pickled: .* weights_only=False\. Leave it out"):
        Wraps(nn.Linear(1, 1))
    with pytest.warns(LeydenWarning, match=r"load_from_checkpoint reads with weights_only=False alone"):
        saved(Keeps(Scale(3.0)), tmp_path)


def test_inspect_tells_of_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    show(str(saved(Keeps(Scale(3.0)), tmp_path)))
    told = capsys.readouterr().out
    assert "Scale') (and a pickle of " in told
    assert "for weights_only=False)" in told


def test_lightnings_own_files_still_need_the_word(tmp_path: Path):
    torch.save({"state_dict": {}, "hyper_parameters": {"value": Scale(3.0)}, "hparams_name": "kwargs"}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointForeign):
        Keeps.load_from_checkpoint(tmp_path / "a.ckpt", strict=False)
    with pytest.warns(LeydenWarning, match="in part"):
        assert Keeps.load_from_checkpoint(tmp_path / "a.ckpt", strict=False, weights_only=False).value.factor == 3.0
