"""Types and small tools by Lightning's names, used as its documents show."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import warnings
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import nn

import leyden
from leyden import notices
from leyden.core.decorators import auto_move_data
from leyden.core.optimizer import LightningOptimizer
from leyden.errors import InvalidOption, InvalidType, MisconfigurationException, PossibleUserWarning, UnknownName
from leyden.testing import BoringDataModule, BoringModel, IterableBoringDataModule
from leyden.utilities import CombinedLoader, GradClipAlgorithmType, LightningEnum
from leyden.utilities.enums import GradClipAlgorithmType as Clip
from leyden.utilities.memory import is_cuda_out_of_memory, is_cudnn_snafu, is_out_of_cpu_memory, recursive_detach
from leyden.utilities.model_summary import LayerSummary, ModelSummary
from leyden.utilities.parsing import (
    AttributeDict,
    clean_namespace,
    collect_init_args,
    lightning_getattr,
    lightning_hasattr,
    lightning_setattr,
    parse_class_init_keys,
    save_hyperparameters,
)
from leyden.utilities.rank_zero import (
    LightningDeprecationWarning,
    WarningCache,
    rank_prefixed_message,
    rank_zero_debug,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
)
from leyden.utilities.signature_utils import is_param_in_hook_signature
from leyden.utilities.types import LRSchedulerConfig

# Enumerations


@pytest.mark.parametrize(
    ("text", "source", "member"),
    [("NORM", "key", Clip.NORM), ("norm", "key", Clip.NORM), ("value", "value", Clip.VALUE), ("Norm", "any", Clip.NORM)],
)
def test_members_by_text(text: str, source: Any, member: Clip) -> None:
    assert GradClipAlgorithmType.from_str(text, source) is member
    assert GradClipAlgorithmType.try_from_str(text, source) is member


def test_the_key_counts_before_the_value() -> None:
    class Crossed(LightningEnum):
        ONE = "two"
        TWO = "one"

    assert [Crossed.from_str("one", source) for source in ("key", "value", "any")] == [Crossed.ONE, Crossed.TWO, Crossed.ONE]


def test_a_text_that_names_none() -> None:
    with pytest.raises(ValueError, match=r"GradClipAlgorithmType='norn' cannot be used: expected one of 'VALUE', 'NORM'"):
        GradClipAlgorithmType.from_str("norn")
    with pytest.raises(InvalidOption, match="source='name'"):
        GradClipAlgorithmType.from_str("norm", "name")  # type: ignore[arg-type]  # the mistake under test
    with pytest.warns(UserWarning, match="Did you mean 'norm'") as seen:
        assert GradClipAlgorithmType.try_from_str("norn", "value") is None
    assert seen[0].filename == __file__


# Rank zero


def test_a_message_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = WarningCache()
    with pytest.warns(UserWarning, match="careful"):
        cache.warn("careful")
    cache.warn("careful")  # a warning would be an error here
    assert isinstance(cache, set)
    assert "careful" in cache
    with pytest.warns(LightningDeprecationWarning, match="going"):
        cache.deprecation("going")
    cache.deprecation("going")
    with caplog.at_level(logging.INFO, "leyden"):
        cache.info("hello")
        cache.info("hello")
    assert [record.message for record in caplog.records] == ["hello"]


def test_where_messages_come_from(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "leyden"):
        rank_zero_info("one")
        rank_zero_debug("two")
    assert {record.pathname for record in caplog.records} == {__file__}
    with pytest.warns(LightningDeprecationWarning):
        rank_zero_deprecation("gone")
    assert issubclass(LightningDeprecationWarning, DeprecationWarning)
    assert rank_prefixed_message("x", 3) == "[rank: 3] x"
    assert rank_prefixed_message("x", None) == "x"


def test_on_another_rank_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(rank_zero_only), "rank", 1)
    cache = WarningCache()
    cache.warn("careful")
    assert cache == {"careful"}


# Parsing


def test_what_cannot_be_pickled_is_taken_out() -> None:
    values = {"a": 1, "b": lambda: 0}
    with pytest.warns(PossibleUserWarning, match="'b' .function. cannot be pickled"):
        clean_namespace(values)
    assert values == {"a": 1}
    space = Namespace(a=1, b=lambda: 0)
    with pytest.warns(PossibleUserWarning):
        clean_namespace(space)
    assert vars(space) == {"a": 1}


def test_what_a_constructor_calls_its_arguments() -> None:
    class Model:
        def __init__(this, hparams: Any, *my_args: Any, key: int = 1, **my_kwargs: Any) -> None:  # as documented
            pass

    class Bare:
        def __init__(self, a: int) -> None:
            pass

    assert parse_class_init_keys(Model) == ("this", "my_args", "my_kwargs")
    assert parse_class_init_keys(Bare) == ("self", None, None)


def test_arguments_of_constructors_in_line() -> None:
    class Base:
        def __init__(self, a: int) -> None:
            super().__init__()
            frame = inspect.currentframe()
            assert frame is not None
            self.found = collect_init_args(frame, [])
            self.limited = collect_init_args(frame, [{"first": 1}], classes=(Child,))

    class Child(Base):
        def __init__(self, b: int, **more: int) -> None:
            super().__init__(a=b + 1)

    made = Child(1, c=3)
    assert made.found == [{"a": 2}, {"b": 1, "c": 3}]
    assert made.limited == [{"first": 1}, {"b": 1, "c": 3}]


class Wide(BoringModel):
    def __init__(self, width: int = 2, rate: float = 0.1) -> None:
        super().__init__()
        save_hyperparameters(self, "rate")
        self.depth = 5


def test_hyperparameters_saved_from_outside() -> None:
    module = Wide(rate=0.5)
    assert module.hparams == {"rate": 0.5}
    save_hyperparameters(module, given_hparams={"width": 7, "rate": 1.0}, ignore="rate")
    assert module.hparams["width"] == 7
    save_hyperparameters(module, "width", given_hparams={"width": 8, "rate": 1.0})
    assert module.hparams["width"] == 8
    with pytest.raises(UnknownName, match="Did you mean 'width'"):
        save_hyperparameters(module, "widht", given_hparams={"width": 8})
    with pytest.raises(InvalidType, match="obj=3"):
        save_hyperparameters(3)


def test_attributes_wherever_they_are() -> None:
    module, data = Wide(), BoringDataModule()
    assert lightning_hasattr(module, "rate")
    assert (lightning_getattr(module, "rate"), lightning_getattr(module, "depth")) == (0.1, 5)
    lightning_setattr(module, "rate", 0.3)
    assert module.hparams["rate"] == 0.3
    assert not lightning_hasattr(module, "batch_size")
    for ask in (lightning_getattr, lambda *given: lightning_setattr(*given, 1)):
        with pytest.raises(AttributeError, match=r"'deepth' is neither an attribute of Wide.*Did you mean 'depth'"):
            ask(module, "deepth")
    data.batch_size = module.batch_size = 3  # type: ignore[attr-defined]  # as the tuner's users have it
    kit.trainer(fast_dev_run=True).fit(module, datamodule=data)
    lightning_setattr(module, "batch_size", 4)
    assert (data.batch_size, module.batch_size) == (4, 4)  # type: ignore[attr-defined]  # as above
    data.batch_size = 5  # type: ignore[attr-defined]  # as above
    assert lightning_getattr(module, "batch_size") == 5


def test_a_name_to_ignore_that_is_nowhere() -> None:
    class Ignoring(BoringModel):
        def __init__(self, width: int = 2, ignore: Any = ()) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=ignore)

    class AnyName(Ignoring):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)

    with pytest.warns(
        PossibleUserWarning, match=r"ignore=\['widht'\].*no such argument. Nothing is left out. Did you mean 'width'"
    ) as seen:
        Ignoring(ignore=["widht", "ignore"])
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "width" not in Ignoring(ignore=("width", "ignore")).hparams
        AnyName(ignore="model")

    class Given(BoringModel):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.save_hyperparameters(config, ignore=["b"])

    for config in ({"a": 1, "b": 2}, Namespace(a=1, b=2)):
        assert Given(config).hparams == {"a": 1}


@pytest.mark.parametrize("cls", [AttributeDict, MisconfigurationException, PossibleUserWarning, leyden.errors.LeydenError])
def test_signatures_can_be_read(cls: type) -> None:
    assert next(iter(inspect.signature(cls).parameters)) == "args"


def test_hooks_that_take_an_argument() -> None:
    class Hooks:
        def one(self, batch: Any) -> None: ...
        def many(self, *args: Any) -> None: ...
        def two(self, a: Any, b: Any) -> None: ...

    assert is_param_in_hook_signature(Hooks().one, "batch")
    assert not is_param_in_hook_signature(Hooks().one, "batch_idx")
    assert is_param_in_hook_signature(Hooks().many, "batch")
    assert not is_param_in_hook_signature(Hooks().many, "batch", explicit=True)
    assert is_param_in_hook_signature(Hooks().two, "batch", min_args=2)


# Optimizers, summaries, memory


def test_an_optimizer_alone() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = LightningOptimizer(torch.optim.SGD([weight], lr=0.5))
    assert isinstance(optimizer, torch.optim.SGD)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1.0
    assert weight.item() == 0.5
    optimizer.step()
    assert weight.item() == 0.0
    with pytest.raises(MisconfigurationException, match="that self"):
        optimizer.toggle_model()


def test_a_scheduler_s_settings_by_position() -> None:
    assert [each.name for each in fields(LRSchedulerConfig)] == [
        *("scheduler", "name", "interval", "frequency", "reduce_on_plateau", "monitor", "strict"),
    ]
    assert LRSchedulerConfig("s", "mine", "step", 2, True, "x", False) == LRSchedulerConfig(
        "s", monitor="x", strict=False, reduce_on_plateau=True, interval="step", frequency=2, name="mine"
    )


def test_a_layer_s_summary_looks_at_one_forward() -> None:
    layer = nn.Linear(2, 3)
    summary, other = LayerSummary(layer), LayerSummary(layer)
    assert (summary.in_size, summary.out_size, summary.layer_type, summary.num_parameters) == ("?", "?", "Linear", 9)
    other.detach_hook()
    layer(torch.zeros(5, 2))
    assert (summary.in_size, summary.out_size, other.in_size) == ([5, 2], [5, 3], "?")
    assert not layer._forward_hooks
    model = BoringModel()
    assert ModelSummary(model).summarize()["layer"].num_parameters == 66
    assert not model.layer._forward_hooks


def test_errors_of_memory_by_kind() -> None:
    gpu = RuntimeError("CUDA error: out of memory")
    cudnn = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if ...")
    cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert [is_cuda_out_of_memory(each) for each in (gpu, cudnn, cpu)] == [True, False, False]
    assert [is_cudnn_snafu(each) for each in (gpu, cudnn, cpu)] == [False, True, False]
    assert [is_out_of_cpu_memory(each) for each in (gpu, cudnn, cpu)] == [False, False, True]
    loose = torch.ones(1, requires_grad=True)
    assert not recursive_detach([loose, {"a": loose}])[1]["a"].requires_grad


# CombinedLoader


def test_limits_of_each_loader() -> None:
    loader = CombinedLoader([range(3), range(2)], "sequential")
    loader.limits = [1, float("inf")]
    assert list(loader) == [(0, 0, 0), (0, 0, 1), (1, 1, 1)]
    assert len(loader) == 3
    loader.limits = 1
    assert (loader.limits, len(loader)) == ([1, 1], 2)
    for wrong in ([1], [1, 2, 3], [1, -1], [1, 0.5], [True, 1]):
        with pytest.raises(InvalidOption, match="limits="):
            loader.limits = wrong
    loader.limits = None
    assert len(loader) == 5


def test_one_pass_by_hand() -> None:
    loader = CombinedLoader({"a": range(3), "b": range(2)})
    with pytest.raises(MisconfigurationException, match="Call iter"):
        next(loader)
    iter(loader)
    assert next(loader) == ({"a": 0, "b": 0}, 0, 0)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(loader)))
    assert [index for _, index, _ in copied] == [0, 1]
    assert next(loader) == ({"a": 1, "b": 1}, 1, 0)
    loader.reset()
    with pytest.raises(MisconfigurationException):
        next(loader)


# Of older versions


def test_auto_move_data() -> None:
    class Moving(BoringModel):
        @auto_move_data
        def forward(self, x: Any, other: Any = None) -> Any:
            return x.device.type, other["y"].device.type

    with pytest.warns(leyden.errors.LegacyNotice, match="auto_move_data"):
        notices.tell()
    assert Moving().to("meta")(torch.zeros(1), other={"y": torch.zeros(1)}) == ("meta", "meta")


def test_data_that_does_not_tell_its_length(tmp_path: Path) -> None:
    class Narrow(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(torch.cat(batch), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return super().validation_step(batch, batch_idx)

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return super().test_step(batch, batch_idx)

    run = kit.trainer(num_sanity_val_steps=0)
    run.fit(Narrow(), datamodule=IterableBoringDataModule())
    assert run.global_step == 16
    assert len(run.predict(Narrow(), datamodule=IterableBoringDataModule()) or ()) == 2
    endless = leyden.demos.boring_classes.BoringDataModuleNoLen()
    kit.trainer(limit_train_batches=2, limit_val_batches=2).fit(BoringModel(), datamodule=endless)
