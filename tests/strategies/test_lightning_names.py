"""A strategy of the user's own, written for Lightning 2.6: what it overrides by Lightning's names is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import kit
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import leyden
from leyden.accelerators import CPUAccelerator
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.devices.registry import Strategies
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType
from leyden.plugins import DoublePrecision, Precision, TorchCheckpointIO
from leyden.strategies import DDPStrategy, SingleDeviceStrategy
from leyden.testing import BoringModel, Recorder, random_batches
from leyden.utilities.types import LRSchedulerConfig


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


class Heard(SingleDeviceStrategy):
    """Notes what it hears, in order."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.heard: list[Any] = []

    def on_train_start(self) -> None:
        self.heard.append("train")

    def on_train_end(self) -> None:
        self.heard.append("train end")

    def on_validation_start(self) -> None:
        self.heard.append("val")

    def on_validation_end(self) -> None:
        self.heard.append("val end")

    def on_test_start(self) -> None:
        self.heard.append("test")

    def on_test_end(self) -> None:
        self.heard.append("test end")

    def on_predict_start(self) -> None:
        self.heard.append("predict")

    def on_predict_end(self) -> None:
        self.heard.append("predict end")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.heard.append(batch_idx)

    def post_training_step(self) -> None:
        self.heard.append("step")

    def on_exception(self, exception: BaseException) -> None:
        self.heard.append(type(exception).__name__)


def test_what_a_run_tells() -> None:
    own = Heard()

    class Told(Adam):
        def on_train_start(self) -> None:
            own.heard.append("module")

    run, model = trainer(own), Told()
    run.fit(model, random_batches(2), random_batches(1))
    assert own.heard == ["module", "train", 0, "step", 1, "step", "val", "val end", "train end"]
    own.heard.clear()
    run.test(model, random_batches(1), verbose=False)
    run.predict(model, random_batches(1))
    assert own.heard == ["test", "test end", "predict", "predict end"]
    own.heard.clear()

    class Failing(Adam):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer(own).fit(Failing(), random_batches(1))
    assert own.heard == ["train", 0, "ZeroDivisionError"]


def test_loaders_and_optimizers_of_its_own() -> None:
    class Halved(SingleDeviceStrategy):
        seen: ClassVar[list[Any]] = []

        def process_dataloader(self, dataloader: Any) -> Any:
            self.seen.append(dataloader)
            return DataLoader(list(dataloader)[:1], batch_size=None)

        def setup_optimizers(self, trainer: Any) -> None:
            super().setup_optimizers(trainer)
            assert len(self.optimizers) == len(self.lr_scheduler_configs) + 1 == 1
            self.optimizers = [torch.optim.SGD(trainer.lightning_module.parameters(), lr=0.0)]

    own = Halved("cpu")
    model, loaders, val = Adam(), {"a": random_batches(3), "b": random_batches(4)}, random_batches(3)
    before = {name: value.clone() for name, value in kit.weights(model).items()}

    class Both(Adam):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx)

    model.__class__ = Both
    run = trainer(own)
    run.fit(model, loaders, val)
    assert own.seen == [*loaders.values(), val]
    assert (run.num_training_batches, run.num_val_batches, run.global_step) == (1, [1], 1)
    assert isinstance(run.optimizers[0], torch.optim.SGD)
    assert run.optimizers == list(own.optimizers)
    assert not kit.differences(before, kit.weights(model))


@pytest.mark.parametrize("after", [False, True])
def test_weights_are_put_back_before_or_after_the_optimizers_are_made(after: bool, tmp_path: Path) -> None:
    order = []

    class Told(Adam):
        def configure_optimizers(self) -> Any:
            order.append("optimizers")
            return super().configure_optimizers()

        def on_load_checkpoint(self, checkpoint: Any) -> None:
            order.append("weights")

    class Own(SingleDeviceStrategy):
        restore_checkpoint_after_setup = after

    fitted(SingleDeviceStrategy("cpu")).save_checkpoint(tmp_path / "x.ckpt")
    run, model = trainer(Own("cpu"), 2), Told()
    torch.manual_seed(4)  # the data of `fitted`
    run.fit(model, random_batches(3), random_batches(2), ckpt_path=tmp_path / "x.ckpt")
    assert order == (["optimizers", "weights"] if after else ["weights", "optimizers"])
    whole = fitted(SingleDeviceStrategy("cpu"), 2, tmp_path / "x.ckpt")
    assert not kit.differences(kit.weights(whole.lightning_module), kit.weights(model))


