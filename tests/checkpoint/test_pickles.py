"""What only pickle can write is made again where a file is trusted, and never otherwise."""

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

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __getstate__(self) -> dict[str, Any]:
        random.random()
        torch.rand(1)
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Scale.made_again += 1
        vars(self).update(state)


class Unsafe:
    made_again = False

    def __setstate__(self, state: Any) -> None:
        Unsafe.made_again = True

    def __getstate__(self) -> Any:
        return {"a": 1}


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


def saved(module: Any, folder: Path, data: Any = None, plugins: Any = None, ckpt_path: Any = None, **options: Any) -> Path:
    """A checkpoint of ``module`` after two steps."""
    trainer = leyden.Trainer(
        max_steps=2, logger=False, enable_progress_bar=False, default_root_dir=folder, limit_val_batches=0, plugins=plugins
    )
    if data is not None:
        data.train_dataloader = module.train_dataloader
        trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module, ckpt_path=ckpt_path)
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
        with pytest.raises(MissingHyperparameter, match=r"value=\.\.\.\), or load it with weights_only=False"):
            Keeps.load_from_checkpoint(path)
    assert Keeps.load_from_checkpoint(path, value=7).value == 7
    assert Scale.made_again == 0
    assert Keeps.load_from_checkpoint(path, value=7, weights_only=False).value == 7
    Scale.made_again = 0

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
    with pytest.raises(MissingHyperparameter, match=r"'scale' .*, or load it with weights_only=False"):
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
    monkeypatch.setattr("leyden.checkpoint.pickles._LARGEST", 1000)
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
    with pytest.raises(
        MissingHyperparameter, match=r"'value' \(was a .*Scale, which cannot be unpickled: AttributeError.*=\.\.\.\)\."
    ):
        Keeps.load_from_checkpoint(path, weights_only=False)
    assert Keeps.load_from_checkpoint(path, value=1, weights_only=False).value == 1


def test_a_weight_that_the_file_has_no_longer_is_named(tmp_path: Path):
    class Slim(Wraps):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            del checkpoint["state_dict"]["net.weight"]

    path = saved(Slim(nn.Linear(32, 32)), tmp_path)
    with pytest.raises(MissingHyperparameter, match=r"'net' \(was a .*, which cannot be unpickled: KeyError: 'net.weight'\)"):
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
    assert "pickle'" not in str(torch.load(path, weights_only=True))
    with pytest.raises(MissingHyperparameter, match=r"scale=\.\.\.\)\.$"):
        NeverSaved.load_from_checkpoint(path, weights_only=False)


def test_the_notices_name_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leyden.checkpoint.layout._named_once", set())
    with pytest.warns(PossibleUserWarning, match=r"can only be pickled: .* weights_only=False\. Leave it out"):
        Wraps(nn.Linear(1, 1))
    with pytest.warns(LeydenWarning, match=r"can be pickled is in it besides, for a reader that says weights_only=False"):
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


class Remembers(leyden.Callback):
    """Its state has an object in it."""

    def __init__(self) -> None:
        self.scale: Any = Scale(3.0)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scale = state_dict["scale"]


