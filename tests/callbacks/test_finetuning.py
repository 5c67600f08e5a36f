"""BaseFinetuning and BackboneFinetuning: what trains when, at which rate; a run that is cut goes on with the same bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, LambdaLR, SequentialLR
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import BackboneFinetuning, BaseFinetuning
from leyden.callbacks.finetuning import multiplicative
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, MissingMethod, PossibleUserWarning
from leyden.testing import Recorder

NAN = float("nan")


class Net(leyden.LightningModule):
    """A backbone with batch norms and dropout, and a head, which has the optimizer for itself at first."""

    def __init__(self, scheduler: Any = None) -> None:
        super().__init__()
        self.backbone: Any = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 4, bias=False))
        self.head = nn.Linear(4, 1)
        self.scheduler = scheduler

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return (self.head(self.backbone(batch)) - batch.sum(1, keepdim=True)).square().mean()

    def predict_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.head.parameters(), lr=0.1)
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


class Thaw(BaseFinetuning):
    """Freezes the backbone with its batch norms, and thaws it in two parts, the first in epoch 1, the second in epoch 2."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group([pl_module.backbone[0], pl_module.backbone[1]], optimizer)
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.backbone[3], optimizer, lr=0.03)


def data() -> DataLoader[Any]:
    return DataLoader(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), batch_size=4, shuffle=True)


def rates(run: leyden.Trainer) -> list[float]:
    return [round(group["lr"], 6) for group in run.optimizers[0].param_groups]


def fitted(*callbacks: Any, module: Any = None, epochs: int = 4, **options: Any) -> tuple[Any, leyden.Trainer, list[Any]]:
    """The module and the trainer after a fit, and every epoch's rates."""
    torch.manual_seed(1)
    seen: list[Any] = []
    watch = Recorder(on_train_epoch_end=lambda run, *_: seen.append(rates(run)))
    module = Net() if module is None else module
    run = kit.fit(module, data(), callbacks=[*callbacks, watch], max_epochs=epochs, **options)
    return module, run, seen


# -- when, and at which rate
def test_the_backbone_comes_in_at_its_epoch_and_its_rate_grows_to_the_others() -> None:
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    module, run, seen = fitted(callback, epochs=6)
    assert seen == [[0.1], [0.1, 0.01], [0.1, 0.02], [0.1, 0.04], [0.1, 0.08], [0.1, 0.1]]
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [2, 5]
    assert callback.previous_backbone_lr == 0.1
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_frozen_backbone_keeps_its_weights_and_its_batch_norms_train() -> None:
    torch.manual_seed(1)
    module = Net()
    before = kit.weights(module.backbone)
    assert all(parameter.requires_grad for parameter in module.parameters())
    fitted(BackboneFinetuning(5), module=module, epochs=2)
    assert [module.backbone[i].weight.requires_grad for i in (0, 1, 3)] == [False, True, False]
    assert kit.same(
        {k: v for k, v in before.items() if k[0] != "1"}, {k: v for k, v in kit.weights(module.backbone).items() if k[0] != "1"}
    )
    assert module.backbone[1].num_batches_tracked == 6  # Lightning's default


def test_every_argument_of_the_backbone_s_rate() -> None:
    epochs: list[int] = []

    def factor(epoch: int) -> float:
        epochs.append(epoch)
        return 3.0

    _, run, seen = fitted(BackboneFinetuning(0, factor, 0.5, should_align=False, train_bn=False), epochs=3)
    assert seen == [[0.1, 0.05], [0.1, 0.15], [0.1, 0.45]]
    assert epochs == [2, 3]
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [2, 3]
    assert fitted(BackboneFinetuning(0, backbone_initial_lr=0.002), epochs=2)[2] == [[0.1, 0.002], [0.1, 0.004]]
    assert multiplicative(7) == 2.0


