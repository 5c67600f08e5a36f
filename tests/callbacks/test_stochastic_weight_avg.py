"""StochasticWeightAveraging: which weights are averaged, at which learning rates, and the pass that batch norm gets."""

import re
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import BaseFinetuning, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from leyden.errors import ConflictingOptions, IgnoredSetting, InvalidOption, InvalidType, Unsupported
from leyden.testing import Recorder


class Net(leyden.LightningModule):
    """Notes the weights with which epochs begin, the learning rates of steps, and what it was called for."""

    normed = False
    scheduled = True

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.3) if self.normed else nn.Identity()
        self.net = nn.Linear(3, 1)
        self.began: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        self.heard: list[Any] = []

    def on_train_epoch_start(self) -> None:
        self.began.append(kit.weights(self))
        self.heard.append(self.current_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.heard.append("training_step")
        return (self.net(self.norm(batch)) - batch.sum(1, keepdim=True)).square().mean()

    def on_after_backward(self) -> None:
        self.heard.append("backward")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(self.norm(batch)).square().mean())
        self.heard.append("validation_step")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)] if self.scheduled else []


class Normed(Net):
    normed = True


class Unscheduled(Net):
    scheduled = False


class Manual(Normed):
    """Steps the optimizer itself, and not the one that it is lent."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=bool(batch_idx % 2))
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def batches(number: int = 3) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    data: Any = [torch.randn(6, 3, generator=generator) for _ in range(number)]
    return DataLoader(data, batch_size=None)


def fit(*callbacks: Any, module: type[Net] = Net, ckpt_path: Any = None, loader: Any = None, **options: Any) -> Any:
    torch.manual_seed(1)
    net = module()
    run = kit.trainer(*callbacks, **{"num_sanity_val_steps": 0, "max_epochs": 4, **options})
    run.fit(net, batches() if loader is None else loader, batches(1), ckpt_path=ckpt_path)
    return net


def mean(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in weights]).double().mean(0).float() for name in weights[0]}


def close(first: Any, second: Any) -> bool:
    return all(torch.allclose(first[name], second[name], atol=1e-6) for name in second)


@pytest.mark.parametrize(("start", "first"), [(0.5, 1), (3, 2), (0.0, 0), (1, 0)])
def test_the_mean_of_the_weights_with_which_epochs_began(start: Any, first: int) -> None:
    callback = StochasticWeightAveraging(0.02, start)
    net = fit(callback)
    assert close(kit.weights(net), mean(net.began[first:]))
    assert (callback.swa_start, callback.swa_end) == (first, 3)
    assert int(callback.n_averaged) == 4 - first  # type: ignore[arg-type]  # there is one by now


def test_a_function_of_the_users() -> None:
    net = fit(StochasticWeightAveraging(0.02, 2, avg_fn=lambda average, current, count: current))
    assert kit.same(kit.weights(net), net.began[-1])


@pytest.mark.parametrize("module", [Net, Unscheduled])
def test_learning_rates_go_over_to_that_of_swa(module: type[Net]) -> None:
    seen: list[Any] = []
    look = Recorder(on_train_epoch_end=lambda run, *_: seen.extend(type(each.scheduler) for each in run.lr_scheduler_configs))
    callback = StochasticWeightAveraging(0.02, 2, annealing_epochs=2, annealing_strategy="linear")
    net = fit(callback, look, module=module, max_epochs=5)
    before = 0.05 if module is Net else 0.1
    assert net.rates[::3] == pytest.approx([0.1, before, (before + 0.02) / 2, 0.02, 0.02])
    assert seen == [*([torch.optim.lr_scheduler.StepLR] if module is Net else []), *[SWALR] * 4]


class Thaws(BaseFinetuning):
    """The bias comes in the third epoch, in a group of its own."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def freeze_before_training(self, pl_module: Any) -> None:
        pl_module.net.bias.requires_grad = False

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 2:
            pl_module.net.bias.requires_grad = True
            optimizer.add_param_group({"params": [pl_module.net.bias], "lr": self.rate})


class Late(Net):
    scheduled = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.net.weight], 0.1)


class ByHook(Late):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("rates", [0.05, [0.05]])
def test_a_group_that_is_added_later_has_an_annealing_of_its_own(first: bool, rates: Any, tmp_path: Path) -> None:
    def trained(module: type[Net] = Late, ckpt_path: Any = None) -> tuple[Any, list[list[float]]]:
        told: list[list[float]] = []
        averaging = StochasticWeightAveraging(rates, 2, annealing_epochs=2, annealing_strategy="linear")
        two: list[Any] = [averaging, Thaws(0.01)]
        path = str(tmp_path / "a.ckpt")
        save = Recorder(
            on_train_batch_end=lambda run, *_: None if ckpt_path or run.global_step != 10 else run.save_checkpoint(path)
        )
        look = Recorder(on_train_epoch_end=lambda run, *_: told.append([each["lr"] for each in run.optimizers[0].param_groups]))
        net = fit(*(two if first else two[::-1]), look, save, module=module, ckpt_path=ckpt_path, max_epochs=5)
        return net, told

    net, told = trained()
    assert [each for epoch in told for each in epoch] == pytest.approx([0.1, 0.075, 0.05, 0.03, 0.05, 0.05, 0.05, 0.05])
    again, rest = trained(ckpt_path=str(tmp_path / "a.ckpt"))
    assert rest == told[3:]
    assert kit.same(kit.weights(again), kit.weights(net))
    assert trained(ByHook)[1][-1] == [0.05, 0.05]


