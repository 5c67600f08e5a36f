"""Modules and callbacks of older Lightnings: their hooks, their arguments, and what is no longer offered."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden import Callback, Trainer
from leyden.callbacks import ModelSummary
from leyden.checked import read_word
from leyden.classic.attributes import ATTRIBUTES
from leyden.classic.old_hooks import GONE
from leyden.errors import ConflictingOptions, InvalidType, LegacyNotice, PossibleUserWarning, UnknownName, Unsupported
from leyden.notices import waiting
from leyden.testing import BoringModel, random_batches

pytestmark = [
    pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice"),
    pytest.mark.filterwarnings("ignore:.*there is no validation loader"),
]
QUIET: dict[str, Any] = {
    **kit.QUIET, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1,
}  # fmt: skip


class Noting(BoringModel):
    """Notes what is called, with what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []


fit = partial(kit.fit, **QUIET)


# Steps and configuration under other names


def test_configure_optimizer_is_taken() -> None:
    class Old(Noting):
        def configure_optimizer(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.123)

    del_configure = type("Old", (Old,), {"configure_optimizers": leyden.LightningModule.configure_optimizers})
    with pytest.warns(LegacyNotice, match="configure_optimizer .*configure_optimizers"):
        trainer = fit(del_configure())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.123


def test_configure_optimizer_beside_configure_optimizers_is_not_called_and_that_is_said() -> None:
    class Both(BoringModel):
        def configure_optimizer(self) -> Any:
            raise AssertionError("not called")

    with pytest.warns(PossibleUserWarning, match=r"Both\.configure_optimizer is no hook.*Did you mean 'configure_optimizers'\?"):
        trainer = fit(Both())
    assert type(trainer.optimizers[0]).__name__ == "SGD"


def test_val_step_is_taken() -> None:
    class Old(Noting):
        validation_step = leyden.LightningModule.validation_step

        def val_step(self, batch: Any, batch_idx: int) -> Any:
            self.calls.append(batch_idx)
            return {"val_loss": self.step(batch)}

    module = Old()
    with pytest.warns(LegacyNotice, match="val_step .*validation_step"):
        trainer = fit(module, num_sanity_val_steps=0)
    assert module.calls == [0]
    assert "val_loss" in trainer.callback_metrics
    assert Trainer(**QUIET).validate(module, verbose=False)[0].keys() == {"val_loss"}


