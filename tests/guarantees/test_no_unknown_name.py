"""Guarantee 4: no unknown name is ignored. Whatever is one edit from a real name is an error that names the right one."""

from __future__ import annotations

import importlib
import inspect
import keyword
import string
import sys
import types
from typing import Any

import kit
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from public_names import concrete, constructor_arguments, public_classes
from torch import nn

import leyden
from leyden import Callback, LightningDataModule, LightningModule, Trainer
from leyden.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from leyden.errors import MissingMonitor, PossibleUserWarning, UnknownName
from leyden.hooks import HOOK_NAMES
from leyden.resembling import one_edit_apart
from leyden.testing import BoringDataModule, BoringModel
from leyden.trainer.checks import DATAMODULE_METHODS, MODULE_METHODS
from leyden.trainer.result import FitResult

QUIET: dict[str, Any] = {
    **kit.QUIET, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0,
}  # fmt: skip
LETTERS = string.ascii_lowercase + "_0123456789"
OLD_MODULE_HOOKS = ("training_epoch_end", "validation_epoch_end", "test_epoch_end", "training_step_end", "configure_optimizer")


@st.composite
def edits(draw: st.DrawFn, names: list[str]) -> tuple[str, str]:
    """A name, and what becomes of it by one letter put in, left out, changed, or swapped with its neighbour."""
    name = draw(st.sampled_from(names))
    at = draw(st.integers(0, len(name) - 1))
    kind = draw(st.sampled_from(["insert", "delete", "substitute", "transpose"]))
    letter = draw(st.sampled_from(LETTERS))
    if kind == "insert":
        edited = name[:at] + letter + name[at:]
    elif kind == "delete":
        edited = name[:at] + name[at + 1 :]
    elif kind == "substitute":
        edited = name[:at] + letter + name[at + 1 :]
    else:
        edited = name[:at] + name[at : at + 2][::-1] + name[at + 2 :]
    return name, edited


def means_something(name: str, base: type, names: list[str]) -> bool:
    return name in names or hasattr(base, name) or name.startswith("_") or not name.isidentifier()


def method(self: Any, *args: Any, **kwargs: Any) -> None:
    """A method of any name."""


def fit(module: Any = None, **options: Any) -> None:
    data = options.pop("datamodule", None)
    Trainer(**{**QUIET, **options}).fit(module or BoringModel(), datamodule=data)


@pytest.mark.parametrize("names", [sorted(MODULE_METHODS), list(OLD_MODULE_HOOKS)], ids=["today", "2020"])
def test_module_hooks(names: list[str]) -> None:
    @given(edits(names))
    def check(pair: tuple[str, str]) -> None:
        name, edited = pair
        if means_something(edited, LightningModule, [*MODULE_METHODS, *OLD_MODULE_HOOKS, "on_epoch_start", "on_epoch_end"]):
            return
        meant = "|".join([name] if name in MODULE_METHODS else [name, *MODULE_METHODS])  # today's stands before it
        module = type("Mine", (BoringModel,), {edited: method})()
        with pytest.raises(UnknownName, match=rf"^Mine\.{edited} is no hook of LightningModule.*Did you mean .*'({meant})'"):
            fit(module)

    check()


@given(edits(sorted(HOOK_NAMES)))
def test_callback_hooks(pair: tuple[str, str]) -> None:
    name, edited = pair
    if means_something(edited, Callback, list(HOOK_NAMES)):
        return
    callback = type("Mine", (Callback,), {edited: method})()
    with pytest.raises(UnknownName, match=rf"^Mine\.{edited} is no hook of Callback.*Did you mean .*'{name}'"):
        fit(callbacks=callback)


@given(edits(sorted(DATAMODULE_METHODS)))
def test_datamodule_hooks(pair: tuple[str, str]) -> None:
    name, edited = pair
    if means_something(edited, LightningDataModule, sorted(DATAMODULE_METHODS)):
        return
    data = type("Mine", (BoringDataModule,), {edited: method})()
    with pytest.raises(UnknownName, match=rf"^Mine\.{edited} is no hook of LightningDataModule.*Did you mean .*'{name}'"):
        fit(datamodule=data)


@given(edits(sorted(HOOK_NAMES)))
def test_lambda_callbacks(pair: tuple[str, str]) -> None:
    name, edited = pair
    if edited in HOOK_NAMES or not edited.isidentifier() or name in ("state_dict", "load_state_dict"):
        return
    with pytest.raises(UnknownName, match=rf"LambdaCallback got an unknown argument '{edited}'\. Did you mean '\w+'\?"):
        LambdaCallback(**{edited: method})


