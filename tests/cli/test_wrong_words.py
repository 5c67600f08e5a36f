"""A wrong word on the command line or in a file ends with code 2, and the right one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from configured import Loads, OnlyFit, WideNet
from kit import QUIET

from leyden.cli import LightningCLI
from leyden.errors import InvalidOption, MissingPackage, UnknownName
from leyden.loggers import CSVLogger

WORDS = [
    (["--trainer.max_epochss=3"], "Did you mean '--trainer.max_epochs'?"),
    (["--model.wdth=1"], "Did you mean '--model.width'?"),
    (["--trainer.callbacks=EarlyStoping"], "Did you mean 'EarlyStopping'?"),
    (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.montor=x"], "Did you mean 'monitor'?"),
    (["--optimizer=Adm"], "Did you mean 'Adam'?"),
    (["--optimizer=Adam", "--optimizer.lrr=1"], "Did you mean 'lr'?"),
    (["--model.encoder=DeepEncodr"], "Did you mean 'DeepEncoder'?"),
    (["--trainer.gradient_clip_algorithm=nrm"], "Did you mean 'norm'?"),
    (["--trainer.max_epochs=many"], "Expected a <class 'int'>"),
]
FILES = [
    ("trainer: {max_epoch: 3}", "Did you mean 'max_epochs'?"),
    ("modle: {width: 3}", "Did you mean 'model"),
    ("model: {width: wide}", 'Parser key "model.width"'),
    ("trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: a, patienc: 3}}]}", "Did you mean 'patience'?"),
    ("trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EarlyStoping}]}", "leyden.callbacks has no 'EarlyStoping'"),
    ("trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EarlyStoping}]}", "Did you mean 'EarlyStopping'?"),
    ("trainer: {callbacks: [lightning.pytorch.callbacks.XLAStatsMonitor]}", "it is not offered"),
    ("trainer: {callbacks: [{class_path: EarlyStoping}]}", "Did you mean 'EarlyStopping'?"),
    ("trainer: {logger: {class_path: CVSLogger}}", "Did you mean 'CSVLogger'?"),
    ("trainer: [1]", "trainer: the Trainer's arguments by name are expected, and not [1]"),
    ("model: 3", "model: the WideNet's arguments by name are expected, and not 3"),
    ("model: null", "model: the WideNet's arguments by name are expected, and not None"),
    ("data: true", "data: the Loads's arguments by name are expected, and not True"),
    ("model: {encoder: {class_path: 3}}", "model.encoder.class_path=3 cannot be used: expected the import path of a class"),
    ("model: {encoder: {class_path: DeepEncoder, init_args: 3}}", "model.encoder.init_args=3 cannot be used: expected the arg"),
    ("trainer: {callbacks: [{class_path: Timer}, {class_path: [1]}]}", "trainer.callbacks[1].class_path=[1] cannot be used"),
    ("optimizer: {class_path: SGD, init_args: null}", "optimizer.init_args=None cannot be used: expected the arguments of SGD"),
    ("model: [1", "Problems parsing config"),
    ("", "it is empty"),
    ("- 1", "keys and their values are expected, and not '- 1'"),
    ("\x89PNG", "a configuration file has to be a text file"),
]


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["main.py"])


def refused(capsys: pytest.CaptureFixture[str], *words: str, run: bool = False) -> str:
    with pytest.raises(SystemExit) as end:
        LightningCLI(WideNet, Loads, args=list(words), run=run, trainer_defaults=QUIET)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("Did you mean") <= 1, said
    return said


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in WORDS:
        assert expected in refused(capsys, *words), words


def test_in_a_file(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    for text, expected in FILES:
        Path("run.yaml").write_bytes(text.encode("latin-1"))
        said = refused(capsys, "--config=run.yaml")
        assert "error: run.yaml: " in said, text
        assert expected in said, text
    assert "a configuration file has to be a text file" in refused(capsys, "--model=run.yaml")
    assert "File does not exist" in refused(capsys, "--config=nowhere.yaml")


def test_without_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"needs the package 'jsonargparse', .* pip install 'leyden\[cli\]'"):
        LightningCLI(WideNet, args=[])


def test_among_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'fit'?" in refused(capsys, "fi", run=True)
    assert "say it after fit or validate" in refused(capsys, "--trainer.max_epochs=1", run=True)
    assert "Did you mean '--model.width'?" in refused(capsys, "fit", "--modl.width=1", run=True)


def test_in_a_file_for_a_subcommand(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    for text, words, expected in (
        ("modle: {widt: 3}", ("fit", "--config=run.yaml"), "Did you mean 'model.width'?"),
        ("fit: {trainer: {max_epoch: 3}}", ("--config=run.yaml", "fit"), "Did you mean 'trainer.max_epochs'?"),
        ("fit: {model: 3}", ("--config=run.yaml", "fit"), "run.yaml: fit.model: the WideNet's arguments by name are expected"),
        ("fit: 3", ("--config=run.yaml", "fit"), "run.yaml: fit: the arguments of fit by name are expected, and not 3"),
        ("fit: {model: {width: 3}}", ("fit", "--config=run.yaml"), "is said before it: --config FILE fit."),
    ):
        Path("run.yaml").write_text(text)
        with pytest.raises(SystemExit):
            OnlyFit(WideNet, args=list(words))
        assert expected in capsys.readouterr().err, text


def test_in_a_dict_and_in_a_file_of_two(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    for given, expected in (
        ({"model": 3}, "model: the WideNet's arguments by name are expected, and not 3"),
        ({"data": {"class_path": 3}}, "data.class_path=3 cannot be used"),
    ):
        with pytest.raises(SystemExit):
            LightningCLI(WideNet, Loads, args=given, run=False)
        assert expected in capsys.readouterr().err
    Path("first.yaml").write_text("model: {width: 3}")
    Path("second.yaml").write_text("modle: {width: 3}")
    assert "error: second.yaml: Option 'modle.width'" in refused(capsys, "--config=second.yaml", "--config=first.yaml")
    assert "error: Parser key" in refused(capsys, "--config=first.yaml", "--model.width=x"), "the word is not the file's"


def test_what_a_constructor_refuses_is_said_in_its_own_words() -> None:
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.patience=-1"]
    with pytest.raises(InvalidOption, match=r"^patience=-1 cannot be used: expected a number of checks >= 0\.$"):
        LightningCLI(WideNet, Loads, args=words, run=False, trainer_defaults=QUIET)
    with pytest.raises(UnknownName, match=r"trainer_defaults got an unknown argument 'max_epoch'\. Did you mean 'max_epochs'"):
        LightningCLI(WideNet, Loads, args=[], run=False, trainer_defaults={"max_epoch": 3})


def test_what_help_and_print_config_show(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (["fit", "--help"], ["fit", "--model.help", "WideNet"], ["fit", "--trainer.callbacks.help=EarlyStopping"]):
        with pytest.raises(SystemExit) as end:
            OnlyFit(None if "WideNet" in words else WideNet, args=words)
        assert not end.value.code
        shown.append(capsys.readouterr().out)
    assert "how wide the net is." in shown[0]
    assert "epochs to train; ``-1`` without limit" in " ".join(shown[0].split())
    assert "how wide the net is." in shown[1]
    assert "--trainer.callbacks.patience" in shown[2]
    with pytest.raises(SystemExit):
        OnlyFit(WideNet, Loads, args=["fit", "--model.width=3", "--print_config"])
    printed = capsys.readouterr().out
    assert "model:\n  width: 3\n  encoder: null\n  rate: 0.1\ndata:\n  batch: 8\n" in printed


def test_an_object_as_a_default_is_told_how_a_file_says_it() -> None:
    with pytest.raises(InvalidOption, match=r"trainer_defaults\['logger'\].*CSVLogger.*lazy_instance\(CSVLogger"):
        LightningCLI(WideNet, args=[], run=False, trainer_defaults={**QUIET, "logger": CSVLogger("logs")})
    given = {**QUIET, "logger": {"class_path": "leyden.loggers.csv.CSVLogger", "init_args": {"save_dir": "logs"}}}
    made = LightningCLI(WideNet, args=[], run=False, trainer_defaults=given, save_config_callback=None)
    assert made.trainer.logger.save_dir == "logs"
