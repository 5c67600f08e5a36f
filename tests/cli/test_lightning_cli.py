"""LightningCLI as a program uses it: what a command line and configuration files make, and what is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import configured
import jsonargparse
import pytest
import torch
from configured import Chosen, DeepEncoder, Loads, OnlyFit, Outer, TwoOptimizers, WideNet
from kit import QUIET

import leyden
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from leyden.cli import LightningArgumentParser, LightningCLI, ReduceLROnPlateau, SaveConfigCallback, instantiate_class
from leyden.errors import InvalidType, LeydenWarning, MisconfigurationException, PossibleUserWarning, UnknownName
from leyden.loggers import CSVLogger
from leyden.testing import BoringModel

ONCE: dict[str, Any] = {**QUIET, "max_steps": 1, "limit_val_batches": 1, "limit_test_batches": 1, "limit_predict_batches": 1}
MAKER = "leyden.cli.instantiate_module"


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that was started without a word."""
    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def made(*args: str, model: Any = WideNet, kind: type[LightningCLI] = LightningCLI, **options: Any) -> LightningCLI:
    """What a command line makes, without running anything."""
    options = {"trainer_defaults": QUIET, "save_config_callback": None, "run": False, **options}
    return kind(model, args=["--seed_everything=3", *args], **options)


def test_the_words_of_the_command_line_become_arguments() -> None:
    cli = made("--model.width=7", "--data.batch", "3", "--trainer.max_epochs=2", datamodule_class=Loads)
    assert (cli.model.width, cli.datamodule.batch, cli.trainer.max_epochs) == (7, 3, 2)
    assert cli.config["model"]["width"] == 7
    assert cli.config_init["model"] is cli.model
    assert (cli.subcommand, cli.config["seed_everything"]) == (None, 3)


def test_classes_are_named_where_none_is_given() -> None:
    cli = made("--model=WideNet", "--model.width=9", "--data=configured.Loads", "--data.batch=2", model=None)
    assert (type(cli.model), cli.model.width, type(cli.datamodule), cli.datamodule.batch) == (WideNet, 9, Loads, 2)
    assert made("--model=WideNet", model=None).datamodule is None


def test_subclass_mode_takes_a_subclass_of_the_class() -> None:
    both = {"datamodule_class": leyden.LightningDataModule, "subclass_mode_model": True, "subclass_mode_data": True}
    cli = made("--model=WideNet", "--model.init_args.width=5", "--data=Loads", model=BoringModel, **both)
    assert (type(cli.model), cli.model.width, type(cli.datamodule)) == (WideNet, 5, Loads)


def test_functions_that_return_a_module_and_a_trainer() -> None:
    def net(half: int = 2) -> WideNet:
        return WideNet(width=half * 2)

    def trainer(epochs: int = 1, **rest: Any) -> leyden.Trainer:
        return leyden.Trainer(max_epochs=epochs, **{**QUIET, **rest})

    with pytest.warns(LeydenWarning, match="takes no argument 'callbacks'"):
        cli = made("--model.half=5", "--trainer.epochs=4", model=net, trainer_class=trainer, trainer_defaults=None)
    assert (cli.model.width, cli.trainer.max_epochs) == (10, 4)