def test_verbose_says_both_rates_rounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "leyden")
    fitted(BackboneFinetuning(1, lambda epoch: 1.5, 1 / 3, verbose=True, rounding=3), epochs=3)
    told = caplog.text
    assert "Current lr: 0.1, Backbone lr: 0.033" in told
    assert "Current lr: 0.1, Backbone lr: 0.05" in told
    assert told.count("Backbone lr") == 2


def test_a_class_of_one_s_own_thaws_part_by_part() -> None:
    module, _, seen = fitted(Thaw())
    assert seen == [[0.1], [0.1, 0.01], [0.1, 0.01, 0.03], [0.1, 0.01, 0.03]]
    assert module.backbone[1].num_batches_tracked == 9  # not in epoch 0, when it was frozen


def test_every_optimizer_gets_the_backbone_and_each_has_its_rate() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.head.parameters(), lr=lr) for lr in (0.01, 0.001)]

    _, run, _ = fitted(BackboneFinetuning(1), module=Two(), epochs=3)
    assert [[round(group["lr"], 6) for group in each.param_groups] for each in run.optimizers] == [[0.01, 0.002], [0.001, 0.0002]]


def test_1_x_told_the_optimizer_s_number() -> None:
    heard: list[int] = []

    class Former(Thaw):
        def finetune_function(self, pl_module: Any, current_epoch: int, optimizer: Any, opt_idx: int) -> None:  # type: ignore[override]  # as it was
            heard.append(opt_idx)

    fitted(Former(), epochs=2)
    assert heard == [0, 0]


def test_schedulers_go_on_from_rate_to_rate_and_others_are_refused() -> None:
    scheduled = Net(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    assert fitted(BackboneFinetuning(1), module=scheduled, epochs=3)[2] == [[0.05], [0.025, 0.0025], [0.0125, 0.005]]
    fixed = Net(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0))
    with pytest.raises(
        ConflictingOptions, match=r"added to Adam, and its LambdaLR has a rule only for the groups that it was made"
    ):
        fitted(BackboneFinetuning(0), module=fixed)


def test_a_cosine_goes_on_behind_its_end_with_the_new_group() -> None:
    cosine = Net(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2))
    seen = fitted(BackboneFinetuning(1, lambda epoch: 1.0), module=cosine, epochs=4)[2]
    assert [each[0] for each in seen] == [0.05, 0.0, 0.05, 0.1]
    alone = Net(lambda optimizer: torch.optim.swa_utils.SWALR(optimizer, 0.01))
    with pytest.raises(ConflictingOptions, match=r"its SWALR has a rule only for the groups"):
        fitted(BackboneFinetuning(1), module=alone)


def test_a_sequence_of_schedulers_takes_a_group_once_it_is_in_the_last_of_them() -> None:
    def sequence(milestone: int) -> Callable[[Any], Any]:
        def made(optimizer: Any) -> Any:
            parts = [LambdaLR(optimizer, lambda epoch: 0.5), ExponentialLR(optimizer, 0.5)]
            return SequentialLR(optimizer, parts, [milestone])

        return made

    # what is over and has a rule for fixed groups harms nobody
    assert fitted(BackboneFinetuning(2), module=Net(sequence(1)), epochs=3)[2][-1] == [0.025, 0.0025]
    with pytest.raises(ConflictingOptions, match=r"its SequentialLR has a rule .* until the last of its milestones"):
        fitted(BackboneFinetuning(1), module=Net(sequence(3)))
    chained = Net(lambda optimizer: ChainedScheduler([LambdaLR(optimizer, lambda epoch: 1.0), ExponentialLR(optimizer, 0.5)]))
    with pytest.raises(ConflictingOptions, match="its LambdaLR has a rule only for the groups"):
        fitted(BackboneFinetuning(1), module=chained)


# -- tools
class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(1))
        self.layers = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.ModuleList([nn.BatchNorm1d(1), nn.ReLU()])})