def test_each_group_has_a_rate_of_its_own() -> None:
    class Groups(Net):
        def configure_optimizers(self) -> Any:
            groups: Any = [{"params": [self.net.weight]}, {"params": [self.net.bias], "lr": 1.0}]
            self.optimizer = torch.optim.SGD(groups, 0.1)
            return self.optimizer

    net = fit(StochasticWeightAveraging([0.02, 0.04], 1, annealing_epochs=0), module=Groups)
    assert [group["lr"] for group in net.optimizer.param_groups] == [0.02, 0.04]
    with pytest.raises(InvalidOption, match=re.escape("expected as many learning rates as the optimizer has groups (2), or one")):
        fit(StochasticWeightAveraging([0.02, 0.04, 0.06]), module=Groups)


@pytest.mark.parametrize("module", [Normed, Manual])
def test_statistics_of_batch_norm_are_computed_anew(module: type[Net], tmp_path: Path) -> None:
    callback = StochasticWeightAveraging(0.02, 2)
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    net = fit(callback, saving, module=module, enable_checkpointing=True, max_epochs=3)
    last_pass = net.heard[net.heard.index(3) :]
    assert last_pass == [3, *["training_step"] * 3, "validation_step"]  # one epoch more, in which nothing is trained
    expected = mean(net.began[1:3])
    assert torch.allclose(net.net.weight, expected["net.weight"], atol=1e-6)
    data = list(batches())
    assert torch.allclose(net.norm.running_mean, torch.stack([each.mean(0) for each in data]).mean(0), atol=1e-6)
    assert torch.allclose(net.norm.running_var, torch.stack([each.var(0) for each in data]).mean(0), atol=1e-6)
    assert (net.norm.momentum, callback.momenta, net.trainer.max_epochs) == (0.3, {}, 3)
    assert kit.same(kit.weights(module.load_from_checkpoint(tmp_path / "epoch=3.ckpt")), kit.weights(net))
    before = kit.weights(net)
    net.net.weight.grad = torch.ones_like(net.net.weight)
    net.trainer.optimizers[0].step()  # as ever
    assert not kit.same(kit.weights(net), before)


def test_a_stream_has_the_pass_too() -> None:
    net = fit(StochasticWeightAveraging(0.02, 2), module=Normed, loader=DataLoader(kit.Stream(list(batches())), batch_size=None))
    assert close(kit.weights(net), kit.weights(fit(StochasticWeightAveraging(0.02, 2), module=Normed)))


def test_where_training_is_stopped_early() -> None:
    def stop(run: Any, *_: Any) -> None:
        if run.current_epoch == 2:
            run.should_stop = True

    net = fit(StochasticWeightAveraging(0.02, 2), Recorder(on_train_epoch_end=stop))
    assert close(kit.weights(net), mean(net.began[1:3]))
    with pytest.warns(UserWarning, match="Normed has batch norm, whose statistics do not fit the average: the module keeps trai"):
        net = fit(StochasticWeightAveraging(0.02, 2), Recorder(on_train_epoch_end=stop), module=Normed)
    assert net.heard.count("training_step") == net.heard.count("backward") == 9