TRAINER_KEYWORDS = [
    name for name, each in inspect.signature(Trainer.__init__).parameters.items() if each.kind is each.KEYWORD_ONLY
]


@given(edits(TRAINER_KEYWORDS))
def test_trainer_keywords(pair: tuple[str, str]) -> None:
    name, edited = pair
    from leyden.classic import TRAINER

    if edited in TRAINER_KEYWORDS or edited in TRAINER or not edited.isidentifier():
        return
    with pytest.raises(UnknownName, match=rf"unknown argument '{edited}'\. Did you mean '{name}'\?"):
        Trainer(**{edited: None})


LOG_ARGUMENTS = {
    verb: [name for name in inspect.signature(getattr(LightningModule, verb)).parameters if name not in ("self", "older")]
    for verb in ("log", "log_dict")
}
VERBS = {
    verb: [name for name, each in inspect.signature(getattr(Trainer, verb)).parameters.items() if name not in ("self", "legacy")]
    for verb in ("fit", "validate", "test", "predict")
}


@given(st.sampled_from(sorted(VERBS)).flatmap(lambda verb: st.tuples(st.just(verb), edits(VERBS[verb]))))
def test_verb_keywords(case: tuple[str, tuple[str, str]]) -> None:
    verb, (_name, edited) = case
    old = ("train_dataloader", "val_dataloader", "test_dataloader", "test_dataloaders", "val_dataloaders")
    if edited in VERBS[verb] or edited in old or not edited.isidentifier():
        return
    with pytest.raises(UnknownName, match=rf"{verb} got an unknown argument '{edited}'\. Did you mean '\w+'\?"):
        getattr(Trainer(**QUIET), verb)(BoringModel(), **{edited: None})


HAND_ON = (leyden.loggers.CometLogger, leyden.callbacks.ThroughputMonitor)  # any other word: to Comet, and to Throughput
CONSTRUCTORS = {
    cls: names for cls in public_classes() if (names := constructor_arguments(cls)) and cls not in (Trainer, FitResult, *HAND_ON)
}
assert len(CONSTRUCTORS) > 25


@given(st.sampled_from(list(CONSTRUCTORS)).flatmap(lambda cls: st.tuples(st.just(cls), edits(CONSTRUCTORS[cls]))))
def test_arguments_of_every_public_class(case: tuple[type, tuple[str, str]]) -> None:
    cls, (name, edited) = case
    if edited in CONSTRUCTORS[cls] or not edited.isidentifier() or keyword.iskeyword(edited) or len(name) < 3:
        return
    parameters = inspect.signature(cls).parameters
    required = {other: None for other in CONSTRUCTORS[cls] if parameters[other].default is inspect.Parameter.empty}
    required.pop(name, None)
    with pytest.raises(UnknownName, match=rf"^{cls.__name__} got an unknown argument '{edited}'\. Did you mean '\w+'\?"):
        concrete(cls)(**{**required, edited: None})


@pytest.mark.parametrize(
    ("cls", "wrong", "right"),
    [
        (leyden.loggers.TensorBoardLogger, "save_dirs", "save_dir"),
        (leyden.callbacks.ThroughputMonitor, "batch_size_func", "batch_size_fn"),
    ],
)
def test_an_argument_that_is_needed_and_misspelt_where_other_words_are_handed_on(cls: Any, wrong: str, right: str) -> None:
    with pytest.raises(UnknownName, match=rf"^{cls.__name__} got an unknown argument '{wrong}'\. Did you mean '{right}'\?"):
        cls(**{wrong: len})


def test_an_old_name_that_is_nearer_is_not_named_instead_of_today_s() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'configure_optimizers'\?"):
        fit(type("Mine", (BoringModel,), {"configure_optimiser": method})())