def test_what_a_constructor_hands_on_to_torch_is_an_argument_too() -> None:
    words = ["DDPStrategy", "find_unused_parameters=true", "gradient_as_bucket_view=true"]
    strategy = made("--trainer.strategy=" + words[0], *(f"--trainer.strategy.{word}" for word in words[1:])).trainer.strategy
    assert [strategy._ddp_kwargs[name] for name in ("find_unused_parameters", "gradient_as_bucket_view", "static_graph")] == [
        *(True, True, False)
    ]
    profiler = made("--trainer.profiler=PyTorchProfiler", "--trainer.profiler.record_shapes=true").trainer.profiler
    assert profiler.profiler_kwargs == {"record_shapes": True}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("StochasticWeightAveraging swa_lrs=0.1 device=cpu", "device: cpu"),
        ("ModelPruning pruning_fn=l1_unstructured", "pruning_fn: l1_unstructured"),
        ("EMAWeightAveraging decay=0.5 multi_avg_fn=null", "multi_avg_fn: null"),  # as Lightning writes it
    ],
)
def test_what_was_printed_makes_the_same_again(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = words.split()
    given = [f"--trainer.callbacks={name}", *(f"--trainer.callbacks.{each}" for each in arguments)]
    with pytest.raises(SystemExit):
        made(*given, "--print_config")
    printed = capsys.readouterr().out
    assert line in printed
    Path("printed.yaml").write_text(printed)
    assert type(made("--config=printed.yaml").trainer.callbacks[0]).__name__ == name


def test_null_is_no_path_of_that_name() -> None:
    cli = made("--trainer.default_root_dir=null")
    assert (cli.config["trainer"]["default_root_dir"], cli.trainer.default_root_dir) == (None, os.getcwd())
    run = LightningCLI(WideNet, args=["validate", "--ckpt_path=null"], trainer_defaults=ONCE, save_config_callback=None)
    assert run.config["validate"]["ckpt_path"] is None


def test_a_dict_in_place_of_words() -> None:
    given = {"model": {"width": 2}, "trainer": {"max_epochs": 3}, "seed_everything": 5}
    cli = LightningCLI(WideNet, args=given, run=False, trainer_defaults=QUIET)
    assert (cli.model.width, cli.trainer.max_epochs, cli.config["seed_everything"]) == (2, 3, 5)


def test_args_beside_words_of_the_command_line_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["main.py", "--model.width=1"])
    with pytest.warns(PossibleUserWarning, match=r"not read: \['--model.width=1'\]"):
        assert made("--model.width=2").model.width == 2
    assert LightningCLI(WideNet, run=False, trainer_defaults=QUIET).model.width == 1


def test_the_words_of_a_notebooks_kernel_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/site-packages/ipykernel_launcher.py", "-f", "/tmp/kernel.json"])
    assert made("--model.width=2").model.width == 2
    assert LightningCLI(WideNet, run=False, trainer_defaults=QUIET).trainer.max_epochs is not None


def test_configuration_files_are_merged_and_the_command_line_wins(own_folder: Path) -> None:
    Path("first.yaml").write_text("model: {width: 1, rate: 0.5}\ntrainer: {max_epochs: 2}\n")
    Path("second.yaml").write_text("model: {width: 3}\n")
    cli = made("--config", "first.yaml", "-c", "second.yaml", "--trainer.max_epochs=8")
    assert (cli.model.width, cli.model.rate, cli.trainer.max_epochs) == (3, 0.5, 8)


def test_objects_from_a_file_by_names_of_lightning_and_by_short_ones(own_folder: Path) -> None:
    Path("run.yaml").write_text("""
trainer:
  logger:
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: logs}
  enable_checkpointing: true
  callbacks:
    - class_path: pytorch_lightning.callbacks.early_stopping.EarlyStopping
      init_args: {monitor: loss, patience: 2}
    - lightning.pytorch.callbacks.LearningRateMonitor
    - class_path: ModelCheckpoint
      init_args: {monitor: loss, save_top_k: 2}
  plugins: {class_path: lightning.pytorch.plugins.io.TorchCheckpointIO}
  strategy: {class_path: SingleDeviceStrategy, init_args: {device: cpu}}
model:
  class_path: lightning.pytorch.demos.boring_classes.BoringModel
""")
    cli = made("--config=run.yaml", model=None)
    kinds = {type(callback) for callback in cli.trainer.callbacks}
    assert {EarlyStopping, LearningRateMonitor, ModelCheckpoint} <= kinds
    assert isinstance(cli.trainer.logger, CSVLogger)
    assert type(cli.model) is BoringModel
    assert type(cli.trainer.strategy).__name__ == "SingleDeviceStrategy"
    assert cli.config["trainer"]["callbacks"][0].class_path == "leyden.callbacks.early_stopping.EarlyStopping"


def test_callbacks_and_a_logger_on_the_command_line() -> None:
    cli = made(
        *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=loss", "--trainer.callbacks.patience=5"),
        *("--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor", "--trainer.callbacks.logging_interval=epoch"),
        *("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"),
    )
    found = [callback for callback in cli.trainer.callbacks if isinstance(callback, EarlyStopping | LearningRateMonitor)]
    assert [getattr(callback, "patience", None) or callback.logging_interval for callback in found] == [5, "epoch"]
    assert isinstance(cli.trainer.logger, CSVLogger)