def test_modules_are_flattened_in_their_order_and_each_once() -> None:
    parent = Parent()
    a, norm, relu = parent.layers["a"], parent.layers["b"][0], parent.layers["b"][1]
    assert BaseFinetuning.flatten_modules(parent) == [parent, a, norm, relu]
    assert BaseFinetuning.flatten_modules(parent.layers) == [a, norm, relu]
    assert BaseFinetuning.flatten_modules([[a], (norm, iter([relu])), {"x": a}]) == [a, norm, relu]
    own = type("Own", (nn.Sequential,), {})(nn.ReLU())
    own.register_parameter("scale", nn.Parameter(torch.zeros(1)))
    assert BaseFinetuning.flatten_modules(own) == [own, own[0]]
    for wrong in (parent.own, "backbone", 3, None):
        with pytest.raises(InvalidType, match="a module, or modules in lists"):
            BaseFinetuning.flatten_modules(wrong)  # type: ignore[arg-type]  # the mistake under test


def test_parameters_are_filtered_frozen_and_thawed() -> None:
    parent = Parent()
    norm = parent.layers["b"][0]
    filtered = BaseFinetuning.filter_params
    assert len(list(filtered(parent))) == 5
    assert len(list(filtered(parent, train_bn=False))) == 3
    assert list(filtered(parent, requires_grad=False)) == []
    BaseFinetuning.freeze(parent)
    assert [name for name, each in parent.named_parameters() if each.requires_grad] == ["layers.b.0.weight", "layers.b.0.bias"]
    assert norm.track_running_stats
    BaseFinetuning.freeze(modules=parent, train_bn=False)
    assert len(list(filtered(parent, requires_grad=False))) == 5
    assert not norm.track_running_stats
    BaseFinetuning.make_trainable(parent)
    assert len(list(filtered(parent))) == 5
    assert norm.track_running_stats
    BaseFinetuning.freeze_module(parent)
    assert [name for name, each in parent.named_parameters() if not each.requires_grad] == ["own"]
    tied = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    tied[1].weight = tied[0].weight
    assert list(filtered(tied)) == [tied[0].weight]


def test_what_an_optimizer_has_is_told_by_what_it_is_and_not_by_its_values() -> None:
    mine, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([mine], lr=0.1)
    assert BaseFinetuning.filter_on_optimizer(optimizer, [other]) == [other]
    with pytest.warns(PossibleUserWarning, match=r"1 of the 2 parameters to be thawed stand in a group of SGD already"):
        found = BaseFinetuning.filter_on_optimizer(optimizer, iter([mine, other]))
    assert [each is other for each in found] == [True]


def test_a_group_is_added_at_a_share_of_the_first_rate() -> None:
    layers = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(layers[0].parameters(), lr=0.1)
    BaseFinetuning.freeze(layers[1:])
    BaseFinetuning.unfreeze_and_add_param_group(layers[1], optimizer)
    BaseFinetuning.unfreeze_and_add_param_group(layers[2], optimizer, initial_denom_lr=4, train_bn=False)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01, 0.025]
    with pytest.warns(PossibleUserWarning, match="2 of the 2 parameters"):
        BaseFinetuning.unfreeze_and_add_param_group(layers[0], optimizer)
    BaseFinetuning.unfreeze_and_add_param_group(layers[1], torch.optim.SGD(layers[0].parameters(), lr=0.1), lr=0.5)
    assert len(optimizer.param_groups) == 3


def test_frozen_parameters_in_the_optimizer_are_told_and_its_own_rate_stays() -> None:
    class Forgot(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.1)

    with pytest.warns(PossibleUserWarning, match=r"3 of the 3 parameters .* Adam\(filter\(lambda p: p.requires_grad"):
        _, _, seen = fitted(BackboneFinetuning(1), module=Forgot(), epochs=3)
    assert seen == [[0.1]] * 3