def test_arguments_of_a_subclass_and_of_classes_of_the_user_s() -> None:
    class Mine(EarlyStopping):
        def __init__(self, **options: Any) -> None:
            super().__init__("val_loss", **options)

    class Net(BoringModel):
        def __init__(self, width: int = 2) -> None:
            super().__init__()

    class Data(BoringDataModule):
        def __init__(self, folder: str = ".") -> None:
            super().__init__()

    with pytest.raises(UnknownName, match=r"EarlyStopping got an unknown argument 'patient'\. Did you mean 'patience'\?"):
        Mine(patient=1)
    with pytest.raises(UnknownName, match=r"Net got an unknown argument 'widht'\. Did you mean 'width'\?"):
        Net(widht=1)  # type: ignore[call-arg]
    with pytest.raises(UnknownName, match=r"from_datasets got an unknown argument 'train_data'\. Did you mean 'train_dataset'\?"):
        Data.from_datasets(train_data=[])
    with pytest.raises(UnknownName, match=r"Data\.from_datasets got an unknown argument 'foldr'\. Did you mean 'folder'\?"):
        Data.from_datasets(train_dataset=[], foldr="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'monitor'"):
        EarlyStopping()  # type: ignore[call-arg]
    with pytest.raises(UnknownName, match=r"DoublePrecision got an unknown argument 'x'\. It takes: none\."):
        leyden.plugins.DoublePrecision(x=1)


def test_arguments_that_are_handed_on() -> None:
    with pytest.raises(UnknownName, match=r"TensorBoardLogger got an unknown argument 'flush_sec'\. Did you mean 'flush_secs'\?"):
        leyden.loggers.TensorBoardLogger(".", flush_sec=1)
    with pytest.raises(UnknownName, match=r"PyTorchProfiler got an unknown argument 'profile_memry'\. Did you mean"):
        leyden.profilers.PyTorchProfiler(profile_memry=True)
    for summary in (leyden.callbacks.ModelSummary, leyden.callbacks.RichModelSummary):
        with pytest.raises(UnknownName, match=r"got an unknown argument 'max_dept'\. Did you mean 'max_depth'\?"):
            summary(max_dept=2)


@given(st.sampled_from(["log", "log_dict"]).flatmap(lambda verb: st.tuples(st.just(verb), edits(LOG_ARGUMENTS[verb]))))
def test_arguments_of_log(case: tuple[str, tuple[str, str]]) -> None:
    verb, (_name, edited) = case
    if edited in LOG_ARGUMENTS[verb] or not edited.isidentifier():
        return
    with pytest.raises(UnknownName, match=rf"^self\.{verb} got an unknown argument '{edited}'\. Did you mean '\w+'\?"):
        getattr(BoringModel(), verb)("x", 1.0, **{edited: None})