def test_where_a_module_is_made() -> None:
    class Own(SingleDeviceStrategy):
        asked: ClassVar[list[Any]] = []

        def tensor_init_context(self, empty_init: bool | None = None) -> Any:
            self.asked.append(empty_init)
            return super().tensor_init_context(empty_init)

        def model_sharded_context(self) -> Any:
            self.asked.append("sharded")
            return super().model_sharded_context()

    own = Own("cpu", precision_plugin=DoublePrecision())
    run = trainer(own)
    with run.init_module(empty_init=True):
        model = Adam()
    assert model.layer.weight.dtype is torch.float64
    for weight in model.parameters():
        nn.init.zeros_(weight)  # they were left as the memory was
    run.fit(model, random_batches(1))
    assert own.asked == [True, None, "sharded"]


def test_parts_in_lightnings_places() -> None:
    storage, precision, kind = TorchCheckpointIO(), DoublePrecision(), CPUAccelerator()
    own = SingleDeviceStrategy("cpu", kind, storage, precision)
    assert (own.accelerator, own.checkpoint_io, own.precision_plugin, own.precision) == (kind, storage, precision, precision)
    own.precision_plugin, own.accelerator = Precision(), CPUAccelerator()
    assert own.accelerator is not kind
    assert trainer(own).precision == "32-true"
    with pytest.raises(ConflictingOptions, match="precision= and precision_plugin="):
        SingleDeviceStrategy("cpu", precision=precision, precision_plugin=precision)
    with pytest.raises(InvalidType, match=r"precision_plugin=.*Pass an instance: DoublePrecision"):
        own.precision_plugin = DoublePrecision  # type: ignore[assignment]  # the mistake under test
    with pytest.raises(InvalidType, match="checkpoint_io='x' cannot be used"):
        SingleDeviceStrategy("cpu", checkpoint_io="x")  # type: ignore[arg-type]  # the mistake under test


def test_a_strategy_by_a_name_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leyden.strategies.choose, "StrategyRegistry", Strategies())
    registry = leyden.strategies.choose.StrategyRegistry

    @registry.register("heard", description="notes what it hears")
    class Own(Heard):
        pass

    assert registry.available_strategies() == ["heard"]
    run = trainer("heard")
    assert isinstance(run.strategy, Own)
    with pytest.raises(InvalidOption, match=r"or a Strategy. Did you mean 'heard'"):
        trainer("herd")
    registry.register("no", dict)
    with pytest.raises(InvalidType, match=r"strategy={} cannot be used: expected a Strategy, which 'no' was registered for"):
        trainer("no")


def test_what_a_strategy_of_several_processes_says_of_itself() -> None:
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")] * 3)
    assert (strategy.is_distributed, strategy.num_processes, strategy.determine_ddp_device_ids()) == (True, 3, None)
    with strategy.block_backward_sync():  # nothing is wrapped yet
        torch.ones(1, requires_grad=True).backward()


@pytest.mark.parametrize("deed", ["optimizers", "setup_optimizers", "append", "configs"])
def test_what_is_set_on_the_strategy_trains(deed: str) -> None:
    rates: list[float] = []

    class Plain(BoringModel):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1 if not rates else 0.3)

    def change(run: Any, module: Any) -> None:
        if deed == "optimizers":
            run.strategy.optimizers = [torch.optim.SGD(module.parameters(), lr=0.3)]
        elif deed == "setup_optimizers":
            run.strategy.setup_optimizers(run)
        else:
            scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizers[0], lambda step: 3.0 if step else 1.0)
            config = LRSchedulerConfig(scheduler, interval="step")
            if deed == "append":
                run.strategy.lr_scheduler_configs.append(config)
            else:
                run.strategy.lr_scheduler_configs = [config]

    def note(run: Any, *_: Any) -> None:
        rates.append(run.optimizers[0].param_groups[0]["lr"])

    recorder = Recorder(
        on_train_epoch_start=lambda run, module: change(run, module) if run.current_epoch == 1 else None, on_train_batch_end=note
    )
    run = kit.trainer(recorder, limit_val_batches=0, max_epochs=2)
    run.fit(Plain(), random_batches(2))
    assert rates == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert run.strategy.optimizers == run.optimizers
    assert run.strategy.lr_scheduler_configs is run.lr_scheduler_configs


