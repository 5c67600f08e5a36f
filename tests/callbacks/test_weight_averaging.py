"""WeightAveraging and EMAWeightAveraging: what is averaged, who has which weights when, what stands in files."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from leyden.errors import ConflictingOptions, DeviceUnavailable, InvalidOption, InvalidType, UnknownName, Unsupported
from leyden.testing import Recorder


class Net(leyden.LightningModule):
    """Batch norm, so that buffers matter; what it validates with is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.after_steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.after_steps.append(kit.weights(self))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(kit.weights(self))
        self.log("val_loss", self.net(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def batches(number: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    data: Any = [torch.randn(6, 3, generator=generator) for _ in range(number)]
    return DataLoader(data, batch_size=None)


def fit(*callbacks: Any, module: Any = None, ckpt_path: Any = None, **options: Any) -> tuple[Any, leyden.Trainer]:
    torch.manual_seed(1)
    module = Net() if module is None else module() if isinstance(module, type) else module
    run = kit.trainer(*callbacks, **{"num_sanity_val_steps": 0, **options})
    run.fit(module, batches(), batches(2), ckpt_path=ckpt_path)
    return module, run


def ema_of(weights: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """By torch's own class, of what each update saw."""
    function = torch.optim.swa_utils.get_ema_avg_fn(decay)
    average = dict(weights[0])
    for now in weights[1:]:
        average = {name: torch.empty_like(value).copy_(function(average[name], value, 1)) for name, value in now.items()}
    return average


def test_the_average_is_validated_and_stays_and_training_goes_on_with_its_own() -> None:
    alone, _ = fit(max_epochs=2)
    module, _ = fit(EMAWeightAveraging(decay=0.7), max_epochs=2)
    assert kit.same(alone.after_steps, module.after_steps)
    assert kit.same(module.validated[0], ema_of(module.after_steps[:4], 0.7))
    assert kit.same(module.validated[-1], ema_of(module.after_steps, 0.7))
    assert kit.same(kit.weights(module), ema_of(module.after_steps, 0.7))


def test_without_a_function_it_is_the_mean() -> None:
    module, _ = fit(WeightAveraging())
    for name, value in module.named_parameters():
        torch.testing.assert_close(
            value, torch.stack([each[name] for each in module.after_steps]).double().mean(0).to(value.dtype)
        )


def test_functions_of_the_users_and_of_torch() -> None:
    newest, _ = fit(WeightAveraging(avg_fn=lambda average, current, count: current))
    assert kit.same(kit.weights(newest), newest.after_steps[-1])
    several, _ = fit(WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(0.7)))
    expected = ema_of(several.after_steps, 0.7)
    assert all(torch.allclose(value, expected[name]) for name, value in several.named_parameters())


def test_buffers_are_averaged_or_copied() -> None:
    averaged, _ = fit(EMAWeightAveraging(decay=0.5))
    copied, _ = fit(EMAWeightAveraging(decay=0.5, use_buffers=False))
    assert kit.same(list(averaged.parameters()), list(copied.parameters()))
    assert kit.same(copied.net[1].running_mean, copied.after_steps[-1]["net.1.running_mean"])
    assert not kit.same(averaged.net[1].running_mean, copied.net[1].running_mean)


def test_when_it_is_updated() -> None:
    class Noting(EMAWeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            yes = super().should_update(step_idx, epoch_idx)
            self.heard = [*getattr(self, "heard", []), (step_idx, epoch_idx, yes)]
            return yes

    callback = Noting(update_every_n_steps=2, update_starting_at_step=2, update_starting_at_epoch=1)
    fit(callback, max_epochs=2, accumulate_grad_batches=1)
    said = [(step, epoch) for step, epoch, yes in callback.heard if yes]
    assert said == [(2, None), (4, None), (6, None), (None, 1)]
    accumulating = Noting()
    fit(accumulating, max_epochs=2, accumulate_grad_batches=2)
    assert [step for step, epoch, _ in accumulating.heard if epoch is None] == [0, 1, 2, 3]  # after steps, not batches
    epochs = Noting(update_every_n_steps=0, update_starting_at_epoch=0)
    module, _ = fit(epochs, max_epochs=2)
    assert [yes for step, _, yes in epochs.heard if step is None] == [True, True]
    assert kit.same(kit.weights(module), ema_of([module.after_steps[3], module.after_steps[7]], 0.999))


def test_a_method_of_the_users_decides() -> None:
    class Late(WeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return step_idx is not None and step_idx >= 3

    module, _ = fit(Late())
    assert kit.same(kit.weights(module), module.after_steps[3])


def test_until_the_first_update_the_weights_of_today_stand_for_the_average(tmp_path: Path) -> None:
    module, _ = fit(EMAWeightAveraging(decay=0.5, update_starting_at_step=6), max_epochs=2)
    assert kit.same(module.validated[0], module.after_steps[3])
    assert kit.same(kit.weights(module), ema_of(module.after_steps[6:], 0.5))
    with pytest.warns(UserWarning, match="was never told to update its average: the module keeps the weights"):
        module, _ = fit(EMAWeightAveraging(update_starting_at_step=60))
    assert kit.same(kit.weights(module), module.after_steps[-1])


def test_manual_optimization() -> None:
    class Manual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()

    module, _ = fit(EMAWeightAveraging(decay=0.5), module=Manual(), max_epochs=2)
    assert kit.same(kit.weights(module), ema_of(module.after_steps[1::2], 0.5))


def test_the_file_has_the_average_and_training_s_own_weights(tmp_path: Path) -> None:
    callback = EMAWeightAveraging(decay=0.7)
    writers = [
        ModelCheckpoint(tmp_path, filename="whole"),
        ModelCheckpoint(tmp_path, filename="weights", save_weights_only=True, every_n_train_steps=4),
    ]
    module, run = fit(callback, *writers, enable_checkpointing=True)
    average = ema_of(module.after_steps, 0.7)
    file = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    assert kit.same(dict(file["state_dict"]), average)
    assert kit.same(dict(file["current_model_state"]), module.after_steps[-1])
    assert int(file["averaging_state"]["n_averaged"]) == 4
    for name in ("whole", "weights"):
        assert kit.same(kit.weights(Net.load_from_checkpoint(tmp_path / f"{name}.ckpt")), average)
    run.save_checkpoint(tmp_path / "after.ckpt")  # what has to be there to train on
    after = torch.load(tmp_path / "after.ckpt", weights_only=True)
    assert kit.same(dict(after["state_dict"]), average)
    assert kit.same(dict(after["current_model_state"]), module.after_steps[-1])
    run.validate(module, batches(2), ckpt_path=str(tmp_path / "whole.ckpt"), verbose=False)
    assert kit.same(module.validated[-1], average)


def test_an_older_file_begins_the_average(tmp_path: Path) -> None:
    _, run = fit()
    run.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.warns(UserWarning, match="was written without EMAWeightAveraging: its weights are training's own, and the"):
        module, _ = fit(EMAWeightAveraging(decay=0.7), max_epochs=2, ckpt_path=tmp_path / "plain.ckpt")
    assert kit.same(kit.weights(module), ema_of(module.after_steps, 0.7))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_a_validation_changes_no_average_in_any_number_format(precision: Any) -> None:
    seen, _ = fit(EMAWeightAveraging(decay=0.99), max_epochs=2, precision=precision)
    unseen, _ = fit(EMAWeightAveraging(decay=0.99), max_epochs=2, precision=precision, limit_val_batches=0)
    assert kit.same(kit.weights(seen), kit.weights(unseen))
    assert kit.same(seen.after_steps, unseen.after_steps)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("limit", [{"max_epochs": 1}, {"max_steps": 6}])
def test_a_finished_run_goes_on_with_the_average_itself(limit: Any, precision: Any, tmp_path: Path) -> None:
    at_once, _ = fit(EMAWeightAveraging(decay=0.9), max_epochs=3, precision=precision)
    _, run = fit(EMAWeightAveraging(decay=0.9), precision=precision, **{"max_epochs": 3, **limit})
    run.save_checkpoint(tmp_path / "ended.ckpt")
    same, run = fit(EMAWeightAveraging(decay=0.9), precision=precision, ckpt_path=tmp_path / "ended.ckpt", **limit)
    run.save_checkpoint(tmp_path / "again.ckpt")  # by a run that had nothing to do
    later, run = fit(EMAWeightAveraging(decay=0.9), max_epochs=3, precision=precision, ckpt_path=tmp_path / "again.ckpt")
    assert kit.same(kit.weights(later), kit.weights(at_once))
    with torch.no_grad():
        later.net[0].weight.fill_(3)
    run.save_checkpoint(tmp_path / "set.ckpt")  # what was set since stands in the file
    assert torch.load(tmp_path / "set.ckpt", weights_only=True)["state_dict"]["net.0.weight"].unique() == 3
    assert not kit.same(kit.weights(same), kit.weights(at_once))


@pytest.mark.parametrize("raised", [RuntimeError("broken"), KeyboardInterrupt()])
def test_weights_are_put_back_when_a_validation_breaks_off(raised: BaseException, tmp_path: Path) -> None:
    class Breaking(Net):
        breaks = True

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            if batch_idx == 1 and self.current_epoch == 1 and self.breaks:
                raise raised

    callback, module = EMAWeightAveraging(decay=0.7), Breaking()
    run = kit.trainer(callback, max_epochs=3, num_sanity_val_steps=0)
    whole, _ = fit(EMAWeightAveraging(decay=0.7), max_epochs=3)
    module.load_state_dict(fit(max_steps=0, limit_val_batches=0)[0].state_dict())
    with suppress(RuntimeError):
        run.fit(module, batches(), batches(2))
    assert kit.same(kit.weights(module), module.after_steps[-1])
    run.save_checkpoint(tmp_path / "broken.ckpt")  # the rest of the validation is done with the average
    Breaking.breaks = False
    resumed, _ = fit(EMAWeightAveraging(decay=0.7), module=Breaking(), max_epochs=3, ckpt_path=tmp_path / "broken.ckpt")
    assert kit.same(resumed.validated[4:], whole.validated[3:])  # the file holds what the module has collected
    assert kit.same(kit.weights(resumed), kit.weights(whole))


def test_a_run_cut_inside_a_validation_goes_on_without_one(tmp_path: Path) -> None:
    saver = Recorder(on_validation_batch_end=lambda run, *_: run.save_checkpoint(tmp_path / "cut.ckpt"))
    whole, _ = fit(EMAWeightAveraging(decay=0.7), saver, max_epochs=2, check_val_every_n_epoch=None, val_check_interval=6)
    resumed, _ = fit(EMAWeightAveraging(decay=0.7), max_epochs=2, limit_val_batches=0, ckpt_path=tmp_path / "cut.ckpt")
    assert resumed.validated == []
    assert kit.same(resumed.after_steps, whole.after_steps[-2:])
    assert kit.same(kit.weights(resumed), kit.weights(whole))


def test_buffers_that_no_file_holds_survive_a_cut_inside_a_validation(tmp_path: Path) -> None:
    class Centred(Net):
        def __init__(self) -> None:
            super().__init__()
            self.centre: Tensor
            self.register_buffer("centre", torch.zeros(3), persistent=False)
            self.centres: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.centre.mul_(0.5).add_(batch.mean(0))
            return super().training_step(batch - self.centre, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.centres.append(self.centre.clone())
            super().validation_step(batch - self.centre, batch_idx)

    paths: list[Path] = []

    def save(run: Any, *_: Any) -> None:
        paths.append(tmp_path / f"{len(paths)}.ckpt")
        run.save_checkpoint(paths[-1])

    whole, run = fit(EMAWeightAveraging(decay=0.7), Recorder(on_validation_batch_end=save), module=Centred, max_epochs=3)
    run.save_checkpoint(tmp_path / "after.ckpt")
    longer, _ = fit(EMAWeightAveraging(decay=0.7), module=Centred, max_epochs=4)
    for path in paths[1:4]:
        resumed, _ = fit(EMAWeightAveraging(decay=0.7), module=Centred, max_epochs=3, ckpt_path=path)
        assert kit.same(resumed.centres, whole.centres)  # the file holds what the module has collected
        assert kit.same([resumed.centre, *kit.weights(resumed).values()], [whole.centre, *kit.weights(whole).values()])
    further, _ = fit(EMAWeightAveraging(decay=0.7), module=Centred, max_epochs=4, ckpt_path=tmp_path / "after.ckpt")
    assert kit.same([further.centre, *kit.weights(further).values()], [longer.centre, *kit.weights(longer).values()])


def test_a_second_fit_begins_anew_and_one_that_goes_on_does_not() -> None:
    callback, module = EMAWeightAveraging(decay=0.7), Net()
    run = kit.trainer(callback, max_epochs=1, num_sanity_val_steps=0)
    run.fit(module, batches(), batches(2))
    run.fit(module, batches(), batches(2))
    assert kit.same(kit.weights(module), ema_of(module.after_steps[4:], 0.7))
    longer, _ = fit(EMAWeightAveraging(decay=0.7), max_epochs=2)
    shorter, run = fit(EMAWeightAveraging(decay=0.7), max_epochs=1)
    run.fit_loop.max_epochs = 2
    run.fit(shorter, batches(), batches(2))
    assert kit.same(kit.weights(shorter), kit.weights(longer))


def test_layers_that_are_made_late_are_averaged_too() -> None:
    class Late(Net):
        def __init__(self) -> None:
            super().__init__()
            self.made = 0

        def configure_model(self) -> None:
            self.made += 1
            self.net = nn.Sequential(nn.Linear(3, 1))

    module, _ = fit(EMAWeightAveraging(decay=0.7), module=Late())
    assert module.made == 1
    assert kit.same(kit.weights(module), ema_of(module.after_steps, 0.7))


def test_where_it_is_kept(tmp_path: Path) -> None:
    seen: list[Any] = []
    callback = EMAWeightAveraging(device="cpu")
    fit(callback, Recorder(on_train_start=lambda *_: seen.append(callback._average_model)))
    assert isinstance(seen[0], AveragedModel)
    assert {parameter.device.type for parameter in seen[0].parameters()} == {"cpu"}
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match=r'EMAWeightAveraging\(device=.cuda:0.\): .* Take device="cpu", or None'):
            fit(EMAWeightAveraging(device="cuda:0"))
    pickle.loads(pickle.dumps(callback))


@pytest.mark.parametrize(
    ("cls", "given", "error", "said"),
    [
        (WeightAveraging, {"device": "gpu4"}, InvalidOption, "device='gpu4' cannot be used: expected a device such as"),
        (WeightAveraging, {"device": 1.5}, InvalidType, "device=1.5 cannot be used"),
        (WeightAveraging, {"use_buffers": "yes"}, InvalidType, "use_buffers='yes' cannot be used"),
        (WeightAveraging, {"avg_fun": max}, UnknownName, "unknown argument 'avg_fun'. Did you mean 'avg_fn'?"),
        (WeightAveraging, {"avg_fn": 3}, InvalidType, "avg_fn=3 cannot be used: expected a function"),
        (WeightAveraging, {"avg_fn": lambda average: average}, InvalidType, "cannot be called with 3 values"),
        (WeightAveraging, {"multi_avg_fn": lambda a, b: a}, InvalidType, "cannot be called with 3 values"),
        (WeightAveraging, {"avg_fn": max, "multi_avg_fn": max}, ConflictingOptions, "both say how to average"),
        (EMAWeightAveraging, {"decay": 1.5}, InvalidOption, "decay=1.5 cannot be used: expected a number from 0.0 to 1.0"),
        (EMAWeightAveraging, {"decay": "big"}, InvalidType, "decay='big' cannot be used"),
        (EMAWeightAveraging, {"update_every_n_steps": -1}, InvalidOption, "expected a number of steps >= 0"),
        (EMAWeightAveraging, {"update_every_n_steps": 0}, ConflictingOptions, "the average would never be updated"),
        (EMAWeightAveraging, {"update_starting_at_step": 1.5}, InvalidType, "update_starting_at_step=1.5 cannot be used"),
        (EMAWeightAveraging, {"update_starting_at_epoch": -2}, InvalidOption, "the number of the first epoch, counted from 0"),
        (EMAWeightAveraging, {"avg_fn": max}, UnknownName, "unknown argument 'avg_fn'"),
        (EMAWeightAveraging, {"dekay": 0.9}, UnknownName, "Did you mean 'decay'?"),
    ],
)
def test_arguments_that_cannot_be_used(cls: Any, given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        cls(**given)


def test_what_cannot_be_averaged_is_named_before_the_first_step() -> None:
    module: Any = Net()
    with pytest.raises(ConflictingOptions, match="EMAWeightAveraging and WeightAveraging both average the weights"):
        fit(EMAWeightAveraging(), WeightAveraging(), module=module)
    with open(__file__) as module.held, pytest.raises(Unsupported, match="keeps a copy of the module, and Net cannot be copied"):
        fit(EMAWeightAveraging(), module=module)
    del module.held
    module.net[0] = nn.LazyLinear(4)
    with pytest.raises(Unsupported, match=r"net.0.weight has no shape yet, and cannot be averaged"):
        fit(EMAWeightAveraging(), module=module)
    assert module.after_steps == []


def test_layers_added_when_fit_has_begun_are_named() -> None:
    class Growing(Net):
        def on_fit_start(self) -> None:
            self.more = nn.Linear(1, 1)

    with pytest.raises(Unsupported, match=r"and 'more.bias' is not as it was. Change the module in configure_model or setup"):
        fit(EMAWeightAveraging(), module=Growing())
