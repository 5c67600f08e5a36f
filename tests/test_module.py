"""LightningModule: what it knows of its trainer, what it is without one, and what it does on its own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import kit
import pytest
import torch
from torch import nn

import leyden
from leyden.errors import LeydenWarning, MisconfigurationException, MissingMethod
from leyden.module import LightningModule, NotAttached
from leyden.testing import BoringModel, random_batches

QUIET = {**kit.QUIET, "max_epochs": 1, "limit_val_batches": 0}


def fitted(module: LightningModule, **options: Any) -> leyden.Trainer:
    return kit.fit(module, random_batches(2), **{"limit_val_batches": 0, **options})


class TestWithoutATrainer:
    def test_it_is_an_ordinary_torch_module(self) -> None:
        module = BoringModel()
        assert isinstance(module, nn.Module)
        batch = torch.ones(3, 32)
        assert torch.equal(module(batch), module.forward(batch))
        assert set(module.state_dict()) == {"layer.weight", "layer.bias"}
        assert torch.equal(module.predict_step(batch, 0), module(batch))

    def test_it_has_no_trainer_and_says_so(self) -> None:
        with pytest.raises(NotAttached, match="BoringModel is not attached to a `Trainer`"):
            _ = BoringModel().trainer
        assert issubclass(NotAttached, RuntimeError)
        assert issubclass(NotAttached, MisconfigurationException)

    def test_what_it_can_say_all_the_same(self) -> None:
        module = BoringModel()
        assert (module.current_epoch, module.global_step, module.global_rank, module.local_rank) == (0, 0, 0, 0)
        assert module.logger is None
        assert module.loggers == []
        assert module.automatic_optimization
        assert module.strict_loading
        assert module.example_input_array is None
        assert module.prepare_data_per_node
        assert not module.on_gpu

    def test_logging_is_dropped_with_one_warning(self) -> None:
        module = BoringModel()
        with pytest.warns(LeydenWarning, match=r"self.log\('loss', ...\) was called on a BoringModel that no trainer runs"):
            module.log("loss", 1.0)
        module.log("loss", 1.0)
        module.log_dict({"a": 1.0})

    @pytest.mark.parametrize(
        "name",
        [
            *("training_step", "validation_step", "test_step", "configure_optimizers"),
            *("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"),
        ],
    )
    def test_what_is_not_there_says_so(self, name: str) -> None:
        with pytest.raises(MissingMethod, match=f"LightningModule has no `{name}`"):
            getattr(LightningModule(), name)()

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
    def test_copies_have_no_trainer(self, copied: Any) -> None:
        module = BoringModel()
        fitted(module)
        other = copied(module)
        with pytest.raises(NotAttached):
            _ = other.trainer
        assert module.trainer is not None
        assert torch.equal(other.layer.weight, module.layer.weight)


class TestWhereItIs:
    def test_dtype_and_device_follow(self) -> None:
        module = BoringModel()
        assert (module.dtype, module.device) == (torch.float32, torch.device("cpu"))
        assert module.double() is module
        assert module.dtype is torch.float64
        module.to("meta")
        assert module.device == torch.device("meta")
        module.to_empty(device="cpu")
        assert module.device == torch.device("cpu")

    def test_without_parameters(self) -> None:
        module = LightningModule()
        assert (module.dtype, module.device) == (torch.float32, torch.device("cpu"))
        module.register_buffer("counts", torch.zeros(1, dtype=torch.float16))
        assert module.dtype is torch.float16

    def test_parts_that_are_modules_share_the_trainer(self) -> None:
        class Whole(BoringModel):
            def __init__(self) -> None:
                super().__init__()
                self.part = BoringModel()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                assert self.part.trainer is self.trainer
                self.part.log("inner", 1.0)
                return self.part.step(batch)

        module = Whole()
        trainer = fitted(module)
        assert trainer.callback_metrics["inner"] == 1.0

    def test_inside_a_run(self) -> None:
        seen: list[Any] = []

        class Module(BoringModel):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append((self.current_epoch, self.global_step))
                return self.step(batch)

        module = Module()
        trainer = fitted(module, max_epochs=2)
        assert seen == [(0, 0), (0, 1), (1, 2), (1, 3)]
        assert module.trainer is trainer
        assert (trainer.lightning_module, trainer.model) == (module, module)

    def test_setters(self) -> None:
        module = BoringModel()
        module.automatic_optimization = False
        module.strict_loading = False
        module.example_input_array = torch.ones(1, 32)
        assert not module.automatic_optimization
        assert not module.strict_loading
        assert module.example_input_array.shape == (1, 32)


class TestFreezing:
    def test_freeze_and_unfreeze(self) -> None:
        module = BoringModel()
        assert module.freeze() is module
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert module.unfreeze() is module
        assert module.training
        assert all(parameter.requires_grad for parameter in module.parameters())


class TestOptimizers:
    def test_one_and_several(self) -> None:
        module = BoringModel()
        trainer = fitted(module)
        assert module.optimizers() is trainer.optimizers[0]
        assert module.lr_schedulers() is trainer.lr_scheduler_configs[0].scheduler

        class Two(BoringModel):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                first, second = self.optimizers()
                assert self.optimizers(use_pl_optimizer=False) == self.trainer.optimizers
                assert first.optimizer is self.trainer.optimizers[0]
                assert self.lr_schedulers() is None
                second.step()

            def configure_optimizers(self) -> Any:
                return [torch.optim.SGD([parameter], lr=0.1) for parameter in self.parameters()]

        assert len(fitted(Two()).optimizers) == 2

    def test_optimizer_step_by_hand(self) -> None:
        module = BoringModel()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        module.backward(module.step(torch.ones(1, 32)))
        before = module.layer.weight.detach().clone()
        module.optimizer_step(0, 0, optimizer, None)
        assert not torch.equal(module.layer.weight, before)
        module.optimizer_zero_grad(0, 0, optimizer)
        assert module.layer.weight.grad is None
        module.lr_scheduler_step(scheduler, None)
        assert optimizer.param_groups[0]["lr"] == 0.05
        module.lr_scheduler_step(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), 1.0)

    def test_clip_gradients_outside_a_step(self) -> None:
        module = BoringModel()
        fitted(module)
        module.layer.weight.grad = torch.ones(2, 32)
        module.clip_gradients(module.optimizers(), gradient_clip_val=0.5, gradient_clip_algorithm="value")
        assert module.layer.weight.grad.max() == 0.5
        module.clip_gradients(module.optimizers())
        assert module.layer.weight.grad.max() == 0.5
        with pytest.raises(MisconfigurationException, match=r'gradient_clip_algorithm.*"norm" or "value"'):
            module.clip_gradients(module.optimizers(), gradient_clip_val=0.5, gradient_clip_algorithm="norms")


class TestWhatTheTrainerRefuses:
    @pytest.mark.parametrize("missing", ["training_step", "configure_optimizers"])
    def test_without_what_fit_needs(self, missing: str) -> None:
        names = {"training_step", "configure_optimizers"} - {missing}
        module = type("Lacking", (LightningModule,), {name: lambda self, *_: None for name in names})()
        with pytest.raises(MissingMethod, match=f"Lacking has no `{missing}`, which fit needs"):
            leyden.Trainer(**QUIET).fit(module, random_batches(1))

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            (BoringModel, "That is the class itself: make an instance of it"),
            (nn.Linear(1, 1), "A plain torch module has no training_step"),
            ("model", "a leyden.LightningModule"),
        ],
    )
    def test_what_is_no_module(self, given: Any, text: str) -> None:
        with pytest.raises(TypeError, match=text):
            leyden.Trainer(**QUIET).fit(given)

    def test_a_module_that_forgot_to_call_super(self) -> None:
        class Forgetful(LightningModule):
            def __init__(self) -> None:
                pass

        with pytest.raises(TypeError, match=r"super\(\).__init__\(\) before anything else"):
            leyden.Trainer(**QUIET).fit(Forgetful())


def test_all_gather_and_print_alone(capsys: pytest.CaptureFixture[str]) -> None:
    module = BoringModel()
    fitted(module)
    data = {"a": torch.ones(2)}
    assert torch.equal(module.all_gather(data)["a"], data["a"])
    module.print("words")
    assert capsys.readouterr().out == "words\n"
