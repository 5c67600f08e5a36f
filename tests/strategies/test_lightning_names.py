"""A strategy of the user's own, written for Lightning 2.6: what it overrides by Lightning's names is asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

import leyden
from leyden.strategies import SingleDeviceStrategy
from leyden.testing import BoringModel, random_batches


class Counting(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__("cpu")
        self.asked: Counter[str] = Counter()

    def setup_environment(self) -> None:
        self.asked["setup_environment"] += 1
        super().setup_environment()

    def setup(self, trainer: Any) -> None:
        assert isinstance(trainer, leyden.Trainer)
        self.asked["setup"] += 1
        super().setup(trainer)

    def model_to_device(self) -> None:
        self.asked["model_to_device"] += 1
        super().model_to_device()

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        self.asked["batch_to_device"] += 1
        return super().batch_to_device(batch, device, dataloader_idx)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["training_step"] += 1
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["validation_step"] += 1
        assert self.lightning_module is not None
        return self.lightning_module.validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["test_step"] += 1
        return super().test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["predict_step"] += 1
        return super().predict_step(*args, **kwargs)

    def backward(self, closure_loss: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.asked["backward"] += 1
        super().backward(closure_loss, optimizer, *args, **kwargs)

    def pre_backward(self, closure_loss: Any) -> None:
        self.asked["pre_backward"] += 1

    def post_backward(self, closure_loss: Any) -> None:
        self.asked["post_backward"] += 1

    def optimizer_step(self, optimizer: Any, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        assert callable(closure)
        assert model is self.lightning_module
        self.asked["optimizer_step"] += 1
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        self.asked["lightning_module_state_dict"] += 1
        return super().lightning_module_state_dict()

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert "state_dict" in checkpoint
        self.asked["load_model_state_dict"] += 1
        super().load_model_state_dict(checkpoint, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        assert len(checkpoint["optimizer_states"]) == 1
        self.asked["load_optimizer_state_dict"] += 1
        super().load_optimizer_state_dict(checkpoint)


class Adam(BoringModel):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def trainer(strategy: Any, epochs: int = 1) -> leyden.Trainer:
    return leyden.Trainer(**{**kit.QUIET, "accelerator": "auto"}, max_epochs=epochs, strategy=strategy, num_sanity_val_steps=0)


def fitted(strategy: Any, epochs: int = 1, ckpt_path: Any = None) -> leyden.Trainer:
    torch.manual_seed(3)
    run, model = trainer(strategy, epochs), Adam()
    torch.manual_seed(4)
    run.fit(model, random_batches(3), random_batches(2), ckpt_path=ckpt_path)
    return run


def test_what_is_overridden_by_lightnings_names_is_asked(tmp_path: Path) -> None:
    own = Counting()
    run = fitted(own)
    assert own.asked == {
        "setup_environment": 1,
        "setup": 1,
        "model_to_device": 1,
        "batch_to_device": 5,
        "training_step": 3,
        "validation_step": 2,
        "backward": 3,
        "pre_backward": 3,
        "post_backward": 3,
        "optimizer_step": 3,
    }
    assert not kit.differences(
        kit.weights(fitted(SingleDeviceStrategy("cpu")).lightning_module), kit.weights(run.lightning_module)
    )
    run.save_checkpoint(tmp_path / "x.ckpt")
    assert own.asked["lightning_module_state_dict"] >= 1
    again = Counting()
    resumed = fitted(again, 2, tmp_path / "x.ckpt")
    assert (again.asked["load_model_state_dict"], again.asked["load_optimizer_state_dict"]) == (1, 1)
    plain = fitted(SingleDeviceStrategy("cpu"), 2, tmp_path / "x.ckpt")
    assert not kit.differences(kit.weights(plain.lightning_module), kit.weights(resumed.lightning_module))
    run.test(resumed.lightning_module, random_batches(2), verbose=False)
    run.predict(resumed.lightning_module, random_batches(2))
    assert (own.asked["test_step"], own.asked["predict_step"]) == (2, 2)


@pytest.mark.parametrize("restores", [True, False])
def test_optimizers_are_not_restored_where_the_strategy_says_so(restores: bool, tmp_path: Path) -> None:
    class Fresh(Counting):
        lightning_restore_optimizer = restores

    fitted(SingleDeviceStrategy("cpu")).save_checkpoint(tmp_path / "x.ckpt")
    own = Fresh()
    run = fitted(own, 2, tmp_path / "x.ckpt")
    assert own.asked["load_optimizer_state_dict"] == int(restores)
    steps = next(iter(run.optimizers[0].state.values()))["step"]
    assert steps == (6 if restores else 3)


def test_a_wrapper_that_setup_leaves_in_model() -> None:
    class Doubled(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module, self.entered = module, 0

        def forward(self, *args: Any) -> Any:
            self.entered += 1
            return self.module(*args)

    class Wraps(SingleDeviceStrategy):
        def setup(self, trainer: Any, wrapper: Any = Doubled, more: Any = None) -> None:
            super().setup(trainer)
            self.model = wrapper(trainer.lightning_module)

    own = Wraps("cpu")
    run = fitted(own)
    assert isinstance(own.model, Doubled)
    assert own.model.entered == 3
    assert own.lightning_module is run.lightning_module
