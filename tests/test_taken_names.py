"""Attributes whose names a LightningModule needs itself: a clear error where they are assigned, or they work."""

from __future__ import annotations

import logging
from typing import Any

import kit
import pytest
import torch
from torch import nn

import leyden
from leyden.errors import InvalidType, TakenName
from leyden.testing import BoringModel

PROPERTIES = [
    name for name, value in vars(leyden.LightningModule).items() if isinstance(value, property) and not name.startswith("_")
]
SETTABLE = ("trainer", "example_input_array", "automatic_optimization", "strict_loading")
METHODS = [name for name in dir(leyden.LightningModule) if callable(getattr(leyden.LightningModule, name)) and name[0] != "_"]


def setting(name: str, value: Any) -> type[BoringModel]:
    class Mine(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, value)

    return Mine


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name not in SETTABLE])
@pytest.mark.parametrize(
    "value", ["mine", 3, None, torch.ones(1), nn.Parameter(torch.ones(1))], ids=lambda each: type(each).__name__
)
def test_values_in_the_place_of_a_property(name: str, value: Any) -> None:
    module = BoringModel()
    with pytest.raises(TakenName, match=rf"BoringModel sets self\.{name} to a .*Give yours another name"):
        setattr(module, name, value)
    with pytest.raises(TakenName, match=rf"Mine sets self\.{name}"):
        setting(name, value)()


@pytest.mark.parametrize("name", sorted({*PROPERTIES, "hparams", *METHODS}))
def test_submodules_that_would_be_hidden(name: str) -> None:
    with pytest.raises(TakenName, match=rf"Mine sets self\.{name} to a Linear"):
        setting(name, nn.Linear(1, 1))()
    module = BoringModel()
    with pytest.raises(TakenName, match=rf"sets self\.{name} to a Linear"):
        module.add_module(name, nn.Linear(1, 1))
    setattr(module, name, nn.Linear(1, 1))  # nobody sees this but torch
    with pytest.raises(TakenName, match=rf"sets self\.{name} to a Linear"):
        kit.trainer().fit(module)


def test_an_error_that_comes_of_it_says_so() -> None:
    class Mine(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.logger = nn.Linear(2, 2)  # type: ignore[assignment]  # the mistake under test
            self.logger.weight.data.fill_(1.0)  # type: ignore[union-attr]

    with pytest.raises(TakenName, match=r"Mine sets self\.logger to a Linear"):
        Mine()


@pytest.mark.parametrize("value", ["mine", 3, object(), [1]], ids=lambda value: type(value).__name__)
def test_a_trainer_that_is_none(value: Any) -> None:
    with pytest.raises(TakenName, match=r"sets self\.trainer"):
        setting("trainer", value)()
    with pytest.raises(InvalidType, match="hyper-parameters="):
        setting("hparams", 5)()


@pytest.mark.parametrize(
    "name", ["setup", "prepare_data", "training_step", "on_train_start", "parameters", "state_dict", "forward"]
)
def test_values_in_the_place_of_a_method_that_is_called(name: str) -> None:
    with pytest.raises(TakenName, match=rf"Mine sets self\.{name} to a str"):
        setting(name, "mine")()


def test_a_buffer_in_the_place_of_a_method() -> None:
    with pytest.raises(TakenName, match=r"sets self\.setup to a Tensor"):
        BoringModel().register_buffer("setup", torch.ones(1))


@pytest.mark.parametrize("name", ["log", "log_dict", "print", "optimizers", "lr_schedulers", "freeze", "half"])
def test_values_in_the_place_of_a_method_that_only_its_author_calls(name: str) -> None:
    value = logging.getLogger("mine")

    class Watching(leyden.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            self.log("seen", 1.0)

    module = setting(name, value)()
    trainer = kit.trainer(Watching(), limit_train_batches=1, limit_val_batches=0)
    trainer.fit(module)
    assert getattr(module, name) is value
    assert trainer.callback_metrics["seen"] == 1.0


def test_what_may_be_set() -> None:
    class Mine(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.hparams = {"a": 1}
            self.example_input_array = torch.ones(1, 32)
            self.started = 0
            self.on_train_start = self.start  # type: ignore[method-assign]
            self.encoder = nn.Identity()

        @leyden.not_a_hook
        def start(self) -> None:
            self.started += 1

    class Own(Mine):
        device = "mine"  # type: ignore[assignment]  # what a class of the user's hides is its own affair

        def __init__(self) -> None:
            super().__init__()
            self.device = "cpu"  # type: ignore[assignment]

    module = Mine()
    kit.trainer(limit_train_batches=1, limit_val_batches=0).fit(module)
    assert module.started == 1
    assert Own().device == "cpu"


def test_a_module_is_given_its_trainer_by_hand() -> None:
    module, trainer = BoringModel(), kit.trainer()
    module.trainer = trainer
    assert module.trainer is trainer
    module.trainer = None