def test_a_strategy_that_asks_for_its_optimizers_early_serves_a_second_fit() -> None:
    class Early(SingleDeviceStrategy):
        def setup(self, trainer: Any) -> None:  # type: ignore[override]  # as Lightning's
            self.optimizers = []
            self.setup_optimizers(trainer)
            super().setup(trainer)

    class Counted(BoringModel):
        asked = 0

        def configure_optimizers(self) -> Any:
            self.asked += 1
            return super().configure_optimizers()

    run, module = kit.trainer(strategy=Early("cpu"), accelerator="auto", limit_val_batches=0), Counted()
    for fits in (1, 2):
        run.fit(module, random_batches(2))
        assert (run.global_step, module.asked) == (2, fits)


class Noting:
    """Exchanges of the user's own, noted with what they were asked."""

    noted: list[Any]

    def barrier(self, name: str | None = None) -> None:
        self.noted.append(("barrier", name))

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        self.noted.append(("broadcast", Path(obj).name))
        return obj

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        self.noted.append(("reduce", float(tensor), reduce_op))
        return tensor + 10 if reduce_op == "max" else tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        self.noted.append(("decision", decision, all))
        return decision


class Noted(Noting, SingleDeviceStrategy): ...


class NotedDDP(Noting, DDPStrategy): ...


class Watched(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", float(2 - self.current_epoch + batch_idx), sync_dist=True)
        self.log("most", float(batch_idx), reduce_fx="max", sync_dist=True)
        self.log("own", 1.0)


@pytest.fixture
def group_of_its_own() -> Iterator[None]:
    """What a strategy of several processes began is not there for the next test."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_its_own")
@pytest.mark.parametrize("cls", [Noted, NotedDDP])
def test_exchanges_that_are_overridden_are_called_where_lightnings_trainer_calls_them(cls: Any, tmp_path: Path) -> None:
    own = cls("cpu") if cls is Noted else cls()
    own.noted = noted = []
    callbacks = [ModelCheckpoint(tmp_path / "kept", monitor="val"), EarlyStopping("val", patience=1, min_delta=2.0)]
    run = kit.trainer(
        *callbacks, strategy=own, accelerator="auto" if cls is Noted else "cpu", devices="auto" if cls is Noted else 1,
        enable_checkpointing=True, max_epochs=3, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    run.fit(Watched(), random_batches(1), random_batches(2, batch_size=3))
    begun = [("barrier", word) for word in ("pre_setup", "post_setup", "run-stage")]

    def validated(mean: float) -> list[Any]:
        reduced = [("reduce", 1.0, "max"), ("reduce", 6 * mean, "mean"), ("reduce", 6.0, "mean")]
        return reduced if cls is NotedDDP else []

    saved = [("decision", True, True), ("barrier", "Trainer.save_checkpoint")]
    assert noted == [
        *begun,
        *[*validated(2.5), ("decision", False, False), *saved],
        *[*validated(1.5), ("decision", True, False), *saved],
    ]
    assert {name: float(value) for name, value in run.callback_metrics.items()} == {
        "val": 1.5,
        "own": 1.0,
        "most": 11.0 if cls is NotedDDP else 1.0,
    }


def test_a_decision_of_the_users_own_counts(tmp_path: Path) -> None:
    class Stubborn(SingleDeviceStrategy):
        def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
            return False

    kept = ModelCheckpoint(tmp_path, monitor="val")
    run = kit.trainer(
        *[kept, EarlyStopping("val", patience=1, min_delta=9.0)], strategy=Stubborn("cpu"), accelerator="auto",
        enable_checkpointing=True, max_epochs=4,
    )  # fmt: skip
    run.fit(Watched(), random_batches(1), random_batches(1))
    assert (run.current_epoch, kept.best_model_path) == (4, "")