def test_arguments_of_load_from_checkpoint(tmp_path: Any) -> None:
    class Net(BoringModel):
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.width = width

    class Open(BoringModel):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.options = options

    trainer = Trainer(**QUIET)
    trainer.fit(Net())
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    with pytest.raises(UnknownName, match=r"Net\.load_from_checkpoint got an unknown argument 'widht'\. Did you mean 'width'\?"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", widht=3)
    with pytest.raises(UnknownName, match=r"unknown argument 'map_locatoin'\. Did you mean 'map_location'\?"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", map_locatoin="cpu")
    with pytest.raises(UnknownName, match=r"unknown argument 'no_such'\. It takes: width, checkpoint_path"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", no_such=3)
    assert Net.load_from_checkpoint(tmp_path / "net.ckpt", width=3).width == 3
    assert Open.load_from_checkpoint(tmp_path / "net.ckpt", no_such=3).options["no_such"] == 3


@pytest.mark.parametrize("name", ["automatic_optimisation", "automatic_optimizations", "example_input_arrays", "strict_loadin"])
def test_settings_of_a_module(name: str) -> None:
    module = BoringModel()
    setattr(module, name, False)
    with pytest.raises(UnknownName, match=rf"BoringModel sets self\.{name}, which means nothing\. Did you mean"):
        fit(module)


def test_hooks_set_on_an_instance() -> None:
    module, callback = BoringModel(), Callback()
    module.on_train_epoch_ends = lambda: None  # type: ignore[assignment]
    with pytest.raises(UnknownName, match="'on_train_epoch_end'"):
        fit(module)
    callback.on_test_ends = lambda trainer, module: None  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match="'on_test_end'"):
        fit(callbacks=callback)


def test_hooks_of_a_mixin_of_the_user_s() -> None:
    class Logging:
        def on_train_epoch_ends(self) -> None:
            """Misspelt."""

    class Mine(Logging, BoringModel):
        pass

    with pytest.raises(UnknownName, match=r"Logging\.on_train_epoch_ends.*'on_train_epoch_end'"):
        fit(Mine())


def test_callbacks_of_configure_callbacks_and_those_added_later() -> None:
    class Typo(Callback):
        def on_fit_strat(self, trainer: Any, pl_module: Any) -> None:
            """Misspelt."""

    class Mine(BoringModel):
        def configure_callbacks(self) -> Any:
            return [Typo()]

    with pytest.raises(UnknownName, match="'on_fit_start'"):
        fit(Mine())
    trainer = Trainer(**QUIET)
    trainer.callbacks.append(Typo())
    with pytest.raises(UnknownName, match="'on_fit_start'"):
        trainer.fit(BoringModel())


@pytest.mark.parametrize(
    "name", ["on_train_epoch_finish", "on_validation_begin", "on_fit_done", "on_val_epoch_end", "on_before_step"]
)
def test_names_of_a_hook_s_family(name: str) -> None:
    with pytest.raises(UnknownName, match=rf"\.{name} is no hook"):
        fit(type("Mine", (BoringModel,), {name: method})())
    with pytest.raises(UnknownName, match=rf"\.{name} is no hook"):
        fit(callbacks=type("Mine", (Callback,), {name: method})())


SYNONYMS = {
    "train": ["training"],
    "training": ["train"],
    "validation": ["val", "valid", "validate", "eval", "evaluation"],
    "val": ["valid", "validation", "validate", "eval"],
    "test": ["testing"],
    "predict": ["prediction"],
    "start": ["begin", "started"],
    "end": ["finish", "finished", "done"],
    "batch": ["iter", "iteration"],
    "dataloader": ["loader", "dataloaders"],
    "optimizers": ["optimizer", "optimiser"],
}


@st.composite
def other_words(draw: st.DrawFn, names: list[str]) -> tuple[str, str]:
    """A name, and what it is with one or more of its words said otherwise."""
    name = draw(st.sampled_from([name for name in names if any(word in SYNONYMS for word in name.split("_"))]))
    words = [draw(st.sampled_from([word, *SYNONYMS.get(word, [])])) for word in name.split("_")]
    return name, "_".join(words)


@given(other_words(sorted(MODULE_METHODS)))
def test_module_hooks_in_other_words(pair: tuple[str, str]) -> None:
    name, said = pair
    if means_something(said, LightningModule, [*MODULE_METHODS, *OLD_MODULE_HOOKS, "val_step", "on_sanity_check_end"]):
        return
    module = type("Mine", (BoringModel,), {said: method})()
    with pytest.raises(UnknownName, match=rf"^Mine\.{said} is no hook of LightningModule.*Did you mean .*'{name}'"):
        fit(module)


@given(other_words(list(HOOK_NAMES)))
def test_callback_hooks_in_other_words(pair: tuple[str, str]) -> None:
    name, said = pair
    if means_something(said, Callback, list(HOOK_NAMES)):
        return
    callback = type("Mine", (Callback,), {said: method})()
    with pytest.raises(UnknownName, match=rf"^Mine\.{said} is no hook of Callback.*Did you mean .*'{name}'"):
        fit(callbacks=callback)


@given(other_words([name for name in DATAMODULE_METHODS if name.endswith("dataloader")]))
def test_datamodule_hooks_in_other_words(pair: tuple[str, str]) -> None:
    name, said = pair
    if means_something(said, LightningDataModule, sorted(DATAMODULE_METHODS)):
        return
    data = type("Mine", (BoringDataModule,), {said: method})()
    with pytest.raises(UnknownName, match=rf"^Mine\.{said} is no hook of LightningDataModule.*Did you mean .*'{name}'"):
        fit(datamodule=data)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("before_fit", "on_fit_start"),
        ("after_epoch", "on_train_epoch_end"),
        ("before_batch", "on_train_batch_start"),
        ("after_backward", "on_after_backward"),
        ("before_train_epoch", "on_train_epoch_start"),
        ("after_val_epoch", "on_validation_epoch_end"),
        ("before_val_iter", "on_validation_batch_start"),
        ("on_train_begin", "on_train_start"),
        ("on_test_batch_begin", "on_test_batch_start"),
        ("on_step_end", "on_train_batch_end"),
        ("on_evaluate", "on_validation_end"),
        ("on_epoch_begin", "on_train_epoch_start"),
        ("fit_start", "on_fit_start"),
        ("train_epoch_end", "on_train_epoch_end"),
        ("on_trainepoch_end", "on_train_epoch_end"),
    ],
)
def test_hooks_of_other_frameworks(name: str, meant: str) -> None:
    for key, base in (("module", BoringModel), ("callbacks", Callback)):
        with pytest.raises(UnknownName, match=rf"Mine\.{name} is no hook.*Did you mean .*'{meant}'"):
            fit(**{key: type("Mine", (base,), {name: method})()})


