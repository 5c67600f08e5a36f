"""Training from its first batch to its last: limits, wishes to stop, loaders, modes, and what hooks can read meanwhile."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import kit
import pytest
import torch
from kit import Stream
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import leyden
from leyden.data.combined import CombinedLoader
from leyden.errors import ConflictingOptions, EmptyLoader, InvalidLoader, InvalidOption, LeydenWarning, MissingMethod
from leyden.testing import BoringModel, Recorder, random_batches


class Tracing(leyden.Callback):
    """Writes down training in one line: ``E0`` an epoch, ``0s`` a batch with its step, ``*`` the last, ``V2`` a validation of two
    batches, ``S2`` a sanity check, ``/`` an epoch's end."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.step = 0
        self.seen = 0

    @property
    def line(self) -> str:
        return " ".join(self.events)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.events.append(f"E{trainer.current_epoch}")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped = trainer.global_step > self.step
        self.step = trainer.global_step
        self.events.append(f"{batch_idx}{'s' if stepped else ''}{'*' if trainer.is_last_batch else ''}")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = 0

    def on_validation_batch_end(self, *_: Any) -> None:
        self.seen += 1

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.events.append(f"{'S' if trainer.sanity_checking else 'V'}{self.seen}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.events.append("/")


def trace(
    train: Any = 3,
    val: Any = 1,
    *,
    module: leyden.LightningModule | None = None,
    callbacks: Any = (),
    before: Callable[[leyden.Trainer], Any] = lambda trainer: None,
    **options: Any,
) -> str:
    tracing = Tracing()
    trainer = kit.trainer(*callbacks, tracing, **{"num_sanity_val_steps": 0, **options})
    before(trainer)
    trainer.fit(
        module or BoringModel(),
        random_batches(train) if isinstance(train, int) else train,
        random_batches(val) if isinstance(val, int) else val,
    )
    return tracing.line


def stream(count: int) -> DataLoader[Tensor]:
    return DataLoader(Stream(torch.ones(count, 32)))


class TestLimits:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"max_epochs": 2}, "E0 0s 1s 2s* V1 / E1 0s 1s 2s* V1 /"),
            ({"max_epochs": 0}, ""),
            ({"max_epochs": -1, "max_steps": 4}, "E0 0s 1s 2s* V1 / E1 0s /"),
            ({"max_epochs": None, "max_steps": 2}, "E0 0s 1s /"),
            ({"max_steps": 3}, "E0 0s 1s 2s* V1 /"),
            ({"max_steps": 2, "accumulate_grad_batches": 2, "max_epochs": 5}, "E0 0 1s 2s* V1 /"),
            ({"max_steps": 0}, ""),
            ({"limit_train_batches": 2}, "E0 0s 1s* V1 /"),
            ({"limit_train_batches": 0.7}, "E0 0s 1s* V1 /"),
            ({"limit_train_batches": 0.34}, "E0 0s* V1 /"),
            ({"limit_train_batches": 1}, "E0 0s* V1 /"),
            ({"limit_train_batches": 1.0}, "E0 0s 1s 2s* V1 /"),
            ({"limit_train_batches": 99}, "E0 0s 1s 2s* V1 /"),
            ({"limit_train_batches": 0}, ""),
            ({"limit_val_batches": 0}, "E0 0s 1s 2s* /"),
            ({"limit_val_batches": 0.0, "val_check_interval": 1}, "E0 0s 1s 2s* /"),
            ({"check_val_every_n_epoch": 2, "max_epochs": 3, "limit_train_batches": 1}, "E0 0s* / E1 0s* V1 / E2 0s* /"),
            ({"check_val_every_n_epoch": None}, "E0 0s 1s 2s* V1 /"),
            ({"accumulate_grad_batches": 2}, "E0 0 1s 2s* V1 /"),
            ({"accumulate_grad_batches": 9}, "E0 0 1 2s* V1 /"),
            ({"fast_dev_run": True}, "E0 0s* V1 /"),
            ({"fast_dev_run": 2}, "E0 0s 1s* V1 /"),
            ({"fast_dev_run": 1, "max_epochs": 9, "num_sanity_val_steps": 2, "val_check_interval": 3}, "E0 0s* V1 /"),
            ({"max_time": timedelta(microseconds=1), "max_epochs": 3}, "E0 0s V1 /"),
            ({"max_time": {"days": 1}}, "E0 0s 1s 2s* V1 /"),
            ({"max_time": "00:00:00:00"}, ""),
        ],
    )
    def test_how_much_is_trained(self, options: dict[str, Any], expected: str) -> None:
        assert trace(**options) == expected

    @pytest.mark.parametrize(
        ("val", "options", "expected"),
        [
            (3, {}, "S2 E0 0s* V3 /"),
            (3, {"num_sanity_val_steps": 0}, "E0 0s* V3 /"),
            (3, {"num_sanity_val_steps": 1}, "S1 E0 0s* V3 /"),
            (3, {"num_sanity_val_steps": 9}, "S3 E0 0s* V3 /"),
            (3, {"num_sanity_val_steps": -1}, "S3 E0 0s* V3 /"),
            (3, {"num_sanity_val_steps": -1, "limit_val_batches": 1}, "S1 E0 0s* V1 /"),
            (4, {"limit_val_batches": 0.5}, "S2 E0 0s* V2 /"),
            (4, {"limit_val_batches": 0}, "E0 0s* /"),
            (stream(3), {"num_sanity_val_steps": -1}, "S3 E0 0s* V3 /"),
            (stream(3), {"limit_val_batches": 2}, "S2 E0 0s* V2 /"),
            ([random_batches(2), random_batches(3)], {"num_sanity_val_steps": 1}, "S2 E0 0s* V5 /"),
            ({"a": random_batches(2), "b": random_batches(3)}, {"limit_val_batches": 1}, "S2 E0 0s* V2 /"),
        ],
    )
    def test_how_much_is_validated(self, val: Any, options: dict[str, Any], expected: str) -> None:
        class Module(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

        assert trace(1, val, module=Module(), **{"num_sanity_val_steps": None, **options}) == expected

    def test_overfitting_reads_the_same_batches_in_order(self) -> None:
        seen: list[float] = []

        class Seeing(BoringModel):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append(batch[0, 0].item())
                return super().training_step(batch, batch_idx)

        data = torch.arange(6.0).repeat(32, 1).T.contiguous()
        loader: Any = DataLoader(data, shuffle=True)  # type: ignore[arg-type]
        with pytest.warns(LeydenWarning, match="shuffling of the training loader is turned off"):
            assert trace(loader, 6, module=Seeing(), overfit_batches=2, max_epochs=2) == "E0 0s 1s* V2 / E1 0s 1s* V2 /"
        assert seen == [0, 1, 0, 1]
        assert isinstance(loader.sampler, torch.utils.data.RandomSampler)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"val_check_interval": 4}, ConflictingOptions, "val_check_interval=4 is more than the 3 training batches"),
            ({"limit_train_batches": 0.1}, InvalidOption, "at least one of the 3 batches"),
            ({"limit_val_batches": 0.1}, InvalidOption, "at least one of the 1 batches"),
            ({"check_val_every_n_epoch": None, "val_check_interval": 0.5}, ConflictingOptions, "must be a number of batches"),
        ],
    )
    def test_limits_that_leave_nothing(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            trace(**options)

    @pytest.mark.parametrize("options", [{"limit_train_batches": 0.5}, {"val_check_interval": 0.5}, {"limit_val_batches": 0.5}])
    def test_a_share_of_what_has_no_length(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidOption, match="does not tell its length"):
            trace(stream(3), stream(3), **options)


def stopping(hook: str, **how: Any) -> leyden.Callback:
    """Wishes to stop, in ``hook``, each time it fires."""
    callback = leyden.Callback()

    def wish(trainer: Any, *_: Any, **__: Any) -> None:
        if how.get("by_attribute"):
            trainer.should_stop = True
        else:
            trainer.stop(f"in {hook}")

    if hook == "setup":
        setattr(callback, hook, lambda trainer, pl_module, stage: wish(trainer))
    else:
        setattr(callback, hook, wish)
    return callback


EARLY = ("setup", "on_fit_start", "on_sanity_check_start", "on_validation_start", "on_train_start")
IN_THE_BATCH = (
    *("on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)


class TestStopping:
    @pytest.mark.parametrize("by_attribute", [False, True])
    @pytest.mark.parametrize("hook", EARLY)
    def test_before_training(self, hook: str, by_attribute: bool) -> None:
        line = trace(callbacks=[stopping(hook, by_attribute=by_attribute)], num_sanity_val_steps=1)
        assert line == "S1"

    @pytest.mark.parametrize("hook", EARLY)
    def test_before_training_with_a_least_number_of_epochs(self, hook: str) -> None:
        line = trace(callbacks=[stopping(hook)], num_sanity_val_steps=1, min_epochs=2, max_epochs=5)
        assert line == "S1 E0 0s 1s 2s* V1 / E1 0s 1s 2s* V1 /"

    @pytest.mark.parametrize("hook", IN_THE_BATCH[1:])
    def test_in_a_batch_the_batch_ends_and_validation_follows(self, hook: str) -> None:
        assert trace(callbacks=[stopping(hook)], max_epochs=5) == "E0 0s V1 /"

    def test_at_an_epochs_start(self) -> None:
        assert trace(callbacks=[stopping("on_train_epoch_start")], max_epochs=5) == "E0 /"

    @pytest.mark.parametrize("hook", IN_THE_BATCH)
    def test_min_epochs_are_whole_epochs(self, hook: str) -> None:
        assert trace(callbacks=[stopping(hook)], max_epochs=5, min_epochs=1) == "E0 0s 1s 2s* V1 /"

    @pytest.mark.parametrize("hook", IN_THE_BATCH)
    def test_min_steps(self, hook: str) -> None:
        assert trace(callbacks=[stopping(hook)], max_epochs=5, min_steps=4) == "E0 0s 1s 2s* V1 / E1 0s V1 /"

    def test_max_steps_before_the_stop_is_allowed_ends_as_without_it(self) -> None:
        limits: Any = {"max_epochs": 5, "min_epochs": 2, "max_steps": 4}
        assert trace(callbacks=[stopping("on_train_batch_start")], **limits) == trace(**limits) == "E0 0s 1s 2s* V1 / E1 0s /"

    @pytest.mark.parametrize("hook", ["on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"])
    def test_in_a_validation_that_goes_to_its_end(self, hook: str) -> None:
        line = trace(3, 2, callbacks=[stopping(hook)], max_epochs=5, val_check_interval=1)
        assert line == "E0 0s V2 /"

    def test_at_an_epochs_end(self) -> None:
        assert trace(callbacks=[stopping("on_train_epoch_end")], max_epochs=5) == "E0 0s 1s 2s* V1 /"

    def test_inside_a_window(self) -> None:
        assert trace(callbacks=[stopping("on_train_batch_end")], max_epochs=5, accumulate_grad_batches=2) == "E0 0 V1 /"

    def test_the_module_may_wish_too(self) -> None:
        class Module(BoringModel):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if self.global_step == 1:
                    self.trainer.should_stop = True
                return super().training_step(batch, batch_idx)

        assert trace(module=Module(), max_epochs=5) == "E0 0s 1s V1 /"

    def test_a_wish_from_before_the_fit_is_forgotten(self) -> None:
        assert trace(before=lambda trainer: trainer.stop()) == "E0 0s 1s 2s* V1 /"

    def test_the_result_says_why(self) -> None:
        trainer = kit.trainer(max_epochs=5, callbacks=stopping("on_train_batch_end"), limit_val_batches=0)
        result = trainer.fit(BoringModel(), random_batches(3))
        assert (result.status, result.reason) == ("stopped", "in on_train_batch_end")
        assert (result.epochs, result.steps) == (1, 1)
        assert trainer.should_stop

    def test_minus_one_skips_the_rest_of_each_epoch(self) -> None:
        class Module(BoringModel):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
                return -1 if batch_idx == 1 else None

        assert trace(module=Module(), max_epochs=2) == "E0 0s / E1 0s /"
        callback = leyden.Callback()
        callback.on_train_batch_start = lambda *_: -1  # type: ignore[method-assign,assignment,return-value]
        module = BoringModel()
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)  # type: ignore[method-assign]
        assert trace(module=module, callbacks=[callback], max_epochs=2) == "E0 / E1 /"

    def test_minus_one_inside_a_window_steps_with_what_there_is(self) -> None:
        class Module(BoringModel):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
                return -1 if batch_idx == 3 else None

        module = Module()
        trace(5, module=module, accumulate_grad_batches=2)
        assert module.global_step == 2
        other = BoringModel()
        assert trace(3, module=other, accumulate_grad_batches=2) == "E0 0 1s 2s* V1 /"


class TestLoaders:
    @pytest.mark.parametrize(
        ("count", "options", "expected"),
        [
            (3, {}, "E0 0s 1s 2s* V1 /"),
            (3, {"accumulate_grad_batches": 2}, "E0 0 1s 2s* V1 /"),
            (3, {"limit_train_batches": 2}, "E0 0s 1s* V1 /"),
            (3, {"limit_train_batches": 5}, "E0 0s 1s 2s* V1 /"),
            (3, {"val_check_interval": 2}, "E0 0s 1s V1 2s* /"),
            (1, {}, "E0 0s* V1 /"),
        ],
    )
    def test_without_a_length_the_last_batch_is_known_all_the_same(
        self, count: int, options: dict[str, Any], expected: str
    ) -> None:
        assert trace(stream(count), **options) == expected

    def test_nothing_is_fetched_that_is_not_trained_on(self) -> None:
        fetched: list[int] = []

        class Counting(IterableDataset[Tensor]):
            def __iter__(self) -> Iterator[Tensor]:
                for index in itertools.count():
                    fetched.append(index)
                    yield torch.ones(32)

        trace(DataLoader(Counting(), batch_size=1), limit_train_batches=3)
        assert fetched == [0, 1, 2]

    def test_a_loader_that_ends_early_ends_the_epoch_and_is_validated(self) -> None:
        class Promising(Stream):
            def __len__(self) -> int:
                return 5

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeydenWarning)
            line = trace(DataLoader(Promising(torch.ones(3, 32))), accumulate_grad_batches=2)
        assert line == "E0 0 1s 2 V1 /"

    @pytest.mark.parametrize("loader", [stream(0), DataLoader(torch.ones(3, 32), batch_size=4, drop_last=True)])  # type: ignore[arg-type]
    def test_an_empty_loader_is_an_error(self, loader: Any) -> None:
        with pytest.raises(EmptyLoader, match=r"yielded no batch|has no batch"):
            trace(loader)

    @pytest.mark.parametrize("val", [[], {}])
    def test_no_validation_loader(self, val: Any) -> None:
        assert trace(1, val) == "E0 0s* /"

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda a, b: {"a": a, "b": b}, [(0, 0), (1, 1), (0, 2)]),
            (lambda a, b: [a, b], [(0, 0), (1, 1), (0, 2)]),
            (lambda a, b: (a, b), [(0, 0), (1, 1), (0, 2)]),
            (lambda a, b: CombinedLoader({"a": a, "b": b}, "min_size"), [(0, 0), (1, 1)]),
            (lambda a, b: CombinedLoader([a, b], "max_size"), [(0, 0), (1, 1), (None, 2)]),
            (lambda a, b: CombinedLoader([a, b], "max_size_cycle"), [(0, 0), (1, 1), (0, 2)]),
        ],
    )
    @pytest.mark.parametrize("sized", [True, False])
    def test_several_side_by_side(self, make: Any, expected: list[Any], sized: bool) -> None:
        def numbers(count: int) -> Any:
            data = torch.arange(float(count)).repeat(32, 1).T.contiguous()
            if sized:
                return DataLoader(data)  # type: ignore[arg-type]
            return DataLoader(Stream(data), batch_size=1)

        seen: list[Any] = []

        class Seeing(BoringModel):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                both = list(batch.values()) if isinstance(batch, dict) else list(batch)
                seen.append(tuple(None if part is None else int(part[0, 0]) for part in both))
                return self.step(both[1])

        line = trace(make(numbers(2), numbers(3)), module=Seeing(), max_epochs=2)
        assert seen == expected * 2
        assert line.count("*") == 2

    def test_a_limit_of_several(self) -> None:
        class Module(BoringModel):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return self.step(batch["a"])

        line = trace({"a": random_batches(2), "b": random_batches(3)}, module=Module(), limit_train_batches=1)
        assert line == "E0 0s* V1 /"

    @pytest.mark.parametrize(("every", "epochs"), [(0, [0]), (1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
    def test_reloading(self, every: int, epochs: list[int]) -> None:
        made: list[str] = []

        class Module(BoringModel):
            def train_dataloader(self) -> Any:
                made.append(f"train {self.current_epoch}")
                return random_batches(self.current_epoch + 1)

            def val_dataloader(self) -> Any:
                made.append(f"val {self.current_epoch}")
                return random_batches(1)

        tracing = Tracing()
        trainer = kit.trainer(max_epochs=4, reload_dataloaders_every_n_epochs=every, callbacks=tracing)
        trainer.fit(Module())
        assert [name for name in made if name.startswith("train")] == [f"train {epoch}" for epoch in epochs]
        assert [name for name in made if name.startswith("val")] == [f"val {epoch}" for epoch in epochs]
        assert tracing.events.count("0s") + tracing.events.count("0s*") == 4
        assert trainer.num_training_batches == epochs[-1] + 1

    def test_none_for_training(self) -> None:
        class Module(BoringModel):
            def train_dataloader(self) -> Any:
                return None

        with pytest.raises(InvalidLoader, match=r"Module.train_dataloader\(\) returned None"):
            kit.trainer().fit(Module())

    def test_a_list_of_batches_is_explained(self) -> None:
        with pytest.raises(InvalidLoader, match="is a list of batches, and a list is read as several loaders"):
            kit.trainer().fit(BoringModel(), [torch.ones(1, 32)])

    def test_the_samplers_learn_the_epoch(self) -> None:
        class Sampler(torch.utils.data.SequentialSampler):
            def set_epoch(self, epoch: int) -> None:
                told.append(epoch)

        told: list[int] = []
        data = torch.ones(2, 32)
        loader: Any = DataLoader(data, sampler=Sampler(data))  # type: ignore[arg-type]
        trace(loader, max_epochs=3)
        assert told[::1] == sorted(told)
        assert set(told) == {0, 1, 2}


class TestModes:
    class Module(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(32)
            self.drop = nn.Dropout()
            self.modes: list[tuple[str, bool, bool, bool]] = []

        def note(self, where: str) -> None:
            self.modes.append((where, self.training, self.norm.training, self.drop.training))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.note("train")
            return self.step(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.note("val")

    def test_a_frozen_part_stays_frozen(self) -> None:
        module = self.Module()
        module.norm.eval()
        trace(2, module=module, val_check_interval=1, num_sanity_val_steps=1)
        assert module.modes == [
            *(("val", False, False, False), ("train", True, False, True), ("val", False, False, False)),
            *(("train", True, False, True), ("val", False, False, False)),
        ]
        assert (module.training, module.norm.training, module.drop.training) == (True, False, True)

    def test_a_module_in_eval_mode_is_put_into_train_mode_and_it_is_said(self) -> None:
        module = self.Module().eval()
        with pytest.warns(LeydenWarning, match="was in eval mode when fit began"):
            trace(1, module=module)
        assert module.modes == [("train", True, True, True), ("val", False, False, False)]

    def test_modes_set_in_a_hook_are_kept(self) -> None:
        class Module(self.Module):  # type: ignore[name-defined,misc]
            def on_train_epoch_start(self) -> None:
                self.norm.eval()

        module = Module()
        trace(1, module=module, max_epochs=2)
        assert module.modes == [("train", True, False, True), ("val", False, False, False)] * 2

    def test_the_module_may_see_to_the_modes_itself(self) -> None:
        calls: list[str] = []

        class Module(self.Module):  # type: ignore[name-defined,misc]
            def on_validation_model_eval(self) -> None:
                calls.append("eval")
                self.drop.eval()

            def on_validation_model_train(self) -> None:
                calls.append("train")
                super().on_validation_model_train()

        module = Module()
        trace(1, module=module)
        assert module.modes == [("train", True, True, True), ("val", True, True, False)]
        assert calls == ["eval", "train"]
        assert module.drop.training

    @pytest.mark.parametrize("inference", [True, False])
    def test_no_gradients_while_validating(self, inference: bool) -> None:
        seen: list[tuple[bool, bool]] = []

        class Module(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
                assert not self.step(batch).requires_grad

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
                return self.step(batch)

        trace(1, module=Module(), inference_mode=inference, num_sanity_val_steps=1)
        assert seen == [(False, False), (True, False), (False, False)]  # its tensors may be trained with

    def test_gradients_may_be_switched_on(self) -> None:
        class Module(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                with torch.enable_grad():
                    assert self.step(batch).requires_grad

        assert trace(1, module=Module()) == "E0 0s* V1 /"

    def test_what_a_callback_kept_of_a_validation_is_trained_with(self) -> None:
        class Kept(leyden.Callback):
            outputs: Any = None

            def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
                self.outputs = outputs["y"]

        class Module(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                return {"y": self.layer(batch)}

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return (self.layer(batch) * kept.outputs[:1]).sum()

        kept = Kept()
        assert trace(2, module=Module(), callbacks=[kept], num_sanity_val_steps=1).endswith("E0 0s 1s* V1 /")

    def test_fit_inside_no_grad(self) -> None:
        module = BoringModel()
        before = module.layer.weight.detach().clone()
        with torch.no_grad():
            trace(1, module=module)
            assert not torch.is_grad_enabled()
        assert not torch.equal(module.layer.weight, before)


class TestWhatHooksRead:
    def test_counts_and_stages_at_every_hook(self) -> None:
        seen: list[str] = []

        def note(name: str) -> Callable[..., Any]:
            def hook(trainer: Any, *_: Any, **__: Any) -> None:
                stage = next(
                    (s for s in ("training", "sanity_checking", "validating", "testing", "predicting") if getattr(trainer, s)),
                    "-",
                )
                seen.append(f"{name} {trainer.current_epoch} {trainer.global_step} {stage} {int(trainer.is_last_batch)}")

            return hook

        names = [
            *("setup", "on_fit_start", "on_sanity_check_end", "on_train_start", "on_train_epoch_start", "on_train_batch_start"),
            *("on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_end", "on_validation_end"),
            *("on_train_epoch_end", "on_train_end", "on_fit_end", "teardown"),
        ]
        trace(2, 2, callbacks=[Recorder(**{name: note(name) for name in names})], num_sanity_val_steps=1)
        assert seen == [
            "setup 0 0 training 0",
            "on_fit_start 0 0 training 0",
            "on_validation_batch_end 0 0 sanity_checking 0",
            "on_validation_end 0 0 sanity_checking 0",
            "on_sanity_check_end 0 0 sanity_checking 0",
            "on_train_start 0 0 training 0",
            "on_train_epoch_start 0 0 training 0",
            "on_train_batch_start 0 0 training 0",
            "on_before_optimizer_step 0 0 training 0",
            "on_train_batch_end 0 1 training 0",
            "on_train_batch_start 0 1 training 1",
            "on_before_optimizer_step 0 1 training 1",
            "on_train_batch_end 0 2 training 1",
            "on_validation_batch_end 0 2 validating 1",
            "on_validation_batch_end 0 2 validating 1",
            "on_validation_end 0 2 validating 1",
            "on_train_epoch_end 0 2 training 1",
            "on_train_end 1 2 training 1",
            "on_fit_end 1 2 training 1",
            "teardown 1 2 training 1",
        ]

    @pytest.mark.parametrize(("verb", "stage"), [("validate", "validating"), ("test", "testing"), ("predict", "predicting")])
    def test_the_stage_of_the_other_verbs(self, verb: str, stage: str) -> None:
        seen: list[Any] = []

        def note(trainer: Any, *_: Any, **__: Any) -> None:
            seen.append((getattr(trainer, stage), str(trainer.state.fn), trainer.is_last_batch))

        word = {"validate": "validation"}.get(verb, verb)
        heard = Recorder(setup=note, teardown=note, **{f"on_{word}_batch_end": note})
        trainer = kit.trainer(callbacks=heard)
        getattr(trainer, verb)(BoringModel(), random_batches(2))
        assert seen == [(True, verb, False), (True, verb, False), (True, verb, True), (True, verb, True)]
        assert trainer.state.stage is None

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"max_epochs": 2}, 10),
            ({"max_epochs": 2, "accumulate_grad_batches": 2}, 6),
            ({"max_epochs": 4, "accumulate_grad_batches": {0: 1, 2: 5}}, 12),
            ({"max_epochs": 2, "limit_train_batches": 2}, 4),
            ({"max_epochs": 2, "max_steps": 3}, 3),
            ({"max_epochs": -1, "max_steps": 3}, 3),
            ({"max_epochs": -1, "max_time": {"days": 1}}, float("inf")),
        ],
    )
    def test_the_estimate_of_steps(self, options: dict[str, Any], expected: float) -> None:
        seen: list[Any] = []

        class Module(BoringModel):
            def configure_optimizers(self) -> Any:
                seen.append(self.trainer.estimated_stepping_batches)
                return super().configure_optimizers()

            def on_train_start(self) -> None:
                seen.append(self.trainer.estimated_stepping_batches)
                if options["max_epochs"] == -1 and "max_steps" not in options:
                    self.trainer.stop()

        trainer = kit.trainer(limit_val_batches=0, **options)
        trainer.fit(Module(), random_batches(5))
        seen.append(trainer.estimated_stepping_batches)
        assert seen == [expected] * 3
        assert trainer.global_step == expected or expected == float("inf")

    def test_the_estimate_of_very_many_epochs_takes_no_longer(self) -> None:
        trainer = kit.trainer(limit_val_batches=0, max_epochs=10**15, max_steps=1, accumulate_grad_batches={1: 2})
        trainer.fit(BoringModel(), random_batches(5))
        trainer.max_steps = -1
        assert trainer.estimated_stepping_batches == 5 + (10**15 - 1) * 3

    def test_the_estimate_where_the_length_is_unknown(self) -> None:
        trainer = kit.trainer(limit_val_batches=0)
        trainer.fit(BoringModel(), stream(2))
        assert trainer.estimated_stepping_batches == float("inf")
        assert trainer.num_training_batches == float("inf")

    def test_the_estimate_of_no_epoch_is_that_of_one(self) -> None:
        class Module(BoringModel):
            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
                steps = int(self.trainer.estimated_stepping_batches)
                return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)]

        trainer = kit.trainer(limit_val_batches=0, max_epochs=0)
        trainer.fit(Module(), random_batches(5))
        assert (trainer.estimated_stepping_batches, trainer.global_step) == (5, 0)

    @pytest.mark.parametrize("limit", [{"max_epochs": 0}, {"max_steps": 0}])
    def test_numbers_of_batches_after_a_fit_of_no_epoch(self, limit: dict[str, int]) -> None:
        trainer = kit.trainer(**{"max_epochs": 1, **limit}, limit_train_batches=4, val_check_interval=2)
        trainer.fit(BoringModel(), random_batches(5), random_batches(2))
        assert (trainer.num_training_batches, trainer.val_check_batch, trainer.num_val_batches) == (4, 2, [2])

    def test_the_estimate_before_any_fit(self) -> None:
        with pytest.raises(MissingMethod, match="There is no training loader yet: fit gets one"):
            _ = kit.trainer().estimated_stepping_batches

    def test_numbers_of_batches_stay_readable_after_another_verb(self) -> None:
        trainer = kit.trainer(num_sanity_val_steps=1)
        loader = random_batches(3)
        trainer.fit(BoringModel(), loader, random_batches(2))
        assert (trainer.num_training_batches, trainer.num_val_batches, trainer.num_sanity_val_batches) == (3, [2], [1])
        trainer.test(dataloaders=random_batches(4))
        assert (trainer.num_training_batches, trainer.num_val_batches, trainer.num_test_batches) == (3, [2], [4])
        assert trainer.train_dataloader is loader
        assert trainer.estimated_stepping_batches == 3


class TestASecondFit:
    def test_is_fresh(self) -> None:
        tracing = Tracing()
        trainer = kit.trainer(callbacks=tracing, limit_val_batches=0)
        first = trainer.fit(BoringModel(), random_batches(2))
        tracing.step = 0
        second = trainer.fit(BoringModel(), random_batches(3))
        assert tracing.line == "E0 0s 1s* / E0 0s 1s 2s* /"
        assert (first.steps, second.steps) == (2, 3)

    def test_with_the_same_module_trains_on(self) -> None:
        trainer = kit.trainer(limit_val_batches=0)
        module = BoringModel()
        trainer.fit(module, random_batches(2))
        optimizer, weight = trainer.optimizers[0], module.layer.weight.detach().clone()
        trainer.fit(module, random_batches(2))
        assert trainer.optimizers[0] is not optimizer
        assert not torch.equal(module.layer.weight, weight)

    def test_a_stop_of_the_first_does_not_hold_for_the_second(self) -> None:
        tracing = Tracing()
        once = leyden.Callback()
        stops = iter([True])
        once.on_train_batch_end = lambda trainer, *_: trainer.stop() if next(stops, False) else None  # type: ignore[method-assign]
        trainer = kit.trainer(callbacks=[once, tracing], limit_val_batches=0)
        trainer.fit(BoringModel(), random_batches(2))
        tracing.step = 0
        result = trainer.fit(BoringModel(), random_batches(2))
        assert tracing.line == "E0 0s / E0 0s 1s* /"
        assert result.status == "finished"


class TestDevRun:
    def test_tests_too(self) -> None:
        heard = Recorder()
        trainer = leyden.Trainer(accelerator="cpu", fast_dev_run=2, callbacks=heard, enable_progress_bar=False)
        trainer.fit(BoringModel())
        assert [heard.names.count(f"on_{stage}_batch_end") for stage in ("train", "validation", "test")] == [2, 2, 2]
        assert "on_sanity_check_start" not in heard.names
        assert str(trainer.state.fn) == "fit"

    def test_without_anything_to_test(self) -> None:
        heard = Recorder()
        trainer = leyden.Trainer(accelerator="cpu", fast_dev_run=True, callbacks=heard, enable_progress_bar=False)
        module = BoringModel()
        module.test_dataloader = None  # type: ignore[method-assign,assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeydenWarning)
            trainer.fit(module, random_batches(1))
        assert "on_test_batch_end" not in heard.names


def test_a_validation_that_draws_does_not_disturb_training() -> None:
    def weights(**options: Any) -> Tensor:
        class Module(BoringModel):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return self.step(nn.functional.dropout(batch))

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                torch.randn(7)

        torch.manual_seed(0)
        module = Module()
        data = torch.randn(4, 32)
        trainer = kit.trainer(max_epochs=2, **options)
        trainer.fit(module, DataLoader(data, shuffle=True), DataLoader(data))  # type: ignore[arg-type]
        return module.layer.weight.detach()

    plain = weights(limit_val_batches=0)
    assert torch.equal(plain, weights(num_sanity_val_steps=2))
    assert torch.equal(plain, weights(val_check_interval=1, num_sanity_val_steps=0))


class Growing(torch.utils.data.Dataset[Tensor]):
    """A dataset that gets more samples as the run goes on, such as a replay buffer."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((32,), float(index))


def test_a_dataset_that_grows_is_read_whole_in_every_epoch() -> None:
    train, val = Growing(4), Growing(1)
    trained: list[tuple[int, float]] = []
    validated: list[int] = []

    class Reads(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            trained.append((self.current_epoch, batch[0, 0].item()))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            validated.append(self.current_epoch)

        def on_train_epoch_end(self) -> None:
            train.length += 2
            val.length += 1

    trainer = kit.trainer(max_epochs=2, val_check_interval=0.5, num_sanity_val_steps=0)
    trainer.fit(Reads(), DataLoader(train), DataLoader(val))
    assert trained == [(0, float(i)) for i in range(4)] + [(1, float(i)) for i in range(6)]
    assert validated == [0] * 2 * 1 + [1] * 2 * 2
    assert trainer.num_training_batches == 6


def test_a_dataset_that_becomes_empty_is_an_error_and_no_endless_run() -> None:
    train = Growing(2)

    class Empties(BoringModel):
        def on_train_epoch_end(self) -> None:
            train.length = 0

    trainer = kit.trainer(max_epochs=-1, limit_val_batches=0)
    with pytest.raises(EmptyLoader, match="its length is 0"):
        trainer.fit(Empties(), DataLoader(train))


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("batches", [1, 3])
def test_a_stream_cut_in_its_last_batch_goes_on_with_that_batch(hook: str, batches: int, tmp_path: Any) -> None:
    """A loader without a length, saved while the batch is in hand after which it ends."""
    seen: list[float] = []

    class Sees(kit.Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(float(batch[0, 0]))
            return self.layer(batch).sum()

    def save(trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 0 and trainer.is_last_batch:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    def loader() -> DataLoader[Any]:
        return DataLoader(Stream([torch.full((2,), float(number)) for number in range(batches)]))

    kit.fit(Sees(), loader(), callbacks=[Recorder(**{hook: save})], max_epochs=2)
    whole = seen.copy()
    seen.clear()
    kit.fit(Sees(), loader(), ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert seen == whole[batches - (hook == "on_train_batch_start") :]


@pytest.mark.parametrize(("limit", "is_last"), [(1.0, False), (2, True)])
def test_lightning_is_told_whether_a_saved_epoch_s_batches_are_over(limit: float, is_last: bool, tmp_path: Any) -> None:
    path = tmp_path / "a.ckpt"
    save = Recorder(on_train_batch_end=lambda run, *_: run.save_checkpoint(path) if run.global_step == 2 else None)
    kit.fit(kit.Tiny(), kit.ones(4), callbacks=[save], limit_train_batches=limit)
    loops = torch.load(path, weights_only=True)["loops"]["fit_loop"]
    assert loops["epoch_loop.batch_progress"]["is_last_batch"] is is_last
