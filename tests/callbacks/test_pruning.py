"""ModelPruning: what is pruned when, what the module and its files are made of, and arguments that cannot be used."""

import logging
import re
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EMAWeightAveraging, ModelCheckpoint, ModelPruning
from leyden.errors import CheckpointMismatch, ConflictingOptions, IgnoredSetting, InvalidOption, InvalidType
from leyden.testing import Recorder
from leyden.tree import same_bits


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        self.masks: list[dict[str, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch).square().mean())

    def on_train_epoch_end(self) -> None:
        self.masks.append({name: buffer.clone() for name, buffer in self.named_buffers()})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


class Thirds(prune.BasePruningMethod):
    """Every third value."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::3] = 0
        return mask


def batches() -> DataLoader[Any]:
    data: Any = list(torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(2)))
    return DataLoader(data, batch_size=None)


def fit(*callbacks: Any, module: Net | None = None, ckpt_path: Any = None, **options: Any) -> Net:
    if module is None:
        torch.manual_seed(1)
        module = Net()
    run = kit.trainer(*callbacks, **{"num_sanity_val_steps": 0, "max_epochs": 3, **options})
    torch.manual_seed(4)
    run.fit(module, batches(), batches(), ckpt_path=ckpt_path)
    return module


def zeros(*tensors: Tensor) -> int:
    return sum(int((tensor == 0).sum()) for tensor in tensors)


def test_the_least_important_of_all_are_pruned_and_stay_so() -> None:
    net = fit(ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.2, use_lottery_ticket_hypothesis=False))
    left = [sum(int(mask.sum()) for mask in masks.values()) for masks in net.masks]
    assert left == [16, 13, 10]  # of 20: a fifth of those that are left each time
    for before, after in zip(net.masks, net.masks[1:], strict=False):
        assert all(bool((after[name] <= before[name]).all()) for name in after)
    assert sorted(dict(net.named_parameters())) == ["net.0.bias", "net.0.weight", "net.2.bias", "net.2.weight"]
    assert not list(net.named_buffers())
    assert zeros(net.net[0].weight, net.net[2].weight) == 10  # type: ignore[arg-type]  # torch takes an attribute for a module


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pruning_fn": "l1_unstructured", "amount": 5}, [5, 10, 15]),
        ({"pruning_fn": "L1_Unstructured", "amount": lambda epoch: 5 * epoch}, [0, 5, 15]),
        ({"pruning_fn": "l1_unstructured", "amount": 5, "apply_pruning": lambda epoch: epoch != 1}, [5, 5, 10]),
        ({"pruning_fn": "l1_unstructured", "amount": 5, "apply_pruning": False}, [0, 0, 0]),
        ({"pruning_fn": "random_unstructured", "amount": 2, "use_global_unstructured": False}, [8]),
        ({"pruning_fn": Thirds}, [9, 15, 19]),  # of those that are left
    ],
)
def test_how_much_is_pruned(given: dict[str, Any], expected: list[int]) -> None:
    pruning = ModelPruning(**given, use_lottery_ticket_hypothesis=False, make_pruning_permanent=False)
    net = fit(pruning, max_epochs=len(expected))
    assert [zeros(*masks.values()) for masks in net.masks] == expected


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"pruning_fn": "ln_structured", "pruning_dim": 0, "pruning_norm": 1, "amount": 1}, True),
        ({"pruning_fn": "random_structured", "pruning_dim": 1, "amount": 0.34}, False),
    ],
)
def test_whole_slices(given: dict[str, Any], rows: bool) -> None:
    module = Net()
    pruning = ModelPruning(parameters_to_prune=[(module.net[0], "weight")], use_global_unstructured=False, **given)  # type: ignore[list-item]  # as above
    fit(pruning, module=module, max_epochs=1)
    weight: Any = module.net[0].weight
    gone = (weight == 0).all(dim=1 if rows else 0)
    assert int(gone.sum()) == 1
    assert zeros(weight) == (3 if rows else 4)


def test_the_lottery_ticket_goes_back_to_its_initial_values() -> None:
    torch.manual_seed(1)
    initial = kit.weights(Net())
    seen: list[Any] = []

    def look(run: Any, module: Any, *_: Any) -> None:
        seen.append({name: value for name, value in kit.weights(module).items() if name.endswith("weight_orig")})

    def pruning(**given: Any) -> ModelPruning:
        return ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.2, **given)

    fit(pruning(use_lottery_ticket_hypothesis=lambda epoch: epoch > 0), Recorder(on_train_epoch_end=look))
    assert [kit.same(each["net.0.weight_orig"], initial["net.0.weight"]) for each in seen] == [False, True, True]
    seen.clear()
    fit(pruning(resample_parameters=True), Recorder(on_train_epoch_end=look))
    assert not kit.same(seen[0], seen[1])
    assert not kit.same(seen[1]["net.0.weight_orig"], initial["net.0.weight"])


def test_pruning_after_validations() -> None:
    heard: list[int] = []

    class Noting(ModelPruning):
        def apply_pruning(self, amount: int | float) -> None:
            heard.append(zeros(*dict(module.named_buffers()).values()))
            super().apply_pruning(amount)

    module = Net()
    pruning = Noting("l1_unstructured", amount=3, prune_on_train_epoch_end=False, use_lottery_ticket_hypothesis=False)
    fit(pruning, module=module, num_sanity_val_steps=1, val_check_interval=2)  # trained on after a mask made without gradients
    assert heard == [0, 3, 6, 9, 12, 15]


def test_files_have_ordinary_weights_or_masks(tmp_path: Path) -> None:
    def writers(folder: str) -> list[Any]:
        whole = ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)
        weights = ModelCheckpoint(
            tmp_path / folder, filename="weights-{epoch}", save_top_k=-1, every_n_train_steps=4, save_weights_only=True
        )
        return [whole, weights]

    fit(ModelPruning("l1_unstructured", amount=0.3), *writers("ordinary"), enable_checkpointing=True)
    fit(ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=False), *writers("masked"), enable_checkpointing=True)
    for name in ("epoch=1.ckpt", "weights-epoch=1.ckpt"):
        loaded = Net.load_from_checkpoint(tmp_path / "ordinary" / name)
        masked = torch.load(tmp_path / "masked" / name, weights_only=True)["state_dict"]
        assert sorted(each for each in masked if "net.0.weight" in each) == ["net.0.weight_mask", "net.0.weight_orig"]
        assert kit.same(loaded.net[0].weight.data, masked["net.0.weight_mask"] * masked["net.0.weight_orig"])
    assert zeros(*Net.load_from_checkpoint(tmp_path / "ordinary" / "epoch=1.ckpt").parameters()) == 13
    with pytest.raises(CheckpointMismatch):
        Net.load_from_checkpoint(tmp_path / "masked" / "epoch=1.ckpt")


@pytest.mark.parametrize("permanent", [True, False])
@pytest.mark.parametrize("lottery", [True, False])
def test_a_run_that_is_cut_after_it_was_pruned_goes_on(permanent: bool, lottery: bool, tmp_path: Path) -> None:
    def pruning() -> ModelPruning:
        return ModelPruning(
            "l1_unstructured", amount=0.2, make_pruning_permanent=permanent, use_lottery_ticket_hypothesis=lottery
        )

    saver = Recorder(on_train_batch_end=lambda run, *_: run.save_checkpoint(tmp_path / f"{run.global_step}.ckpt"))
    whole = fit(pruning(), saver)
    for step in (4, 6, 10):
        torch.manual_seed(step)
        other = Net()  # begun with other values: those of the ticket are the file's
        resumed = fit(pruning(), module=other, ckpt_path=tmp_path / f"{step}.ckpt")
        assert kit.same(kit.weights(resumed), kit.weights(whole))
        again = fit(pruning(), module=other, ckpt_path=tmp_path / "6.ckpt")  # the module is pruned, or was
        assert kit.same(kit.weights(again), kit.weights(whole))


@pytest.mark.parametrize("permanent", [True, False])
def test_a_run_that_is_cut_after_an_epoch_s_last_step_prunes_by_what_its_forward_saw(permanent: bool, tmp_path: Path) -> None:
    class Turns(Net):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            for parameter in self.parameters():  # each step changes where the least values are
                parameter.data.copy_(parameter.data.flip(0))

    def pruning() -> ModelPruning:
        return ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=permanent)

    saver = Recorder(on_train_batch_end=lambda run, *_: run.save_checkpoint(tmp_path / f"{run.global_step}.ckpt"))
    torch.manual_seed(1)
    options = {"limit_val_batches": 0}  # a validation would bring it up to date
    whole = fit(pruning(), saver, module=Turns(), **options)
    for step in (4, 8, 12):
        resumed = fit(pruning(), module=Turns(), ckpt_path=tmp_path / f"{step}.ckpt", **options)
        assert kit.same(kit.weights(resumed), kit.weights(whole))


def test_a_finished_run_that_is_given_again_tells_what_its_last_forward_saw(tmp_path: Path) -> None:
    def pruned(run: Any) -> Any:
        run.save_checkpoint(tmp_path / "a.ckpt")
        states = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
        return next(state["pruned"] for name, state in states.items() if name.startswith("ModelPruning"))

    torch.manual_seed(1)
    runs = []
    for path in (None, tmp_path / "a.ckpt"):
        run = kit.trainer(
            ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=False), limit_val_batches=0, max_epochs=1
        )
        run.fit(Net(), batches(), ckpt_path=path)
        runs.append(pruned(run))
    assert runs[0]["net.0.weight"]["seen"] is not None
    assert same_bits(*runs)


def test_a_fit_that_broke_off_is_taken_up_with_the_same_module(tmp_path: Path) -> None:
    def crash(run: Any, *_: Any) -> None:
        if run.global_step == 6:
            run.save_checkpoint(tmp_path / "cut.ckpt")
            raise kit.Crash

    whole = fit(ModelPruning("l1_unstructured", amount=0.2))
    torch.manual_seed(1)
    module = Net()
    with pytest.raises(kit.Crash):
        fit(ModelPruning("l1_unstructured", amount=0.2), Recorder(on_train_batch_end=crash), module=module)
    fit(ModelPruning("l1_unstructured", amount=0.2), module=module, ckpt_path=tmp_path / "cut.ckpt")
    assert kit.same(kit.weights(module), kit.weights(whole))


def test_manual_optimization_and_windows() -> None:
    class Manual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(1)
    manual = fit(ModelPruning("l1_unstructured", amount=0.2), module=Manual())
    assert kit.same(kit.weights(manual), kit.weights(fit(ModelPruning("l1_unstructured", amount=0.2))))
    assert zeros(*fit(ModelPruning("l1_unstructured", amount=6), accumulate_grad_batches=3).parameters()) == 18


def test_methods_of_a_subclass() -> None:
    class Weights(ModelPruning):
        def filter_parameters_to_prune(self, parameters_to_prune: Any = ()) -> Any:
            return [(layer, name) for layer, name in parameters_to_prune if name == "weight" and layer.in_features == 3]

    net = fit(Weights("l1_unstructured", amount=0.5), max_epochs=1)
    assert [zeros(parameter) for parameter in net.parameters()] == [0, 6, 0, 0]  # a bias, a weight

    class Nothing(ModelPruning):
        def filter_parameters_to_prune(self, parameters_to_prune: Any = ()) -> Any:
            return []

    with pytest.raises(InvalidOption, match="Net has no parameter called weight or bias, or filter_parameters_to_prune"):
        fit(Nothing("l1_unstructured"))


def test_it_says_how_much_is_pruned(caplog: pytest.LogCaptureFixture) -> None:
    said = {}
    for verbose in (0, 1, 2):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="leyden"):
            fit(ModelPruning("l1_unstructured", amount=0.5, verbose=verbose), max_epochs=1)
        said[verbose] = [message for message in caplog.messages if "%" in message]
    assert said[0] == []
    assert said[1] == ["L1Unstructured (amount 0.5): 13 of 26 values are pruned (50.00%), before 0."]
    assert said[2][0] == said[1][0]
    assert [line.split(":")[0].strip() for line in said[2][1:]] == ["net.0.weight", "net.2.weight", "net.0.bias", "net.2.bias"]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"pruning_fn": "l1_unstructurd"}, InvalidOption, "Did you mean 'l1_unstructured'?"),
        ({"pruning_fn": {}}, InvalidType, "pruning_fn={} cannot be used: expected one of ln_structured, l1_unstructured"),
        ({"pruning_fn": Thirds()}, InvalidType, "(the class, no instance)"),
        ({"pruning_fn": Thirds, "use_global_unstructured": False}, ConflictingOptions, "goes with use_global_unstructured=True"),
        ({"pruning_fn": prune.LnStructured}, ConflictingOptions, "has PRUNING_TYPE 'structured'"),
        ({"pruning_fn": "ln_structured"}, ConflictingOptions, "does not go with use_global_unstructured=True. Set that to False"),
        ({"pruning_fn": "random_structured", "use_global_unstructured": False}, InvalidOption, "pruning_dim=None cannot be used"),
        (
            {"pruning_fn": "ln_structured", "use_global_unstructured": False, "pruning_dim": 0},
            InvalidOption,
            "pruning_norm=None cannot be used: expected a number: pruning_fn='ln_structured' needs it",
        ),
        ({"parameter_names": ["weigth"]}, InvalidOption, "parameter_names=['weigth'] cannot be used"),
        ({"parameters_to_prune": ["net.0"]}, InvalidType, "expected a list of pairs"),
        ({"amount": 1.5}, InvalidOption, "amount=1.5 cannot be used: expected a share (a float from 0.0 to 1.0)"),
        ({"amount": -1}, InvalidOption, "amount=-1 cannot be used"),
        ({"amount": "half"}, InvalidType, "amount='half' cannot be used"),
        ({"amount": True}, InvalidType, "amount=True cannot be used"),
        ({"verbose": 3}, InvalidOption, "verbose=3 cannot be used: expected 0, 1 or 2"),
        ({"amount": lambda: 0.5}, InvalidType, "cannot be called with one value: too many positional arguments"),
        ({"apply_pruning": lambda: True}, InvalidType, "expected a function of the epoch. It cannot be called"),
        ({"use_lottery_ticket_hypothesis": lambda a, b: True}, InvalidType, "expected a function of the epoch"),
        ({"apply_pruning": "yes"}, InvalidType, "apply_pruning='yes' cannot be used"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        ModelPruning(**{"pruning_fn": "l1_unstructured", **given})


def test_arguments_that_mean_nothing_are_named() -> None:
    with pytest.warns(IgnoredSetting, match="pruning_dim=0 means nothing to pruning_fn='l1_unstructured'"):
        ModelPruning("l1_unstructured", pruning_dim=0)
    with pytest.warns(IgnoredSetting, match="resample_parameters=True belongs to use_lottery_ticket_hypothesis, which is False"):
        ModelPruning("l1_unstructured", use_lottery_ticket_hypothesis=False, resample_parameters=True)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda net: ModelPruning("l1_unstructured", amount=27),
            InvalidOption,
            "amount=27 cannot be used: expected at most the 26",
        ),
        (
            lambda net: ModelPruning("random_unstructured", amount=3, use_global_unstructured=False),
            InvalidOption,
            "at most the 2 values of the smallest parameter that there are",
        ),
        (
            lambda net: ModelPruning("l1_unstructured", [(nn.Linear(2, 2), "weight")]),
            InvalidOption,
            "expected modules inside Net, which has no such one",
        ),
        (
            lambda net: ModelPruning("l1_unstructured", [(net.net[0], "weigth")]),
            InvalidOption,
            "this module has no 'weigth'. Did you mean 'weight'?",
        ),
        (
            lambda net: ModelPruning("random_structured", use_global_unstructured=False, pruning_dim=0),
            InvalidOption,
            "which has one dimension. Leave it out: parameter_names=['weight']",
        ),
        (
            lambda net: ModelPruning("random_structured", (), ["weight"], False, pruning_dim=2),
            InvalidOption,
            "pruning_dim=2 cannot be used: expected a dimension of parameters that have 2",
        ),
    ],
)
def test_what_does_not_fit_the_module_is_named_before_the_first_step(make: Any, error: type[Exception], said: str) -> None:
    module = Net()
    before = kit.weights(module)
    with pytest.raises(error, match=re.escape(said)):
        fit(make(module), module=module)
    assert kit.same(kit.weights(module), before)


def test_averages_do_not_go_with_it() -> None:
    for callbacks in (
        [EMAWeightAveraging(), ModelPruning("l1_unstructured")],
        [ModelPruning("l1_unstructured"), EMAWeightAveraging()],
    ):
        with pytest.raises(ConflictingOptions, match="do not go together: pruning changes which parameters the module has"):
            fit(*callbacks)


def test_less_is_left_than_is_to_be_pruned() -> None:
    with pytest.raises(InvalidOption, match="amount=2 cannot be used: expected no more than is left"):
        fit(ModelPruning("random_unstructured", amount=2, use_global_unstructured=False))


def test_a_function_that_gives_no_amount_prunes_nothing_in_that_epoch() -> None:
    asked: list[int] = []

    def amount(epoch: int) -> int | None:
        asked.append(epoch)
        return 2 if epoch == 1 else None

    module = fit(ModelPruning("l1_unstructured", amount=amount, make_pruning_permanent=False))
    assert asked == [0, 1, 2]
    assert sum(zeros(mask) for _, mask in module.named_buffers()) == 2


def test_an_amount_that_a_function_gives_is_looked_at_too() -> None:
    with pytest.raises(InvalidOption, match=re.escape("amount=2.5 cannot be used")):
        fit(ModelPruning("l1_unstructured", amount=lambda epoch: 2.5))