def test_environment_variables(monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    Path("run.yaml").write_text("model: {rate: 3.0}\n")
    monkeypatch.setenv("MINE_MODEL__WIDTH", "13")
    monkeypatch.setenv("MINE_CONFIG", "run.yaml")
    monkeypatch.setenv("MINE_TRAINER__CALLBACKS", "lightning.pytorch.callbacks.LearningRateMonitor")
    cli = made(
        "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=x", parser_kwargs={"default_env": True, "env_prefix": "MINE"}
    )
    assert (cli.model.width, cli.model.rate) == (13, 3.0)
    assert any(isinstance(callback, LearningRateMonitor) for callback in cli.trainer.callbacks)


def test_interpolation(own_folder: Path) -> None:
    Path("run.yaml").write_text("model: {width: 20}\ntrainer: {max_epochs: '${model.width}'}\n")
    assert made("--config=run.yaml", parser_kwargs={"parser_mode": "omegaconf"}).trainer.max_epochs == 20


class Linked(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.batch", "trainer.max_epochs")
        parser.link_arguments("data.classes", "model.width", apply_on="instantiate")


def test_linked_arguments() -> None:
    cli = made("--data.batch=6", kind=Linked, datamodule_class=Loads)
    assert (cli.trainer.max_epochs, cli.model.width) == (6, 10)
    assert dict(cli.model.hparams) == {"width": 10, "encoder": None, "rate": 0.1, "_instantiator": MAKER}


def test_the_trainers_defaults_may_be_others() -> None:
    always = leyden.Callback()
    defaults = {**QUIET, "max_epochs": 11, "callbacks": always}
    cli = made("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=loss", trainer_defaults=defaults)
    assert cli.trainer.max_epochs == 11
    assert always in cli.trainer.callbacks
    assert any(isinstance(callback, EarlyStopping) for callback in cli.trainer.callbacks)


class WithStop(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(EarlyStopping, "stop")
        parser.set_defaults({"stop.monitor": "loss", "stop.patience": 5})


def test_a_callback_of_the_programs_own() -> None:
    cli = made("--stop.patience=8", kind=WithStop)
    assert [callback.patience for callback in cli.trainer.callbacks if isinstance(callback, EarlyStopping)] == [8]
    assert isinstance(made(kind=WithStop).instantiate_trainer(max_epochs=77).max_epochs, int)


# Optimizers


def test_an_optimizer_and_a_scheduler_by_class() -> None:
    words = ("--optimizer=Adam", "--optimizer.lr=0.01", "--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=5")
    with pytest.warns(
        PossibleUserWarning, match=r"WideNet.configure_optimizers is not called: the command line gives --optimizer"
    ):
        cli = made(*words)
    (optimizer,), (scheduler,) = cli.model.configure_optimizers()
    assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.Adam, 0.01)
    assert (type(scheduler).__name__, scheduler.T_max) == ("CosineAnnealingLR", 5)


@pytest.mark.filterwarnings("ignore:.*configure_optimizers is not called")
def test_a_scheduler_that_follows_a_metric() -> None:
    words = ("--optimizer=SGD", "--optimizer.lr=0.1", "--lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau")
    cli = made(*words, "--lr_scheduler.monitor=loss", "--lr_scheduler.patience=4")
    plan = cli.model.configure_optimizers()["lr_scheduler"]
    assert (plan["monitor"], type(plan["scheduler"]), plan["scheduler"].patience) == ("loss", ReduceLROnPlateau, 4)


@pytest.mark.filterwarnings("ignore:.*configure_optimizers is not called")
def test_an_optimizer_of_one_class() -> None:
    class Fixed(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(torch.optim.AdamW)
            parser.add_lr_scheduler_args(torch.optim.lr_scheduler.ExponentialLR)

        @staticmethod
        def configure_optimizers(lightning_module: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    cli = made("--optimizer.lr=0.02", "--lr_scheduler.gamma=0.5", kind=Fixed)
    made_by = cli.model.configure_optimizers()
    assert (type(made_by["optimizer"]), made_by["optimizer"].defaults["lr"]) == (torch.optim.AdamW, 0.02)
    assert (made_by["lr_scheduler"]["scheduler"].gamma, made_by["lr_scheduler"]["interval"]) == (0.5, "step")


def test_several_optimizers_are_handed_to_the_module() -> None:
    class Two(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(torch.optim.Adam, nested_key="generator", link_to="model.one")
            kinds = (torch.optim.Adam, torch.optim.SGD)
            parser.add_optimizer_args(kinds, nested_key="judge", link_to="model.other")

    words = ("--generator.lr=0.01", "--judge=SGD", "--judge.lr=0.3")
    one, other = made(*words, model=TwoOptimizers, kind=Two, auto_configure_optimizers=False).model.configure_optimizers()
    assert (type(one), one.defaults["lr"]) == (torch.optim.Adam, 0.01)
    assert (type(other), other.defaults["lr"]) == (torch.optim.SGD, 0.3)


def test_two_optimizers_cannot_both_be_the_modules() -> None:
    class Two(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args((torch.optim.Adam,), nested_key="one")
            parser.add_optimizer_args((torch.optim.SGD,), nested_key="other")

    with pytest.raises(MisconfigurationException, match="was given 'one', 'other'"):
        made(kind=Two)


def test_a_scheduler_needs_an_optimizer() -> None:
    with pytest.raises(MisconfigurationException, match="--lr_scheduler was given without --optimizer"):
        made("--lr_scheduler=StepLR", "--lr_scheduler.step_size=1")


def test_an_optimizer_as_an_argument_of_the_module() -> None:
    words = ("--model.optimizer=SGD", "--model.optimizer.lr=0.5", "--model.scheduler=StepLR", "--model.scheduler.step_size=2")
    (optimizer,), (scheduler,) = made(*words, model=Chosen, auto_configure_optimizers=False).model.configure_optimizers()
    assert (type(optimizer), optimizer.defaults["lr"], scheduler.step_size) == (torch.optim.SGD, 0.5, 2)


def test_a_class_by_its_path() -> None:
    made_of = instantiate_class(1, {"class_path": "configured.DeepEncoder", "init_args": {"depth": 7}})
    assert (made_of.width, made_of.depth) == (1, 7)
    assert instantiate_class((1, 2), {"class_path": "configured.DeepEncoder"}).depth == 2
    with pytest.raises(UnknownName, match="Did you mean 'DeepEncoder'"):
        instantiate_class((), {"class_path": "configured.DepEncoder"})
    with pytest.raises(UnknownName, match="no module 'nowhere'"):
        instantiate_class((), {"class_path": "nowhere.Thing"})
    with pytest.raises(InvalidType, match="init="):
        instantiate_class((), {"init_args": {}})


# Subcommands


def test_a_fit_is_run_between_its_hooks(own_folder: Path) -> None:
    told: list[Any] = []

    class Told(OnlyFit):
        def before_instantiate_classes(self) -> None:
            told.append("before making")

        def after_instantiate_classes(self) -> None:
            told.append(f"made {self.model.width}")

        def before_fit(self) -> None:
            told.append("before fit")

        def after_fit(self) -> None:
            told.append(self.trainer.global_step)

    cli = Told(WideNet, Loads, args=["fit", "--model.width=2"], trainer_defaults=ONCE)
    assert told == ["before making", "made 2", "before fit", 1]
    assert (cli.subcommand, cli.trainer.state.fn) == ("fit", "fit")


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_other_verbs(verb: str) -> None:
    cli = LightningCLI(WideNet, Loads, args=[verb], trainer_defaults=ONCE, save_config_callback=None)
    assert (cli.subcommand, cli.trainer.state.fn) == (verb, verb)


def test_a_file_for_several_subcommands_and_a_verb_of_the_programs_own(own_folder: Path) -> None:
    class Handed(OnlyFit):
        def fit(self, model: Any, **rest: Any) -> None:
            self.handed = (model.width, sorted(rest))

    Path("all.yaml").write_text("fit: {model: {width: 31}}\n")
    Path("more.yaml").write_text("model: {rate: 0.75}\n")
    words = ["--config=all.yaml", "fit", "--config=more.yaml", "--ckpt_path=last"]
    cli = Handed(WideNet, Loads, args=words, trainer_defaults=QUIET)
    assert cli.handed == (31, ["ckpt_path", "datamodule", "weights_only"])
    assert cli.model.rate == 0.75


def test_a_subcommand_of_the_trainers(own_folder: Path) -> None:
    class Tuned(leyden.Trainer):
        def adjust(self, model: Any, steps: int = 2) -> None:
            """Adjust it."""
            self.adjusted = (model.width, steps)

    class Own(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {"adjust": {"model"}}

    cli = Own(WideNet, trainer_class=Tuned, args=["adjust", "--steps=9"], trainer_defaults=QUIET)
    assert cli.trainer.adjusted == (4, 9)


def test_defaults_for_one_subcommand(own_folder: Path) -> None:
    Path("fit.yaml").write_text("model: {width: 8}\n")

    class Unrun(OnlyFit):
        def fit(self, **_: Any) -> None:
            return

    cli = Unrun(WideNet, parser_kwargs={"fit": {"default_config_files": ["fit.yaml"]}}, args=["fit"], trainer_defaults=QUIET)
    assert cli.model.width == 8


@pytest.mark.parametrize(("asked", "seed"), [("12", 12), ("false", False)])
def test_seeds(asked: str, seed: Any) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    cli = LightningCLI(WideNet, run=False, args=[f"--seed_everything={asked}"], trainer_defaults=QUIET)
    assert cli.config["seed_everything"] == seed
    assert (torch.initial_seed() == 12) == (asked == "12")
    assert (asked == "false") == (torch.initial_seed() == 99)
    assert before is not None
    assert (
        LightningCLI(WideNet, run=False, args=[], trainer_defaults=QUIET, seed_everything_default=5).config["seed_everything"]
        == 5
    )


# What it keeps


def test_what_is_for_tests_stands_in_no_configuration() -> None:
    cli = made("--trainer.callbacks+=Timer", "--trainer.callbacks+=ModelCheckpoint", "--trainer.enable_checkpointing=true")
    text = cli.parser.dump(cli.config, skip_none=False)
    assert "interval: step" in text
    assert "save_top_k: 1" in text
    assert "clock" not in text


def test_the_configuration_stands_beside_the_logs_and_can_be_run_again(own_folder: Path) -> None:
    options = {**ONCE, "default_root_dir": "run"}
    OnlyFit(WideNet, Loads, args=["fit", "--model.width=6", "--model.encoder=DeepEncoder"], trainer_defaults=options)
    text = Path("run/config.yaml").read_text()
    assert text.startswith(f"# leyden=={leyden.__version__}\nseed_everything: 0\n")
    with pytest.raises(RuntimeError, match=r"found .*config.yaml' there already, of another run: nothing was overwritten"):
        OnlyFit(WideNet, Loads, args=["fit"], trainer_defaults=options)
    assert Path("run/config.yaml").read_text() == text
    name = {"config_filename": "again.yaml"}
    cli = OnlyFit(WideNet, Loads, args=["fit", "--config=run/config.yaml"], trainer_defaults=options, save_config_kwargs=name)
    assert (cli.model.width, type(cli.model.encoder)) == (6, DeepEncoder)
    assert Path("run/again.yaml").read_text() == text
    write_over = {"overwrite": True}
    OnlyFit(WideNet, Loads, args=["fit", "--model.width=1"], trainer_defaults=options, save_config_kwargs=write_over)
    assert "width: 1\n" in Path("run/config.yaml").read_text()


def test_a_run_that_goes_on_keeps_both_configurations(own_folder: Path) -> None:
    options = {**ONCE, "default_root_dir": "run"}
    cli = OnlyFit(WideNet, Loads, args=["fit"], trainer_defaults=options)
    cli.trainer.save_checkpoint("run/a.ckpt")
    for _ in range(2):
        words = ["fit", "--ckpt_path=run/a.ckpt", "--trainer.max_steps=2"]
        cli = OnlyFit(WideNet, Loads, args=words, trainer_defaults=options)
    assert cli.trainer.global_step == 2
    assert sorted(path.name for path in Path("run").glob("*.yaml")) == ["config-1.yaml", "config.yaml"]


def test_a_configuration_of_several_files_is_kept_as_several(own_folder: Path) -> None:
    Path("net.yaml").write_text("width: 55\n")
    Path("main.yaml").write_text("model: net.yaml\n")
    options = {**ONCE, "default_root_dir": "run"}
    OnlyFit(WideNet, Loads, args=["fit", "--config=main.yaml"], trainer_defaults=options, save_config_kwargs={"multifile": True})
    assert "width: 55" in Path("run/net.yaml").read_text()
    assert "model: net.yaml" in Path("run/config.yaml").read_text()


def test_a_callback_of_the_programs_own_keeps_the_configuration_elsewhere(own_folder: Path) -> None:
    class Logged(SaveConfigCallback):
        def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
            trainer.logger.log_hyperparams({"config": self.parser.dump(self.config, skip_none=False), "stage": stage})

    words = ["fit", "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"]
    kept = {"save_to_log_dir": False}
    cli = OnlyFit(WideNet, Loads, args=words, trainer_defaults=ONCE, save_config_callback=Logged, save_config_kwargs=kept)
    folder = Path(str(cli.trainer.log_dir))
    assert not (folder / "config.yaml").exists()
    assert "encoder: null" in (folder / "hparams.yaml").read_text()
    OnlyFit(WideNet, Loads, args=["fit", "--trainer.fast_dev_run=1"], trainer_defaults=QUIET)  # writes nothing
    assert not Path("config.yaml").exists()


def test_a_callback_that_would_save_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="SaveConfigCallback would save nothing: override save_config"):
        SaveConfigCallback(LightningArgumentParser(), jsonargparse.Namespace(), save_to_log_dir=False)


def test_hyperparameters_are_what_the_configuration_says() -> None:
    cli = made("--model.encoder=DeepEncoder", "--data.batch=3", datamodule_class=Loads)
    encoder = {"class_path": "configured.DeepEncoder", "init_args": {"width": 5, "depth": 2}}
    assert dict(cli.model.hparams) == {"width": 4, "encoder": encoder, "rate": 0.1, "_instantiator": MAKER}
    assert dict(cli.datamodule.hparams) == {"batch": 3, "_instantiator": MAKER}
    named = made("--model=WideNet", model=BoringModel, subclass_mode_model=True).model.hparams
    assert named["_class_path"] == "configured.WideNet"
    with pytest.warns(PossibleUserWarning, match="'encoder' is a torch module"):
        plain = made("--model.encoder=DeepEncoder", load_from_checkpoint_support=False).model.hparams
    assert isinstance(plain["encoder"], DeepEncoder)
    assert "_instantiator" not in plain


def test_a_module_inside_another_keeps_its_own_hyperparameters() -> None:
    cli = made("--model.size=5", model=Outer)
    assert dict(cli.model.hparams) == {"size": 5, "_instantiator": MAKER}
    assert dict(cli.model.inner.hparams) == {"size": 6}


def test_a_checkpoints_hyperparameters_make_the_module(own_folder: Path) -> None:
    words = ["fit", "--model.encoder=DeepEncoder", "--model.encoder.depth=7", "--model.width=6"]
    cli = LightningCLI(WideNet, Loads, args=words, trainer_defaults=ONCE, save_config_callback=None)
    cli.trainer.save_checkpoint("a.ckpt")
    again = ["validate", "--ckpt_path=a.ckpt"]
    cli = LightningCLI(WideNet, Loads, args=again, trainer_defaults=ONCE, save_config_callback=None)
    assert (cli.model.width, cli.model.encoder.depth) == (6, 7)
    with pytest.warns(LeydenWarning, match=r"model.width=9 was asked for, and 'a.ckpt' was saved with 6, which counts"):
        cli = LightningCLI(WideNet, Loads, args=[*again, "--model.width=9"], trainer_defaults=ONCE, save_config_callback=None)
    assert cli.model.width == 6
    cli = LightningCLI(None, Loads, args=["test", "--model=WideNet", "--ckpt_path=a.ckpt"], trainer_defaults=ONCE)
    assert (type(cli.model), cli.model.width) == (WideNet, 6)


def test_arguments_that_are_none_are_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'save_config_kwargs'"):
        LightningCLI(WideNet, save_config_kwarg={})  # type: ignore[call-arg]
    parser = LightningArgumentParser()
    with pytest.raises(MisconfigurationException, match="a subclass of Trainer, LightningModule"):
        parser.add_lightning_class_args(DeepEncoder, "encoder")
    with pytest.raises(MisconfigurationException, match="whose annotation says what it returns"):
        parser.add_lightning_class_args(lambda: WideNet(), "model")
    with pytest.raises(MisconfigurationException, match="a subclass of Optimizer"):
        parser.add_optimizer_args(DeepEncoder)  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match="LRScheduler or ReduceLROnPlateau"):
        parser.add_lr_scheduler_args((torch.optim.SGD,))
    assert os.fspath(Path(configured.__file__)).endswith("configured.py")