class Adds(BoringModel):
    """Puts objects into its checkpoints, one of them among the hyper-parameters, and needs them back."""

    def __init__(self, lr: float = 0.1, scale: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.scale, self.words = scale or Scale(1.0), {"words": [Scale(2.0)]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vocabulary"] = self.words
        checkpoint["hyper_parameters"].update(scale=self.scale)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert checkpoint["vocabulary"]["words"][0].factor == 2.0


def test_what_hooks_put_into_a_checkpoint(tmp_path: Path):
    path = saved(Adds(scale=Scale(3.0)), tmp_path)
    torch.load(path, weights_only=True)
    with pytest.raises(MissingHyperparameter, match=r"'scale' .*or load it with weights_only=False"):
        Adds.load_from_checkpoint(path)
    with pytest.raises(CheckpointMismatch, match=r"vocabulary.words.0' \(was a .*Scale.*, or load it with weights_only=False"):
        Adds.load_from_checkpoint(path, scale=1)
    loaded = Adds.load_from_checkpoint(path, weights_only=False)
    assert loaded.scale.factor == 3.0


def test_what_holds_itself_comes_back_so(tmp_path: Path):
    chain: list[Any] = [1]
    chain.append(chain)
    path = saved(Keeps(chain), tmp_path)
    (number, inner) = Keeps.load_from_checkpoint(path, weights_only=False).value
    assert (number, inner[1] is inner) == (1, True)


def test_one_object_in_two_places_is_one_again(tmp_path: Path):
    class Twice(BoringModel):
        def __init__(self, first: Any, second: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.same = first is second["deep"][0]

    scale = Scale(3.0)
    assert Twice.load_from_checkpoint(saved(Twice(scale, {"deep": [scale]}), tmp_path), weights_only=False).same


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_goes_on_with_them(tmp_path: Path, sharded: bool):
    def trainer(steps: int) -> leyden.Trainer:
        return leyden.Trainer(
            max_steps=steps,
            callbacks=[Remembers()],
            plugins=[ShardedCheckpointIO()] if sharded else None,
            logger=False,
            enable_progress_bar=False,
            default_root_dir=tmp_path,
            limit_val_batches=0,
        )

    first = trainer(2)
    first.callbacks[0].scale = Scale(4.0)  # type: ignore[attr-defined]
    first.fit(Adds())
    first.save_checkpoint(tmp_path / "b.ckpt")
    if not sharded:
        with pytest.raises(CheckpointMismatch, match="or load it with weights_only=False"):
            trainer(4).fit(Adds(), ckpt_path=tmp_path / "b.ckpt")
    second = trainer(4)
    second.fit(Adds(), ckpt_path=tmp_path / "b.ckpt", weights_only=False)
    assert second.global_step == 4
    assert second.callbacks[0].scale.factor == 4.0  # type: ignore[attr-defined]


def test_a_file_that_is_written_before_all_is_put_back_holds_them_still(tmp_path: Path):
    path = saved(Keeps(Scale(3.0)), tmp_path)

    class Early(Keeps):
        def on_fit_start(self) -> None:
            self.trainer.save_checkpoint(tmp_path / "early.ckpt")

    saved(Early(Scale(3.0)), tmp_path, ckpt_path=path)
    assert Keeps.load_from_checkpoint(tmp_path / "early.ckpt", weights_only=False).value.factor == 3.0


def test_an_argument_that_goes_on_to_the_base_as_a_keyword(tmp_path: Path):
    class Base(BoringModel):
        def __init__(self, width: int = 1, scale: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters({"width": width})  # what its subclass has not kept
            self.scale = scale

    class Given(Base):
        def __init__(self, lr: float = 0.1, **kwargs: Any) -> None:
            self.save_hyperparameters()
            super().__init__(**kwargs)

    path = saved(Given(0.5, scale=Scale(3.0), width=2), tmp_path)
    loaded = Given.load_from_checkpoint(path, weights_only=False)
    assert (loaded.hparams.lr, loaded.hparams.width, loaded.scale.factor) == (0.5, 2, 3.0)


def test_what_the_user_calls_safe_needs_no_other_word(tmp_path: Path):
    path = saved(Keeps({"deep": [Scale(3.0), Scale([Scale(4.0)]), Scale([Unsafe()])], "other": Unsafe()}), tmp_path)
    Unsafe.made_again = False
    with torch.serialization.safe_globals([Scale]):
        value = Keeps.load_from_checkpoint(path).value
    assert value["deep"][0].factor == 3.0
    assert value["deep"][1].factor[0].factor == 4.0
    for left in (value["deep"][2], value["other"]):
        with pytest.raises(
            AttributeError, match=r"could not be written .*: it has no 'a'\. Make it anew, or load it with weights_"
        ):
            _ = left.a
    assert not Unsafe.made_again


def test_a_layer_that_the_user_calls_safe(tmp_path: Path):
    net = nn.Linear(32, 32)
    path = saved(Wraps(net), tmp_path)
    with (
        torch.serialization.safe_globals([nn.Sequential]),
        pytest.raises(MissingHyperparameter, match="or load it with weights_"),
    ):
        Wraps.load_from_checkpoint(path)
    with torch.serialization.safe_globals([nn.Linear]):
        assert torch.equal(Wraps.load_from_checkpoint(path).net.weight, net.weight)
