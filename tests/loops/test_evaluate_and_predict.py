"""Validation, test and prediction: every batch of every loader, steps with the arguments they take, what comes back."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import kit
import pytest
import torch
from kit import trainer
from torch import Tensor
from torch.utils.data import DataLoader

import leyden
from leyden.data.combined import CombinedLoader
from leyden.errors import EmptyLoader, MissingMethod
from leyden.testing import BoringModel, Recorder, random_batches


def numbers(count: int, start: int = 0) -> DataLoader[Tensor]:
    data = torch.arange(float(start), float(start + count)).repeat(32, 1).T.contiguous()
    return DataLoader(data)  # type: ignore[arg-type]


class Seeing(BoringModel):
    """Writes down ``(batch, batch_idx, dataloader_idx)`` of each evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.seen.append((int(batch[0, 0]), batch_idx, dataloader_idx))
        self.log("value", batch[0, 0])

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.seen.append((int(batch[0, 0]), batch_idx, dataloader_idx))
        return batch[0, 0]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
class TestEveryVerb:
    def test_one_loader(self, verb: str) -> None:
        module = Seeing()
        result = getattr(trainer(), verb)(module, numbers(3))
        assert module.seen == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]
        assert result == ([0, 1, 2] if verb == "predict" else [{"value": 1.0}])

    @pytest.mark.parametrize("kind", ["list", "tuple", "dict", "sequential"])
    def test_several_loaders_one_after_another(self, verb: str, kind: str) -> None:
        both = [numbers(2), numbers(3, 10)]
        given: Any = {
            "list": both,
            "tuple": tuple(both),
            "dict": {"a": both[0], "b": both[1]},
            "sequential": CombinedLoader(both, "sequential"),
        }[kind]
        module = Seeing()
        result = getattr(trainer(), verb)(module, given)
        assert module.seen == [(0, 0, 0), (1, 1, 0), (10, 0, 1), (11, 1, 1), (12, 2, 1)]
        if verb == "predict":
            assert result == [[0, 1], [10, 11, 12]]
        else:
            assert result == [{"value/dataloader_idx_0": 0.5}, {"value/dataloader_idx_1": 11.0}]

    @pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
    def test_several_loaders_side_by_side(self, verb: str, mode: Any) -> None:
        seen: list[Any] = []

        class Module(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append(tuple(None if part is None else int(part[0, 0]) for part in batch))

            test_step = predict_step = validation_step  # type: ignore[assignment]

        getattr(trainer(), verb)(Module(), CombinedLoader([numbers(1), numbers(2, 10)], mode))
        assert (
            seen
            == {
                "min_size": [(0, 10)],
                "max_size": [(0, 10), (None, 11)],
                "max_size_cycle": [(0, 10), (0, 11)],
            }[mode]
        )

    @pytest.mark.parametrize(("limit", "count"), [(2, 2), (0.5, 2), (1.0, 4), (0, 0), (9, 4)])
    def test_limits(self, verb: str, limit: Any, count: int) -> None:
        name = {"validate": "val"}.get(verb, verb)
        module = Seeing()
        made = trainer(**{f"limit_{name}_batches": limit})
        result = getattr(made, verb)(module, numbers(4))
        assert len(module.seen) == count
        assert getattr(made, f"num_{name}_batches") == [count]
        if not count:
            assert result == []

    def test_hooks_get_the_loaders_number_where_there_are_several(self, verb: str) -> None:
        word = {"validate": "validation"}.get(verb, verb)
        seen: list[Any] = []
        heard = Recorder(
            **{
                f"on_{word}_batch_start": lambda t, m, batch, *rest: seen.append(("start", *rest)),
                f"on_{word}_batch_end": lambda t, m, outputs, batch, *rest: seen.append(("end", *rest)),
            }
        )
        getattr(trainer(callbacks=heard), verb)(Seeing(), [numbers(1), numbers(1)])
        assert seen == [("start", 0, 0), ("end", 0, 0), ("start", 0, 1), ("end", 0, 1)]

    def test_the_modes_come_back_even_after_an_exception(self, verb: str) -> None:
        class Failing(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                assert not self.training
                assert not torch.is_grad_enabled()
                raise ZeroDivisionError

            test_step = predict_step = validation_step  # type: ignore[assignment]

        module = Failing()
        module.layer.eval()
        with pytest.raises(ZeroDivisionError):
            getattr(trainer(), verb)(module, numbers(1))
        assert module.training
        assert not module.layer.training
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("inference", [True, False])
    def test_inference_mode(self, verb: str, inference: bool) -> None:
        class Module(BoringModel):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                assert torch.is_inference_mode_enabled() is inference
                assert not torch.is_grad_enabled()

            test_step = predict_step = validation_step  # type: ignore[assignment]

        getattr(trainer(inference_mode=inference), verb)(Module(), numbers(1))
        assert not torch.is_inference_mode_enabled()

    def test_an_empty_loader(self, verb: str) -> None:
        with pytest.raises(EmptyLoader, match="has no batch"):
            getattr(trainer(), verb)(Seeing(), DataLoader(torch.ones(0, 32), batch_size=2))  # type: ignore[arg-type]

    def test_only_predict_reads_the_batch_that_the_loader_drops(self, verb: str) -> None:
        lone = DataLoader(torch.ones(1, 32), batch_size=2, drop_last=True)  # type: ignore[arg-type]
        with nullcontext() if verb == "predict" else pytest.raises(EmptyLoader, match="drop_last=True"):
            getattr(trainer(), verb)(Seeing(), lone)

    def test_nothing_to_read(self, verb: str) -> None:
        module = leyden.LightningModule()
        for name in ("validation_step", "test_step", "predict_step"):
            setattr(module, name, lambda batch, batch_idx: None)
        with pytest.raises(MissingMethod, match="dataloader"):
            getattr(trainer(), verb)(module)

    def test_without_a_model(self, verb: str) -> None:
        with pytest.raises(MissingMethod, match=f"{verb}.. was called without a model, and none was used before"):
            getattr(trainer(), verb)(dataloaders=numbers(1))

    def test_with_the_model_used_before(self, verb: str) -> None:
        made = trainer()
        module = Seeing()
        made.validate(module, numbers(1), verbose=False)
        getattr(made, verb)(dataloaders=numbers(2, 5))
        assert module.seen[1:] == [(5, 0, 0), (6, 1, 0)]

    def test_the_modules_own_loader(self, verb: str) -> None:
        module = Seeing()
        getattr(trainer(), verb)(module)
        assert len(module.seen) == 64

    def test_a_datamodule_in_the_place_of_loaders(self, verb: str) -> None:
        datamodule = leyden.LightningDataModule.from_datasets(
            val_dataset=torch.zeros(2, 32),  # type: ignore[arg-type]
            test_dataset=torch.zeros(2, 32),  # type: ignore[arg-type]
            predict_dataset=torch.zeros(2, 32),  # type: ignore[arg-type]
        )
        for given in ({"dataloaders": datamodule}, {"datamodule": datamodule}):
            module = Seeing()
            getattr(trainer(), verb)(module, **given)
            assert module.seen == [(0, 0, 0), (0, 1, 0)]


class TestPredict:
    def test_forward_is_the_default(self) -> None:
        module = BoringModel()
        batch = torch.ones(2, 32)
        (prediction,) = trainer().predict(module, DataLoader(batch, batch_size=2))  # type: ignore[arg-type,misc]
        assert torch.equal(prediction, module(batch))
        assert not prediction.requires_grad

    def test_nothing_is_kept_where_nothing_is_wanted(self) -> None:
        seen: list[Any] = []
        heard = Recorder(on_predict_batch_end=lambda t, m, outputs, *_: seen.append(int(outputs)))
        assert trainer(callbacks=heard).predict(Seeing(), numbers(2), return_predictions=False) is None
        assert seen == [0, 1]

    def test_any_return(self) -> None:
        class Module(BoringModel):
            def predict_step(self, batch: Any, batch_idx: int) -> Any:
                return None if batch_idx else {"a": 1}

        assert trainer().predict(Module(), numbers(2)) == [{"a": 1}, None]


class TestSteps:
    @pytest.mark.parametrize("verb", ["validate", "test", "predict"])
    def test_with_the_batch_alone(self, verb: str) -> None:
        seen: list[int] = []

        class Module(BoringModel):
            def validation_step(self, batch: Any) -> Any:  # type: ignore[override]
                seen.append(int(batch[0, 0]))

            test_step = predict_step = validation_step  # type: ignore[assignment]

        getattr(trainer(), verb)(Module(), [numbers(1), numbers(1, 3)])
        assert seen == [0, 3]

    def test_training_with_the_batch_alone_or_with_anything(self) -> None:
        seen: list[Any] = []

        class Alone(BoringModel):
            def training_step(self, batch: Any) -> Any:  # type: ignore[override]
                seen.append("alone")
                return self.step(batch)

        class Anything(BoringModel):
            def training_step(self, *arguments: Any) -> Any:
                seen.append(len(arguments))
                return self.step(arguments[0])

        for module in (Alone(), Anything()):
            trainer(max_epochs=1, limit_val_batches=0, limit_train_batches=1).fit(module)
        assert seen == ["alone", 2]

    def test_outputs_reach_the_hook_as_they_are(self) -> None:
        class Module(BoringModel):
            def test_step(self, batch: Any, batch_idx: int) -> Any:
                return {"prediction": self(batch), "word": "x"}

        seen: list[Any] = []
        heard = Recorder(on_test_batch_end=lambda t, m, outputs, *_: seen.append(outputs))
        trainer(callbacks=heard).test(Module(), random_batches(1))
        assert seen[0]["word"] == "x"
        assert seen[0]["prediction"].shape == (1, 2)


class Moving(BoringModel):
    """Every transfer hook overridden; the batch says through which it went."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"batch": batch, "path": ["module before"], "loader": dataloader_idx}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        assert device == torch.device("cpu")
        batch["path"].append("module moves")
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch["path"].append("module after")
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.paths.append((*batch["path"], batch["loader"]))
        return self.step(batch["batch"])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.paths.append((*batch["path"], batch["loader"]))

    test_step = predict_step = validation_step  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[tuple[Any, ...]] = []


class TestTransfer:
    @pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
    def test_the_modules_hooks_in_every_verb(self, verb: str) -> None:
        module = Moving()
        given: Any = random_batches(1) if verb == "fit" else [random_batches(1), random_batches(1)]
        getattr(trainer(max_epochs=1, limit_val_batches=0 if verb == "fit" else 1.0), verb)(module, given)
        path = ("module before", "module moves", "module after")
        assert module.paths == ([(*path, 0)] if verb == "fit" else [(*path, 0), (*path, 1)])

    def test_a_datamodules_hooks_win_one_by_one(self) -> None:
        class Data(leyden.LightningDataModule):
            def train_dataloader(self) -> Any:
                return random_batches(1)

            def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
                batch["path"].append("datamodule after")
                return batch

        module = Moving()
        trainer(max_epochs=1, limit_val_batches=0).fit(module, datamodule=Data())
        assert module.paths == [("module before", "module moves", "datamodule after", 0)]

    def test_the_input_is_converted_between_the_hooks(self) -> None:
        seen: list[torch.dtype] = []

        class Module(BoringModel):
            def on_before_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
                seen.append(batch.dtype)
                return batch

            def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
                seen.append(batch.dtype)
                return batch

        trainer(precision="64-true").predict(Module(), numbers(1))
        assert seen == [torch.float32, torch.float64]

    def test_a_batch_of_a_type_that_nobody_knows(self) -> None:
        class Own:
            def __init__(self, value: Tensor) -> None:
                self.value = value

        seen: list[Any] = []

        class Module(BoringModel):
            def predict_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append(batch)

        loader: Any = DataLoader([Own(torch.ones(1))], batch_size=None)  # type: ignore[arg-type]
        trainer().predict(Module(), loader)
        assert type(seen[0]) is Own


class Caching(BoringModel):
    """Makes a table at its first forward, as position embeddings and masks are made, and trains with it."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.full((32,), 2.0)
        return self.layer(x * self.table)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).sum()

    test_step = predict_step = validation_step


@pytest.mark.parametrize("before", ["sanity check", "validate", "test", "predict"])
def test_what_a_forward_of_an_evaluation_made_and_kept_is_trained_with(before: str) -> None:
    module = Caching()
    if before != "sanity check":
        getattr(trainer(), before)(module, numbers(1))
    fits = trainer(max_steps=1, num_sanity_val_steps=1 if before == "sanity check" else 0)
    fits.fit(module, numbers(2), numbers(1))
    assert fits.global_step == 1
    assert module.table is not None
    assert not module.table.is_inference()
    module.table.add_(1).requires_grad_()  # which inference tensors refuse


def test_steps_that_take_an_iterator() -> None:
    class Iterating(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            batch, batch_idx, dataloader_idx = next(dataloader_iter)
            self.seen.append((batch_idx, dataloader_idx, dataloader_iter.fetched, dataloader_iter.done))
            return self.step(batch)

        validation_step = test_step = predict_step = training_step  # type: ignore[assignment]

    batches = [random_batches(2), random_batches(1)]
    of_several = [(0, 0, 1, False), (1, 0, 2, True), (0, 1, 1, True)]
    module = Iterating()
    run = kit.trainer(num_sanity_val_steps=0)
    run.fit(module, random_batches(2), batches)
    assert module.seen == [(0, 0, 1, False), (1, 0, 2, True), *of_several]
    for verb in (run.validate, run.test, run.predict):
        module.seen.clear()
        verb(module, batches)
        assert module.seen == of_several