@pytest.mark.parametrize("name", ["handle_batch", "get_train_dataloader", "create_optimizer", "configure_schedulers"])
def test_methods_that_other_frameworks_call(name: str) -> None:
    with pytest.raises(UnknownName, match=rf"Mine\.{name} is no hook"):
        fit(type("Mine", (BoringModel,), {name: method})())


@pytest.mark.parametrize(
    ("base", "name", "whose"),
    [
        (BoringModel, "on_exception", "Callback"),
        (BoringDataModule, "training_step", "LightningModule"),
        (BoringDataModule, "on_fit_start", "Callback"),
        (BoringDataModule, "configure_optimizers", "LightningModule"),
        (Callback, "configure_optimizers", "LightningModule"),
        (Callback, "train_dataloader", "LightningModule"),
        (Callback, "validation_step", "LightningModule"),
        (Callback, "on_before_batch_transfer", "LightningModule"),
    ],
)
def test_hooks_of_another_part(base: Any, name: str, whose: str) -> None:
    part = type("Mine", (base,), {name: method})()
    with pytest.raises(UnknownName, match=rf"Mine\.{name} is no hook of .*It is a hook of {whose}\."):
        fit(**{{BoringModel: "module", Callback: "callbacks", BoringDataModule: "datamodule"}[base]: part})


class Beside(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch)

    def on_train_epoch_end(self) -> None:
        pass

    def train_dataloader(self) -> Any:
        return super().train_dataloader()


@pytest.mark.parametrize(
    "name", ["train_step", "val_step", "valid_step", "train_loader", "on_train_epoch_ends", "training_steps"]
)
def test_beside_the_right_name_the_wrong_one_is_said(name: str) -> None:
    mine = type("Mine", (BoringModel,), {**{each: value for each, value in vars(Beside).items() if each[0] != "_"}, name: method})
    mine.train_dataloader = BoringModel.train_dataloader  # type: ignore[attr-defined]  # super() has no class of its own here
    with pytest.warns(PossibleUserWarning, match=rf"Mine\.{name} is no hook of LightningModule and would never be called"):
        fit(mine())


