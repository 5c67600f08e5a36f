"""What a command line configured is made again from its checkpoint; a file has nothing else made than it may."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from configured import Anything, Chosen, DeepEncoder, Loads, OnlyFit, WideNet
from kit import QUIET

import leyden
from leyden.cli import instantiate_module
from leyden.errors import CheckpointForeign, CheckpointMismatch, PossibleUserWarning

ONCE: dict[str, Any] = {**QUIET, "max_steps": 1, "limit_val_batches": 0}


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["main.py"])


def saved(*words: str, model: Any = WideNet, **options: Any) -> str:
    """The checkpoint of a run that these words configure."""
    words = ("fit", *words)
    cli = OnlyFit(model, Loads, args=list(words), trainer_defaults=ONCE, save_config_callback=None, **options)
    cli.trainer.save_checkpoint("a.ckpt")
    return "a.ckpt"


def changed(path: str, **values: Any) -> str:
    """A checkpoint whose hyper-parameters say something else."""
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"].update(values)
    torch.save(content, "changed.ckpt")
    return "changed.ckpt"


def test_objects_among_the_arguments_are_made_again(own_folder: Path) -> None:
    path = saved("--model.encoder=DeepEncoder", "--model.encoder.depth=7", "--model.width=6", "--data.batch=5")
    assert torch.load(path)["hyper_parameters"]["_instantiator"] == "lightning.pytorch.cli.instantiate_module"
    net = WideNet.load_from_checkpoint(path)
    assert (net.width, type(net.encoder), net.encoder.depth, net.hparams.rate) == (6, DeepEncoder, 7, 0.1)
    run = leyden.Trainer(**ONCE)
    run.fit(net)
    run.save_checkpoint("b.ckpt")
    assert WideNet.load_from_checkpoint("b.ckpt").encoder.depth == 7
    assert Loads.load_from_checkpoint(path).batch == 5
    mine = DeepEncoder(depth=1)
    with pytest.warns(PossibleUserWarning, match="'encoder' is a torch module"):
        net = WideNet.load_from_checkpoint(path, encoder=mine, width=77)
    assert (net.width, net.encoder) == (77, mine)


def test_a_loaded_module_s_checkpoint_tells_as_much_as_the_first(own_folder: Path) -> None:
    path = saved("--model=WideNet", "--model.encoder=DeepEncoder", model=None)
    for _ in range(2):
        net = leyden.LightningModule.load_from_checkpoint(path)
        assert (type(net), type(net.encoder)) == (WideNet, DeepEncoder)
        run = leyden.Trainer(**ONCE)
        run.fit(net)
        run.save_checkpoint(path)


def test_hyperparameters_that_are_plain_make_another_module(own_folder: Path) -> None:
    net = WideNet.load_from_checkpoint(saved("--model.width=6"))
    assert dict(net.hparams) == {"width": 6, "encoder": None, "rate": 0.1}
    assert WideNet(**net.hparams).width == 6
    data = Loads.load_from_checkpoint("a.ckpt")
    assert dict(data.hparams) == {"batch": 8}
    assert "_instantiator" in WideNet.load_from_checkpoint(saved("--model.encoder=DeepEncoder")).hparams  # made of what they say


def test_the_right_subclass_is_made(own_folder: Path) -> None:
    path = saved("--model=WideNet", "--model.width=9", model=None)
    net = leyden.LightningModule.load_from_checkpoint(path)
    assert (type(net), net.width) == (WideNet, 9)
    assert WideNet.load_from_checkpoint(path).width == 9


def test_an_optimizer_by_class_is_one_again(own_folder: Path) -> None:
    path = saved("--model.optimizer=SGD", "--model.optimizer.lr=0.25", model=Chosen, auto_configure_optimizers=False)
    optimizer = Chosen.load_from_checkpoint(path).configure_optimizers()[0][0]
    assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.SGD, 0.25)


def test_a_file_has_only_classes_made_that_it_may(own_folder: Path) -> None:
    path = saved(model=Anything)
    evil = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "made"]}}
    for value in (evil, [evil], {"deep": evil}):
        with pytest.raises(CheckpointForeign, match=r"'.*changed.ckpt' wants subprocess.Popen to be made"):
            Anything.load_from_checkpoint(changed(path, thing=value))
    with pytest.raises(CheckpointForeign, match=r"wants wsgiref.simple_server.WSGIServer to be made"):
        leyden.LightningModule.load_from_checkpoint(changed(path, _class_path="wsgiref.simple_server.WSGIServer"))
    assert "wsgiref.simple_server" not in sys.modules
    words = ["fit", "--ckpt_path", changed(path, thing=evil)]
    with pytest.raises(CheckpointForeign, match=r"wants subprocess.Popen to be made"):
        OnlyFit(Anything, Loads, args=words, trainer_defaults=ONCE)
    assert not Path("made").exists()
    layer = {"class_path": "torch.nn.Flatten", "init_args": {"start_dim": 2}}
    assert isinstance(Anything.load_from_checkpoint(changed(path, thing=layer)).thing, torch.nn.Flatten)


def test_a_file_names_no_function_of_pythons_own(own_folder: Path) -> None:
    path = saved(model=Chosen, auto_configure_optimizers=False)
    for function in ("os.system", "shutil.rmtree", "builtins.eval"):
        with pytest.raises(CheckpointForeign, match=r"wants .*\.(system|rmtree|eval) to be made"):
            Chosen.load_from_checkpoint(changed(path, activation=function))
    assert Chosen.load_from_checkpoint(changed(path, activation="torch.tanh")).activation is torch.tanh


def test_a_file_that_is_trusted_has_others_made_too(own_folder: Path) -> None:
    path = changed(
        saved(model=Anything), thing={"class_path": "fractions.Fraction", "init_args": {"numerator": 1, "denominator": 3}}
    )
    with pytest.raises(CheckpointForeign, match="weights_only=False"):
        Anything.load_from_checkpoint(path)
    assert str(Anything.load_from_checkpoint(path, weights_only=False).thing) == "1/3"


def test_a_value_that_does_not_fit_is_named(own_folder: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"does not fit WideNet.*width"):
        WideNet.load_from_checkpoint(changed(saved(), width="wide"))


def test_what_another_programs_main_defined_is_found_beside_the_class(own_folder: Path) -> None:
    path = changed(saved(model=WideNet), encoder={"class_path": "__main__.DeepEncoder"}, _class_path="__main__.WideNet")
    assert isinstance(WideNet.load_from_checkpoint(path).encoder, DeepEncoder)


def test_a_module_from_its_configuration() -> None:
    config = {"_class_path": "configured.WideNet", "width": 3, "encoder": {"class_path": "configured.DeepEncoder"}}
    net = instantiate_module(leyden.LightningModule, {**config, "_instantiator": "leyden.cli.instantiate_module"})
    assert (type(net), net.width, type(net.encoder)) == (WideNet, 3, DeepEncoder)
    with pytest.raises(CheckpointMismatch, match="The configuration does not fit WideNet"):
        instantiate_module(WideNet, {"wdth": 3})
