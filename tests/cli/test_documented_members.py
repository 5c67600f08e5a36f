"""Members of the command line's classes that their documents name and that programs call or override."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configured import WideNet
from kit import QUIET

from leyden.callbacks import EarlyStopping
from leyden.cli import LightningArgumentParser, LightningCLI, ReduceLROnPlateau, SaveConfigCallback
from leyden.errors import InvalidOption
from leyden.testing import BoringModel
from leyden.trainer.trainer import Trainer

ONCE: dict[str, Any] = {**QUIET, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def parser() -> Any:
    made = LightningArgumentParser(description="Hello", env_prefix="XX", default_env=True)
    added = made.add_lightning_class_args(EarlyStopping, "es")
    assert "es.monitor" in added
    assert made.callback_keys == ["es"]
    made.add_optimizer_args(torch.optim.Adam, "o")
    made.add_lr_scheduler_args(torch.optim.lr_scheduler.StepLR, "s")
    made.add_lightning_class_args(Trainer, "trainer")
    return made


def test_a_parser_of_ones_own_reads_words_dicts_texts_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    own = parser()
    assert (own.description, own.env_prefix) == ("Hello", "XX")
    words = own.parse_args(["--es.monitor=x", "--s.step_size=3", "--o.lr=0.5"])
    assert (words.es.monitor, words.s.step_size, words.o.lr) == ("x", 3, 0.5)
    assert own.parse_object({"es": {"monitor": "y"}, "s": {"step_size": 1}}).es.monitor == "y"
    monkeypatch.setenv("XX_ES__MONITOR", "w")
    monkeypatch.setenv("XX_S__STEP_SIZE", "4")
    assert own.parse_env().s.step_size == 4
    read = own.parse_string("es: {monitor: z}\ns: {step_size: 2}")
    made = own.instantiate_classes(read)
    assert (type(made.es), made.es.monitor, made.trainer.max_epochs) == (EarlyStopping, "z", None)


@pytest.mark.parametrize("required", [True, False])
def test_a_class_by_its_name_may_be_required(required: bool, capsys: pytest.CaptureFixture[str]) -> None:
    own = LightningArgumentParser()
    own.add_lightning_class_args(BoringModel, "m", subclass_mode=True, required=required)
    assert type(own.instantiate_classes(own.parse_args(["--m=WideNet"])).m) is WideNet
    if not required:
        assert own.parse_args([]).m is None
        return
    with pytest.raises(SystemExit):
        own.parse_args([])
    assert "are required: m" in capsys.readouterr().err


@pytest.mark.parametrize("run", [True, False])
def test_each_step_of_a_command_line_can_be_overridden(run: bool) -> None:
    calls: list[Any] = []

    class Told(LightningCLI):
        def init_parser(self, **kwargs: Any) -> Any:
            calls.append(("init", kwargs.get("description")))
            return super().init_parser(**kwargs)

        def setup_parser(self, add_subcommands: bool, main_kwargs: Any, subparser_kwargs: Any) -> None:
            calls.append(("setup", add_subcommands))
            super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)

        def add_default_arguments_to_parser(self, parser: Any) -> None:
            calls.append("default")
            super().add_default_arguments_to_parser(parser)

        def add_core_arguments_to_parser(self, parser: Any) -> None:
            calls.append("core")
            super().add_core_arguments_to_parser(parser)

        def add_arguments_to_parser(self, parser: Any) -> None:
            calls.append("own")

        def parse_arguments(self, parser: Any, args: Any) -> None:
            calls.append(("parse", args))
            super().parse_arguments(parser, args)

        def before_instantiate_classes(self) -> None:
            calls.append("before")

        def instantiate_classes(self) -> None:
            calls.append("instantiate")
            super().instantiate_classes()

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            calls.append("trainer")
            return super().instantiate_trainer(**kwargs)

        def after_instantiate_classes(self) -> None:
            calls.append("after")

    args = ["fit"] if run else []
    cli = Told(WideNet, args=args, run=run, save_config_callback=None, trainer_defaults=ONCE, parser_kwargs={"description": "d"})
    steps = [("parse", args), "before", "instantiate", "trainer", "after"]
    assert calls[-5:] == steps
    assert calls[:2] == [("setup", run), ("init", "d")]
    added = [call for call in calls[:-5] if isinstance(call, str)]
    assert added == ["default", "core", "own"] * (4 if run else 1)
    assert cli.trainer.global_step == run


def test_every_argument_of_the_scheduler_with_a_monitor_counts() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    more: dict[str, Any] = {"threshold": 0.1, "threshold_mode": "abs", "cooldown": 1, "min_lr": 0.3, "eps": 1e-9}
    scheduler = ReduceLROnPlateau(optimizer, monitor="m", mode="max", factor=0.5, patience=0, **more)
    rates = []
    for _ in range(6):
        scheduler.step(1.0)
        rates.append(optimizer.param_groups[0]["lr"])
    assert (scheduler.monitor, rates) == ("m", [1.0, 0.5, 0.5, 0.3, 0.3, 0.3])


def test_where_a_configuration_is_kept_and_when_that_is_refused() -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "version": 0}}
    fit: dict[str, Any] = {"args": ["fit"], "trainer_defaults": {**ONCE, "logger": logger}}
    kept = next(each for each in LightningCLI(WideNet, **fit).trainer.callbacks if isinstance(each, SaveConfigCallback))
    assert (kept.config_filename, kept.overwrite, kept.multifile, kept.save_to_log_dir) == ("config.yaml", False, False, True)
    assert kept.already_saved
    with pytest.raises(RuntimeError, match="overwrite"):
        LightningCLI(WideNet, **fit)
    LightningCLI(WideNet, **fit, save_config_kwargs={"overwrite": True})
    with pytest.raises(InvalidOption, match="save_to_log_dir"):
        LightningCLI(WideNet, **fit, save_config_kwargs={"save_to_log_dir": False})