def test_what_its_author_calls_is_no_hook() -> None:
    class Called(Beside):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.train_step(batch)

        def train_step(self, batch: Any) -> Any:
            return self.step(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            getattr(self, f"{'eval'}_step")(batch)

        def eval_step(self, batch: Any) -> None:
            self.step(batch)

        def get_train_loader(self) -> Any:
            return super().train_dataloader()

        def on_valid_epoch_end(self) -> None:
            pass

        @property
        def told(self) -> Any:
            return [each() for each in [self.on_valid_epoch_end]]

    module = Called()
    Trainer(**QUIET).fit(module, module.get_train_loader())


class CallingByName(BoringModel):
    """Hooks of its own: called by a name that stands elsewhere in the class."""

    stages = ("before_epoch", "after_epoch")

    def call(self, name: str) -> None:
        getattr(self, name)()

    def on_train_start(self) -> None:
        self.call("on_train_begin")
        for name in self.stages:
            self.call(name)

    def on_train_begin(self) -> None:
        pass

    def before_epoch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass


def test_what_is_called_by_a_name_from_elsewhere_in_the_class() -> None:
    fit(type("Mine", (CallingByName,), {"on_train_begin": method})())
    with pytest.raises(UnknownName, match="on_validation_begin"):
        fit(type("Mine", (CallingByName,), {"on_validation_begin": method})())


NET = """
from leyden.testing import BoringModel
{imports}
class Net(BoringModel):
    def valid_step(self, batch):
        return self.step(batch)
    def training_step(self, batch, batch_idx):
        return {loss}
    def get_train_loader(self):
        return BoringModel.train_dataloader(self)
"""
USE = "def loss(net, batch):\n    return net.valid_step(batch)\ndef data(net):\n    return net.get_train_loader()\n"


@pytest.mark.parametrize(
    ("net", "other"),
    [
        (NET.format(imports="import NAME_other as engine", loss="engine.loss(self, batch)"), USE),
        (NET.format(imports="from NAME_other import loss", loss="loss(self, batch)"), USE),
        (NET.format(imports="", loss="self.step(batch)"), "from NAME_net import Net\n" + USE),
    ],
    ids=["imported", "imported from", "imports it"],
)
def test_what_another_file_of_its_author_calls(net: str, other: str, tmp_path: Any, monkeypatch: Any) -> None:
    name = f"author_{tmp_path.name}"
    monkeypatch.syspath_prepend(tmp_path)
    for what, text in (("net", net), ("other", other)):
        (tmp_path / f"{name}_{what}.py").write_text(text.replace("NAME", name))
    module = importlib.import_module(f"{name}_net").Net()
    importlib.import_module(f"{name}_other")
    fit(module)
    (tmp_path / f"{name}_other.py").write_text("")
    with pytest.raises(UnknownName, match=r"get_train_loader|valid_step"):
        fit(module)


@pytest.mark.parametrize("name", ["epoch_end", "epoch_start", "batch_end"])
def test_an_old_hook_without_its_on_may_be_a_method_of_one_s_own(name: str) -> None:
    for key, base in (("module", BoringModel), ("callbacks", Callback)):
        with pytest.warns(PossibleUserWarning, match=rf"Mine\.{name} is no hook"):
            fit(**{key: type("Mine", (base,), {name: method})()})


def test_what_the_class_only_hands_on_is_not_called() -> None:
    class Base(BoringModel):
        def on_train_epoch_ends(self) -> None:
            pass

    class Mine(Base):
        def on_train_epoch_ends(self) -> None:
            super().on_train_epoch_ends()

    with pytest.raises(UnknownName, match="'on_train_epoch_end'"):
        fit(Mine())


def test_a_module_that_is_a_callback_too() -> None:
    class Both(BoringModel, Callback):
        def on_exception(self, *_: Any) -> None:
            raise AssertionError("not called: nothing is wrong")

    fit(Both())


# What may be called as it is called

OWN_NAMES = [
    *(
        "step",
        "loss",
        "encode",
        "decode",
        "shared_step",
        "get_logits",
        "on_my_event",
        "training_losses",
    ),
    *("compute_loss", "common_step", "metrics", "accuracy", "reset_parameters", "init_weights", "build", "fit", "predict"),
    *("optimizers_config", "optimizer_config", "callbacks_config", "model_config"),
    *("sample", "generate", "log_images", "log_metrics", "configure_loss", "configure_metrics", "get_optimizer", "prepare_batch"),
    *("setup_data", "make_loader", "val_loss", "test_metrics", "on_new_data", "on_click", "step_end", "stage"),
    *("reparameterize", "kl_divergence", "interpolate", "to_image", "from_config", "validate", "test", "tear_down_all", "loader"),
]


@pytest.mark.parametrize("base", [BoringModel, Callback, BoringDataModule])
def test_names_of_one_s_own_are_left_alone(base: Any) -> None:
    part = type("Mine", (base,), {name: method for name in OWN_NAMES if not hasattr(base, name)})()
    part.loss_fn = nn.functional.mse_loss
    part._training_stepp = method
    key = {BoringModel: "module", Callback: "callbacks", BoringDataModule: "datamodule"}[base]
    fit(**{key: part})


def test_properties_attributes_and_submodules_are_no_methods() -> None:
    class Mine(BoringModel):
        test_steps = 5
        training_stepss: list[int] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.forwar = nn.Linear(2, 2)
            self.test_ste = nn.Linear(2, 2)
            self.train_losses: list[float] = []

        @property
        def on_gpus(self) -> bool:
            return False

        class forwards:
            """A class in the class."""

    fit(Mine())


def test_metrics_of_torchmetrics_are_no_methods() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")

    class Mine(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.test_steps = torchmetrics.MeanMetric()

    fit(Mine())


def test_a_method_beside_the_hook_that_it_resembles() -> None:
    class Mine(BoringModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.forward1(x)

        def forward1(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    fit(Mine())


def test_a_method_marked_as_one_s_own() -> None:
    class Mine(BoringModel):
        @leyden.not_a_hook
        def on_train_epoch_ends(self) -> None:
            raise AssertionError("not called")

        @staticmethod
        @leyden.not_a_hook
        def test_stepp() -> None:
            raise AssertionError("not called")

    class Watching(Callback):
        @leyden.not_a_hook
        def on_batch_done(self) -> None:
            raise AssertionError("not called")

    fit(Mine(), callbacks=Watching())


def test_a_mixin_of_another_library() -> None:
    mixin = type("Foreign", (), {"on_load_event": method, "test_stepp": method, "__module__": "another_library.mixins"})
    own: Any = types.ModuleType("my_project.models")  # it can be imported, as by who looks for subclasses of ours
    sys.modules |= {"my_project": types.ModuleType("my_project"), "my_project.models": own}
    own.Mine = type("Mine", (mixin, BoringModel), {"__module__": "my_project.models"})
    fit(own.Mine())


def test_names_of_torch_stay_torch_s() -> None:
    class Mine(BoringModel):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return super().state_dict(*args, **kwargs)

        def train(self, mode: bool = True) -> Any:
            return super().train(mode)

        def extra_repr(self) -> str:
            return ""

    fit(Mine())


# Keys


class Monitored(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.step(batch))
        self.log("val_acc", 1.0)


@pytest.mark.parametrize("monitor", ["val_los", "vall_loss", "valid_loss"])
def test_monitor_keys_of_callbacks(monitor: str, tmp_path: Any) -> None:
    for callback in (EarlyStopping(monitor), ModelCheckpoint(tmp_path, monitor=monitor)):
        with pytest.raises(MissingMonitor, match=rf"monitors '{monitor}', which was not logged\. Did you mean 'val_loss'\?"):
            fit(Monitored(), callbacks=callback, enable_checkpointing=True)


def test_monitor_keys_of_schedulers() -> None:
    class Mine(Monitored):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_los"}}

    with pytest.raises(MissingMonitor, match=r"ReduceLROnPlateau monitors 'val_los'.*Did you mean 'val_loss'\?"):
        fit(Mine())


@pytest.mark.parametrize(
    ("where", "key", "meant"),
    [
        ("optimizer", "optimiser", "optimizer"),
        ("optimizer", "lr_schedulers", "lr_scheduler"),
        ("optimizer", "monitr", "monitor"),
        ("scheduler", "intervall", "interval"),
        ("scheduler", "freqency", "frequency"),
        ("scheduler", "schedule", "scheduler"),
        ("scheduler", "moniter", "monitor"),
    ],
)
def test_keys_that_configure_optimizers_returns(where: str, key: str, meant: str) -> None:
    class Mine(BoringModel):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            config: dict[str, Any] = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}
            returned: dict[str, Any] = {"optimizer": optimizer, "lr_scheduler": config}
            (returned if where == "optimizer" else config)[key] = 1
            return returned

    with pytest.raises(UnknownName, match=rf"key '{key}', which means nothing.*Did you mean '{meant}'\?"):
        fit(Mine())


def test_keys_that_steps_return() -> None:
    class Mine(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.step(batch), "logg": {"x": 1.0}}

    with pytest.raises(UnknownName, match=r"key 'logg'.*Did you mean 'log'\?"):
        fit(Mine())


@pytest.mark.parametrize("name", ["Trainr", "LightingModule", "LightningModul", "calback", "data_loder"])
def test_names_of_the_package(name: str) -> None:
    with pytest.raises(UnknownName, match=rf"leyden has no '{name}'\. Did you mean"):
        getattr(leyden, name)


def test_steps_without_data_and_data_without_steps_are_said() -> None:
    class NoStep(BoringModel):
        validation_step = LightningModule.validation_step

    class NoData(BoringModel):
        val_dataloader = LightningModule.val_dataloader

    with pytest.warns(PossibleUserWarning, match="no `validation_step`: no validation runs"):
        fit(NoStep())
    with pytest.warns(PossibleUserWarning, match="no validation loader: no validation runs"):
        fit(NoData())


@given(st.text(LETTERS, min_size=1, max_size=8), st.text(LETTERS, min_size=1, max_size=8))
def test_one_edit_apart_is_symmetric_and_right(first: str, second: str) -> None:
    def distance(a: str, b: str) -> int:
        rows = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                best = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
                if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                    best = min(best, rows[i - 2][j - 2] + 1)
                rows[i][j] = best
        return rows[-1][-1]

    assert one_edit_apart(first, second) == one_edit_apart(second, first) == (distance(first, second) == 1)