def test_an_error_in_the_pass_leaves_nothing_behind(tmp_path: Path) -> None:
    class Breaking(Normed):
        breaks = True

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 3 and batch_idx == 1 and self.breaks:
                raise RuntimeError("broken")
            return super().training_step(batch, batch_idx)

    callback = StochasticWeightAveraging(0.02, 2)
    torch.manual_seed(1)
    net, run = Breaking(), kit.trainer(callback, max_epochs=3, num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="broken"):
        run.fit(net, batches(), batches(1))
    assert (net.norm.momentum, run.max_epochs) == (0.3, 3)
    run.save_checkpoint(tmp_path / "broken.ckpt")
    Breaking.breaks = False
    whole = fit(StochasticWeightAveraging(0.02, 2), module=Breaking, max_epochs=3)
    resumed = fit(StochasticWeightAveraging(0.02, 2), module=Breaking, max_epochs=3, ckpt_path=tmp_path / "broken.ckpt")
    assert kit.same(kit.weights(resumed), kit.weights(whole))


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_finished_run_goes_on_with_training_s_own_weights(scheduled: bool, tmp_path: Path) -> None:
    module: type[Net] = Net if scheduled else Unscheduled
    whole = fit(StochasticWeightAveraging(0.02, 2), module=module, max_epochs=5)
    shorter = fit(StochasticWeightAveraging(0.02, 2), module=module, max_epochs=3)
    shorter.trainer.save_checkpoint(tmp_path / "after.ckpt")
    again = fit(StochasticWeightAveraging(0.02, 2), module=module, max_epochs=3, ckpt_path=tmp_path / "after.ckpt")
    assert kit.same(kit.weights(again), kit.weights(shorter))
    longer = fit(StochasticWeightAveraging(0.02, 2), module=module, max_epochs=5, ckpt_path=tmp_path / "after.ckpt")
    assert kit.same((longer.began, longer.rates), (whole.began[3:], whole.rates[9:]))
    assert kit.same(kit.weights(longer), kit.weights(whole))
    shorter.trainer.fit_loop.max_epochs = 5
    shorter.trainer.fit(shorter, batches(), batches(1))
    assert kit.same(kit.weights(shorter), kit.weights(whole))


def test_without_a_limit_the_average_comes_when_training_is_stopped() -> None:
    def stop(run: Any, *_: Any) -> None:
        if run.current_epoch == 2:
            run.should_stop = True

    net = fit(StochasticWeightAveraging(0.02, 2), Recorder(on_train_epoch_end=stop), max_epochs=-1)
    assert close(kit.weights(net), mean(net.began[1:3]))
    with pytest.raises(InvalidOption, match=re.escape("swa_epoch_start=0.8 cannot be used: expected a whole number of epochs")):
        fit(StochasticWeightAveraging(0.02), max_epochs=-1)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"swa_lrs": 1}, InvalidType, "swa_lrs=1 cannot be used: expected a positive float"),
        ({"swa_lrs": [0.2, 1]}, InvalidType, "swa_lrs=[0.2, 1] cannot be used"),
        ({"swa_lrs": -0.1}, InvalidOption, "swa_lrs=-0.1 cannot be used"),
        ({"swa_lrs": []}, InvalidOption, "swa_lrs=[] cannot be used"),
        ({"swa_epoch_start": 0}, InvalidOption, "swa_epoch_start=0 cannot be used: expected the first epoch that is averaged"),
        ({"swa_epoch_start": 1.5}, InvalidOption, "swa_epoch_start=1.5 cannot be used"),
        ({"swa_epoch_start": "2"}, InvalidType, "swa_epoch_start='2' cannot be used"),
        ({"annealing_epochs": -1}, InvalidOption, "expected a number of epochs >= 0"),
        ({"annealing_strategy": "exp"}, InvalidOption, 'annealing_strategy=\'exp\' cannot be used: expected "cos" or "linear"'),
        ({"avg_fn": 3}, InvalidType, "avg_fn=3 cannot be used"),
        ({"avg_fn": lambda average: average}, InvalidType, "cannot be called with 3 values"),
        ({"device": 0}, InvalidType, "device=0 cannot be used"),
        ({"device": "gpu4"}, InvalidOption, "device='gpu4' cannot be used"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        StochasticWeightAveraging(**{"swa_lrs": 0.1, **given})


def test_what_does_not_go_together_is_named_before_the_first_step() -> None:
    class Two(Manual):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), 0.1) for layer in (self.norm, self.net)]

    class Schedules(Net):
        def configure_optimizers(self) -> Any:
            [optimizer], schedules = super().configure_optimizers()
            return [optimizer], [*schedules, torch.optim.lr_scheduler.StepLR(optimizer, 2)]

    class EachStep(Net):
        def configure_optimizers(self) -> Any:
            [optimizer], [scheduler] = super().configure_optimizers()
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    with pytest.raises(Unsupported, match=r"goes with one optimizer, and configure_optimizers returned 2\. Take EMAWeightAvera"):
        fit(StochasticWeightAveraging(0.1), module=Two)
    with pytest.raises(Unsupported, match="and configure_optimizers returned 2. Return one at the most"):  # noqa: RUF043
        fit(StochasticWeightAveraging(0.1), module=Schedules)
    with pytest.raises(ConflictingOptions, match="StochasticWeightAveraging and EMAWeightAveraging both average the weights"):
        fit(StochasticWeightAveraging(0.1), EMAWeightAveraging())
    with pytest.warns(IgnoredSetting, match=r"once an epoch, in the place of StepLR, which stepped every 1 step\(s\)"):
        fit(StochasticWeightAveraging(0.1), module=EachStep)
    with pytest.warns(IgnoredSetting, match=r"would begin after the last of max_epochs=4 epochs: nothing is averaged"):
        net = fit(StochasticWeightAveraging(0.1, 9), module=Normed)
    assert net.heard.count("training_step") == 12