def test_a_submodule_with_an_old_name_is_no_method() -> None:
    class Odd(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.validation_end = nn.Linear(2, 2)  # on_epoch_end is refused: the base has it, and would hide it
            self.test_epoch_end = nn.Linear(2, 2)
            self.val_step = nn.Linear(2, 2)

    fit(Odd())


@pytest.mark.parametrize(("step", "stage"), [("training_step", "fit"), ("validation_step", "validate"), ("test_step", "test")])
def test_step_ends_get_what_the_step_returned(step: str, stage: str) -> None:
    seen: list[Any] = []

    def end(self: Any, outputs: Any) -> Any:
        seen.append(outputs)
        return {key: value * 2 for key, value in outputs.items()}

    module = type("Old", (BoringModel,), {f"{step}_end": end})()
    with pytest.warns(LegacyNotice, match=f"{step}_end"):
        result = getattr(Trainer(**QUIET), stage)(module)
    assert len(seen) >= 1
    assert isinstance(seen[0], dict)
    if stage == "test":
        assert result[0]["y"] == pytest.approx(2 * float(seen[-1]["y"]))


# Hooks


def test_module_hooks_of_0_7_fire_in_their_places() -> None:
    class Old(Noting):
        def on_epoch_start(self) -> None:
            self.calls.append("on_epoch_start")

        def on_epoch_end(self) -> None:
            self.calls.append("on_epoch_end")

        def on_batch_start(self, batch: Any) -> None:
            self.calls.append(("on_batch_start", tuple(batch.shape)))

        def on_batch_end(self) -> None:
            self.calls.append("on_batch_end")

        def on_pre_performance_check(self) -> None:
            self.calls.append("pre")

        def on_post_performance_check(self) -> None:
            self.calls.append("post")

        def on_sanity_check_start(self) -> None:
            self.calls.append("sanity")

        def on_pretrain_routine_start(self) -> None:
            self.calls.append("pretrain")

        def on_before_zero_grad(self, optimizer: Any) -> None:
            self.calls.append("zero")

        def on_train_start(self) -> None:
            self.calls.append("start")

        def on_train_end(self) -> None:
            self.calls.append("end")

    module = Old()
    fit(module, num_sanity_val_steps=1, limit_train_batches=1)
    assert module.calls == [
        *("pretrain", "sanity", "pre", "post", "start", "on_epoch_start", ("on_batch_start", (1, 32)), "zero", "on_batch_end"),
        *("pre", "post", "on_epoch_end", "end"),
    ]


def test_on_batch_start_of_0_7_ends_the_epoch_by_minus_one() -> None:
    class Old(BoringModel):
        def on_batch_start(self, batch: Any) -> int:
            return -1

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    assert fit(Old()).global_step == 0


def test_callback_hooks_of_0_7_fire() -> None:
    calls: list[str] = []

    def noted(name: str) -> Any:
        return lambda self, *arguments: calls.append(name)

    names = ("on_init_start", "on_init_end", "on_epoch_start", "on_batch_start", "on_batch_end", "on_epoch_end")
    callback = type("Old", (Callback,), {name: noted(name) for name in names})()
    trainer = Trainer(**QUIET, callbacks=callback)
    assert calls == ["on_init_start", "on_init_end"]
    trainer.fit(BoringModel())
    assert calls[2:] == ["on_epoch_start", *["on_batch_start", "on_batch_end"] * 2, "on_epoch_end"]


def test_callback_hooks_of_0_7_get_the_trainer_and_the_module() -> None:
    class Old(Callback):
        def on_init_end(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.told = (trainer, pl_module)

    callback, module = Old(), BoringModel()
    trainer = fit(module, callbacks=callback)
    assert callback.trainer is trainer
    assert callback.told == (trainer, module)


def test_on_keyboard_interrupt_of_1_x() -> None:
    class Old(Callback):
        interrupted = False

        def on_keyboard_interrupt(self, trainer: Any, pl_module: Any) -> None:
            self.interrupted = True

    class Interrupted(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise KeyboardInterrupt

    class Failing(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise OSError("as it happens")

    callback = Old()
    with pytest.raises(OSError, match="as it happens"):
        fit(Failing(), callbacks=callback)
    assert not callback.interrupted
    fit(Interrupted(), callbacks=callback)
    assert callback.interrupted


def test_batch_hooks_of_1_x_get_a_dataloader_idx() -> None:
    class Module(Noting):
        def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
            self.calls.append(("start", batch_idx, dataloader_idx))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
            self.calls.append(("end", batch_idx, dataloader_idx))

    class Watching(Callback):
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
            self.calls.append(("start", batch_idx, dataloader_idx))

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
        ) -> None:  # type: ignore[override]
            self.calls.append(("end", batch_idx, dataloader_idx))

    module, callback = Module(), Watching()
    with pytest.warns(LegacyNotice, match="without dataloader_idx"):
        fit(module, callbacks=callback, limit_train_batches=1)
    assert module.calls == callback.calls == [("start", 0, 0), ("end", 0, 0)]


def test_batch_hooks_whose_dataloader_idx_has_a_default_need_no_notice(recwarn: pytest.WarningsRecorder) -> None:
    class Module(BoringModel):
        def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
            assert unused == 0

    fit(Module())
    assert not [each for each in recwarn if issubclass(each.category, LegacyNotice)]


@pytest.mark.parametrize("given", ["step", "stage=None", "", "stage", "*, stage", "**kwargs", "_stage"])
def test_setup_and_teardown_take_the_stage_by_any_name(given: str) -> None:
    space: dict[str, Any] = {"calls": []}
    exec(f"def setup(self{', ' if given else ''}{given}): calls.append('setup')", space)  # the signature is what is tested
    exec(f"def teardown(self{', ' if given else ''}{given}): calls.append('teardown')", space)
    fit(type("Old", (BoringModel,), {"setup": space["setup"], "teardown": space["teardown"]})())
    assert space["calls"] == ["setup", "teardown"]


def test_configure_sharded_model_of_1_x_is_configure_model() -> None:
    class Old(Noting):
        def configure_sharded_model(self) -> None:
            self.calls.append("made")

    module = Old()
    fit(module)
    assert module.calls == ["made"]


def test_data_loader_of_0_7_does_nothing() -> None:
    class Old(BoringModel):
        @leyden.data_loader
        def train_dataloader(self) -> Any:
            return random_batches(2)

    assert fit(Old()).global_step == 2


# Optimization


def test_optimizer_step_of_0_7() -> None:
    class Old(Noting):
        def optimizer_step(  # type: ignore[override]
            self, current_epoch: int, batch_nb: int, optimizer: Any, optimizer_i: int, second_order_closure: Any = None
        ) -> None:
            self.calls.append((current_epoch, batch_nb, optimizer_i, second_order_closure))
            for group in optimizer.param_groups:
                group["lr"] = 0.05
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    module = Old()
    before = module.layer.weight.detach().clone()
    assert fit(module).global_step == 2
    assert module.calls == [(0, 0, 0, None), (0, 1, 0, None)]
    assert not torch.equal(before, module.layer.weight)


def test_optimizer_step_of_1_x() -> None:
    class Old(Noting):
        def optimizer_step(  # type: ignore[override]
            self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int, optimizer_closure: Any,
            on_tpu: bool, using_native_amp: bool, using_lbfgs: bool,
        ) -> None:  # fmt: skip
            self.calls.append((epoch, batch_idx, optimizer_idx, on_tpu, using_native_amp, using_lbfgs))
            optimizer.step(closure=optimizer_closure)

    module = Old()
    assert fit(module).global_step == 2
    assert module.calls == [(0, 0, 0, False, False, False), (0, 1, 0, False, False, False)]


@pytest.mark.parametrize("given", ["trainer, loss, optimizer, optimizer_idx", "loss, optimizer, optimizer_idx", "loss"])
def test_backward_of_each_version(given: str) -> None:
    space: dict[str, Any] = {"calls": []}
    exec(f"def backward(self, {given}): calls.append(({given},)); loss.backward()", space)  # the signature is what is tested
    module = type("Old", (BoringModel,), {"backward": space["backward"]})()
    trainer = fit(module)
    values = {"trainer": trainer, "optimizer": trainer.optimizers[0], "optimizer_idx": 0}
    assert len(space["calls"]) == 2
    for name, value in zip(given.split(", "), space["calls"][0], strict=True):
        assert isinstance(value, Tensor) if name == "loss" else value is values[name]


def test_a_module_that_splits_along_time_by_itself_may_keep_the_name() -> None:
    class Chunks(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.truncated_bptt_steps = 2

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            for part in batch.repeat(4, 1).split(self.truncated_bptt_steps):
                optimizer.zero_grad()
                self.manual_backward(self.step(part))
                optimizer.step()

    assert fit(Chunks(), max_epochs=1).state.status == "finished"


@pytest.mark.parametrize("name", sorted(GONE))
def test_methods_that_cannot_be_honoured_are_refused_by_name(name: str) -> None:
    module = type("Old", (BoringModel,), {name: lambda self, *args: None})()
    with pytest.raises(Unsupported, match=rf"Old\.{name} is a hook of an older Lightning") as caught:
        fit(module)
    assert GONE[name] in str(caught.value)


# Hyper-parameters, summaries, the bar


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_hparams_are_assigned(kind: type, tmp_path: Any) -> None:
    class Old(BoringModel):
        def __init__(self, hparams: Any) -> None:
            super().__init__()
            self.hparams = hparams

    given = kind(width=3, rate=0.5)
    module = Old(given)
    assert module.hparams is given
    fit(module).save_checkpoint(tmp_path / "old.ckpt")
    kept = torch.load(tmp_path / "old.ckpt", weights_only=False)
    assert kept["hparams"] == {"width": 3, "rate": 0.5}
    assert kept["hparams_type"] == kind.__name__.lower()
    again = Old.load_from_checkpoint(tmp_path / "old.ckpt")
    assert type(again.hparams) is kind
    assert again.hparams == given


def test_summarize_freeze_and_unfreeze() -> None:
    module = BoringModel()
    assert "Linear" in str(module.summarize())
    assert "Linear" in str(module.summarize("full"))
    assert "Linear" in str(module.summarize(max_depth=2))
    module.freeze()
    assert not any(parameter.requires_grad for parameter in module.parameters())
    module.unfreeze()
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("name", ["get_tqdm_dict", "get_progress_bar_dict"])
def test_what_the_bar_shows_can_be_overridden(name: str) -> None:
    def items(self: Any) -> Any:
        shown = getattr(leyden.LightningModule, name)(self)
        shown.pop("v_num", None)
        return {**shown, "mine": 7}

    module = type("Old", (BoringModel,), {name: items})()
    with pytest.warns(LegacyNotice, match=f"{name}.*get_metrics"):
        trainer = fit(module)
    assert trainer.progress_bar_metrics["mine"] == 7
    assert getattr(BoringModel, name)(module)["loss"] == pytest.approx(trainer.progress_bar_metrics["loss"])


def test_weights_summary_still_shows_all_layers(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(**{**QUIET, "enable_model_summary": None}, weights_summary="full")
    assert [type(callback) for callback in trainer.callbacks if isinstance(callback, ModelSummary)] == [ModelSummary]


# The verbs' arguments


def test_fit_takes_loaders_by_their_old_names() -> None:
    class Bare(BoringModel):
        train_dataloader = leyden.LightningModule.train_dataloader
        val_dataloader = leyden.LightningModule.val_dataloader
        test_dataloader = leyden.LightningModule.test_dataloader

    module, trainer = Bare(), Trainer(**{**QUIET, "limit_train_batches": 1.0})
    with pytest.warns(LegacyNotice, match=r"fit\(train_dataloader=\.\.\.\)"):
        trainer.fit(
            module, train_dataloader=random_batches(3), val_dataloaders=random_batches(1), test_dataloaders=random_batches(2)
        )
    assert trainer.global_step == 3
    assert len(trainer.test(verbose=False)) == 1  # those that fit was given
    assert trainer.num_test_batches == [1]
    with pytest.warns(LegacyNotice, match=r"test\(test_dataloaders=\.\.\.\)"):
        assert len(trainer.test(module, test_dataloaders=[random_batches(1), random_batches(1)], verbose=False)) == 2
    with pytest.warns(LegacyNotice, match=r"validate\(val_dataloaders=\.\.\.\)"):
        assert len(trainer.validate(module, val_dataloaders=random_batches(1), verbose=False)) == 1


@pytest.mark.parametrize(
    ("verb", "both"),
    [
        ("fit", {"train_dataloader": 1, "train_dataloaders": 2}),
        ("fit", {"val_dataloader": 1, "val_dataloaders": 2}),
        ("test", {"test_dataloaders": 1, "dataloaders": 2}),
        ("validate", {"val_dataloaders": 1, "dataloaders": 2}),
    ],
)
def test_two_names_for_one_loader(verb: str, both: dict[str, Any]) -> None:
    with pytest.raises(ConflictingOptions, match=rf"{verb} got {next(iter(both))}= and .*{list(both)[1]}"):
        getattr(Trainer(**QUIET), verb)(BoringModel(), **both)


@pytest.mark.parametrize(
    ("verb", "given", "meant"),
    [
        ("fit", "train_loader", "train_dataloaders"),
        ("fit", "valid_dataloader", "val_dataloaders"),
        ("fit", "test_loaders", "test_dataloaders"),
        ("fit", "val_dataloders", "val_dataloaders"),
        ("fit", "data_module", "datamodule"),
        ("fit", "ckptpath", "ckpt_path"),
        ("test", "dataloader", "dataloaders"),
        ("test", "verbos", "verbose"),
        ("validate", "dataloader", "dataloaders"),
        ("validate", "ckpt", "ckpt_path"),
        ("predict", "dataloader", "dataloaders"),
        ("predict", "return_prediction", "return_predictions"),
    ],
)
def test_a_verb_s_unknown_argument(verb: str, given: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=rf"{verb} got an unknown argument '{given}'\. Did you mean '{meant}'\?") as caught:
        getattr(Trainer(**QUIET), verb)(BoringModel(), **{given: None})
    assert isinstance(caught.value, TypeError)


# The trainer's attributes


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_old_attributes_of_the_trainer_are_read(name: str) -> None:
    trainer = fit(BoringModel())
    getattr(trainer, name)
    assert f"trainer.{name}" in waiting


def test_old_attributes_say_what_they_said() -> None:
    module = BoringModel()
    trainer = fit(module)
    assert trainer.get_model() is module  # type: ignore[attr-defined]
    assert (trainer.proc_rank, trainer.on_gpu, trainer.num_gpus, trainer.use_ddp) == (0, False, 0, False)  # type: ignore[attr-defined]
    assert trainer.total_batch_idx == 1  # type: ignore[attr-defined]
    assert trainer.tqdm_metrics == trainer.progress_bar_metrics  # type: ignore[attr-defined]


def test_an_attribute_that_no_trainer_ever_had() -> None:
    with pytest.raises(AttributeError, match="shoud_stop"):
        Trainer(**QUIET).shoud_stop  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(Trainer(**QUIET), "anything")


def test_an_attribute_error_in_a_property_of_a_subclass_is_its_own() -> None:
    class Mine(Trainer):
        @property
        def broken(self) -> Any:
            return object().missing  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="'object' object has no attribute 'missing'"):
        Mine(**QUIET).broken  # noqa: B018


# argparse


def test_a_trainer_from_the_command_line() -> None:
    parser = ArgumentParser()
    parser.add_argument("--width", type=int, default=8)
    parser = Trainer.add_argparse_args(parser)
    args = parser.parse_args(["--gpus", "0", "--max_epochs=3", "--fast_dev_run", "--val_check_interval", "0.25", "--width", "4"])
    assert (args.gpus, args.max_epochs, args.fast_dev_run, args.width) == (0, 3, True, 4)
    trainer = Trainer.from_argparse_args(args)
    assert trainer.fast_dev_run == 1
    trainer = Trainer.from_argparse_args(args, fast_dev_run=False, logger=False)
    assert (trainer.max_epochs, trainer.val_check_interval, trainer.logger) == (3, 0.25, None)


def test_nothing_on_the_command_line_means_the_defaults(recwarn: pytest.WarningsRecorder) -> None:
    args = Trainer.add_argparse_args(ArgumentParser()).parse_args([])
    assert Trainer.from_argparse_args(args).max_epochs == 1000
    assert args.gpus is None
    assert not list(recwarn)


def test_an_option_that_the_parser_has_already_is_kept() -> None:
    parser = ArgumentParser()
    parser.add_argument("--gpus", default=0, type=int, help="mine")
    args = Trainer.add_argparse_args(parser).parse_args(["--max_steps", "5"])
    assert Trainer.from_argparse_args(args).max_steps == 5
    assert "mine" in parser.format_help()


def test_a_subclass_is_made_by_from_argparse_args() -> None:
    class Mine(Trainer):
        pass

    assert type(Mine.from_argparse_args(Namespace(max_epochs=2, other=1))) is Mine
    assert type(Mine.from_argparse_args({"max_epochs": 2})) is Mine


def test_default_attributes_are_the_trainer_s_keywords() -> None:
    defaults = Trainer.default_attributes()
    assert defaults["max_epochs"] is None
    assert defaults["accumulate_grad_batches"] == 1
    assert "legacy" not in defaults


def test_what_is_no_parser_and_no_namespace() -> None:
    with pytest.raises(InvalidType, match="ArgumentParser"):
        Trainer.add_argparse_args(3)
    with pytest.raises(InvalidType, match="parse_args"):
        Trainer.from_argparse_args(["--max_epochs", "3"])


@pytest.mark.parametrize(
    ("word", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("False", False), ("None", None), ("0,1", "0,1"), ("[1, 2]", [1, 2]),
     ("{0: 2}", {0: 2}), ("ddp", "ddp"), ("00:01:00:00", "00:01:00:00"), ("[broken", "[broken"), ("-1", -1), ("1e-3", 0.001)],
)  # fmt: skip
def test_words_of_the_command_line(word: str, value: Any) -> None:
    assert read_word(word) == value
    assert type(read_word(word)) is type(value)


# Gradients


def test_track_grad_norm_logs_the_norms() -> None:
    trainer = fit(BoringModel(), track_grad_norm=2)
    assert {"grad_2_norm_layer.weight", "grad_2_norm_layer.bias", "grad_2_norm_total"} <= set(trainer.callback_metrics)


def test_print_nan_grads_names_the_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    class Bad(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.step(batch) * float("nan")

    fit(Bad(), print_nan_grads=True, terminate_on_nan=False, limit_train_batches=1)
    assert "layer.weight: gradient is not finite" in capsys.readouterr().out


class HandsOn(BoringModel):
    """Written today: what older Lightnings called is this class's own here, with arguments of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.training_step_end(self.step(batch), "train")

    def training_step_end(self, loss: Tensor, stage: str) -> Tensor:
        self.told.append(stage)
        return loss

    def on_train_epoch_end(self) -> None:
        self._close("epoch")

    def _close(self, what: str) -> None:
        [self.on_epoch_end(each) for each in [what]]

    def on_epoch_end(self, what: str) -> None:
        super().on_epoch_end()
        self.told.append(what)

    def on_train_dataloader(self) -> None:
        self.told.append("data")

    def train_dataloader(self) -> Any:
        self.on_train_dataloader()
        return super().train_dataloader()


class WatchHandsOn(Callback):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.on_batch_end(trainer, "train", batch_idx)

    def on_batch_end(self, trainer: Any, stage: str, batch_idx: int) -> None:
        self.told.append(stage)


def test_what_today_s_hooks_call_by_an_old_name_is_not_called_by_us() -> None:
    module, watching = HandsOn(), WatchHandsOn()
    Trainer(**{**kit.QUIET, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0, "callbacks": watching}).fit(module)
    assert module.told == ["data", "train", "train", "epoch"]
    assert watching.told == ["train", "train"]
    assert not waiting


def test_old_hooks_that_old_hooks_call_are_called_by_us() -> None:
    class Mine(BoringModel):
        told = 0

        def on_epoch_start(self) -> None:
            self.on_epoch_end()

        def on_epoch_end(self) -> None:
            self.told += 1

    module = Mine()
    with pytest.warns(LegacyNotice):
        Trainer(**{**kit.QUIET, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0}).fit(module)
    assert module.told == 2