def test_batch_norms_that_trained_all_along_are_no_mistake() -> None:
    class Filtered(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(filter(lambda each: each.requires_grad, self.parameters()), lr=0.1)

    _, run, _ = fitted(BackboneFinetuning(1), module=Filtered(), epochs=2)
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [4, 3]


# -- cut and resumed
def whole(callbacks: Any) -> tuple[dict[str, Tensor], Any]:
    module, run, _ = fitted(*callbacks(), epochs=4)
    return kit.weights(module), run.optimizers[0].state_dict()


@pytest.mark.parametrize("kind", [lambda: [BackboneFinetuning(1)], lambda: [Thaw()]])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("where", ["before", "after", "in the epoch"])
def test_a_run_that_is_cut_at_the_thaw_ends_with_the_same_bits(kind: Any, epoch: int, where: str, tmp_path: Path) -> None:
    expected, state = whole(kind)

    def save(run: Any, *_: Any) -> None:
        if run.current_epoch == epoch:
            run.save_checkpoint(tmp_path / "cut.ckpt")
            raise kit.Crash

    cut = Recorder(**{"on_train_batch_end" if where == "in the epoch" else "on_train_epoch_start": save})
    with pytest.raises(kit.Crash):
        fitted(*([cut, *kind()] if where == "before" else [*kind(), cut]))
    torch.manual_seed(5)
    module = Net()
    run = kit.fit(module, data(), callbacks=kind(), max_epochs=4, ckpt_path=tmp_path / "cut.ckpt")
    assert kit.differences(expected, kit.weights(module)) == []
    assert kit.differences(state, run.optimizers[0].state_dict()) == []


def test_it_is_cut_and_resumed_twice(tmp_path: Path) -> None:
    expected, _ = whole(lambda: [Thaw()])
    path = None
    for epochs in (2, 3, 4):
        torch.manual_seed(1)
        module = Net()
        run = kit.fit(module, data(), callbacks=[Thaw()], max_epochs=epochs, ckpt_path=path)
        path = tmp_path / f"{epochs}.ckpt"
        run.save_checkpoint(path)
    assert kit.differences(expected, kit.weights(module)) == []


def test_a_fit_that_is_given_more_epochs_goes_on_thawed() -> None:
    expected, _ = whole(lambda: [Thaw()])
    module, run, _ = fitted(Thaw(), epochs=3)
    run.fit_loop.max_epochs = 4
    run.fit(module, data())
    assert kit.differences(expected, kit.weights(module)) == []


@pytest.mark.parametrize("optimized", ["head", "all"])
def test_a_second_fit_thaws_anew(optimized: str) -> None:
    class All(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.1)

    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    runs = []
    for _ in range(2):
        torch.manual_seed(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)  # of frozen parameters in the optimizer
            runs.append(fitted(callback, module=All() if optimized == "all" else None, epochs=3))
    (first, _, rates_of_first), (second, _, rates_of_second) = runs
    assert rates_of_first == rates_of_second
    assert all(parameter.requires_grad for parameter in second.parameters())
    assert kit.same(first.state_dict(), second.state_dict())


def test_other_verbs_freeze_nothing() -> None:
    module, run, _ = fitted(Thaw(), epochs=3)
    run.predict(module, data(), return_predictions=False)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert module.backbone[1].track_running_stats


def test_a_file_of_lightning_s_goes_on_thawed(tmp_path: Path) -> None:
    """It holds the groups by their parameters' names, and not what was frozen."""
    _, run, _ = fitted(BackboneFinetuning(1), epochs=3)
    run.save_checkpoint(tmp_path / "ours.ckpt")
    content = torch.load(tmp_path / "ours.ckpt", weights_only=False)
    del content["leyden"], content["callbacks"]["BackboneFinetuning"]["backbone_rates"]
    torch.save(content, tmp_path / "lightning.ckpt")
    module = Net()
    seen: list[Any] = []
    watch = Recorder(on_train_epoch_end=lambda trainer, *_: seen.append(rates(trainer)))
    resumed = kit.fit(
        module, data(), callbacks=[BackboneFinetuning(1), watch], max_epochs=5, ckpt_path=tmp_path / "lightning.ckpt"
    )
    assert seen == [[0.1, 0.04], [0.1, 0.08]]
    assert all(parameter.requires_grad for parameter in module.parameters())
    before = content["state_dict"]["backbone.0.weight"]
    assert not torch.equal(before, module.backbone[0].weight)
    assert len(resumed.optimizers[0].state) == 7
    assert content["callbacks"]["BackboneFinetuning"]["internal_optimizer_metadata"][0][1]["params"][0] == "backbone.0.weight"


# -- bad input
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"unfreeze_backbone_at_epoch": -1}, InvalidOption, "unfreeze_backbone_at_epoch=-1"),
        ({"unfreeze_backbone_at_epoch": "2"}, InvalidType, "unfreeze_backbone_at_epoch='2'"),
        ({"lambda_func": lambda: 2.0}, InvalidType, "cannot be called with one value: too many positional arguments"),
        ({"lambda_func": 2.0}, InvalidType, "lambda_func=2.0 cannot be used: expected a function"),
        ({"backbone_initial_ratio_lr": None}, InvalidType, "backbone_initial_ratio_lr=None"),
        ({"backbone_initial_lr": "x"}, InvalidType, "backbone_initial_lr='x'"),
        ({"backbone_initial_lr": -0.1}, InvalidOption, "backbone_initial_lr=-0.1"),
        ({"backbone_initial_ratio_lr": NAN}, InvalidOption, "backbone_initial_ratio_lr=nan"),
        ({"should_align": "yes"}, InvalidType, "should_align='yes'"),
        ({"initial_denom_lr": "x"}, InvalidType, "initial_denom_lr='x'"),
        ({"train_bn": None}, InvalidType, "train_bn=None"),
        ({"verbose": 3}, InvalidType, "verbose=3"),
        ({"rounding": 1.5}, InvalidType, "rounding=1.5"),
        ({"unfreeze_at_epoch": 1}, TypeError, "Did you mean 'unfreeze_backbone_at_epoch'"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        BackboneFinetuning(**given)


def test_a_module_without_a_backbone_is_told_before_anything_runs() -> None:
    with pytest.raises(MissingMethod, match=r"the module's `backbone`, and Tiny has no nn.Module of that name"):
        kit.fit(kit.Tiny(), kit.ones(2), callbacks=[BackboneFinetuning()])


@pytest.mark.parametrize("answer", ["twice", None, -1.0, NAN])
def test_a_factor_that_is_none_is_told_at_its_epoch(answer: Any) -> None:
    with pytest.raises(InvalidOption, match=r"what lambda_func returned for 2=.* cannot be used: expected a factor >= 0"):
        fitted(BackboneFinetuning(0, lambda epoch: answer))


def test_a_constructor_of_one_s_own_need_not_call_ours() -> None:
    class Own(Thaw):
        def __init__(self) -> None:
            self.own = 3

    assert fitted(Own())[2] == fitted(Thaw())[2]
    first, second = Own(), Own()
    fitted(first, epochs=2)
    assert second.state_dict() == {"internal_optimizer_metadata": {}}


def test_what_a_subclass_must_say() -> None:
    with pytest.raises(
        NotImplementedError, match=r"BaseFinetuning does not say what to freeze\. Override freeze_before_training"
    ):
        kit.fit(kit.Tiny(), kit.ones(2), callbacks=[BaseFinetuning()])
    half = type("Half", (BaseFinetuning,), {"freeze_before_training": lambda self, pl_module: None})
    with pytest.raises(MissingMethod, match="Half does not say when to thaw"):
        kit.fit(kit.Tiny(), kit.ones(2), callbacks=[half()])
