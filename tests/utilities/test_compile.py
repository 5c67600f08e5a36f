"""Compiled modules: the numbers of eager ones, no graph left for a log, and files that do not know of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.errors import IllegalLog, InvalidOption, InvalidType
from leyden.inspect.compiled import is_compiled
from leyden.utilities.compile import from_compiled, to_uncompiled
from leyden.utilities.export import to_exported_program
from leyden.utilities.weights import load_weights, save_weights

X = torch.linspace(-1, 1, 88).reshape(22, 4)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X), batch_size=4)


class Net(leyden.LightningModule):
    """Logs in every way, and its last batch is smaller."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.example_input_array = X[:2]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]  # torch's modules return anything

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self(batch[0]).square().mean()
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        scaled = loss * 2
        self.log_dict({"scaled": scaled, "size": len(batch[0])}, batch_size=batch[0].shape[0])
        scaled.mul_(3)  # after it was logged
        self.log("index", batch_idx, reduce_fx="max", on_epoch=True)
        return {"loss": loss, "scaled": scaled}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self(batch[0]).mean())

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


SHORT: Any = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[Any]:
    """Dynamo, which has compiled nothing yet."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo
    torch._dynamo.reset()


def breaks(dynamo: Any) -> int:
    return sum(dynamo.utils.counters["graph_break"].values())


def graphs(dynamo: Any) -> int:
    return int(dynamo.utils.counters["stats"]["unique_graphs"])


def trained(model: Any, **options: Any) -> tuple[leyden.Trainer, dict[str, float]]:
    trainer = kit.trainer(**{"max_epochs": 2, "log_every_n_steps": 1, **options})
    trainer.fit(model, loader(), loader())
    return trainer, {name: float(value) for name, value in trainer.callback_metrics.items()}


def whole(module: Net) -> Any:
    return torch.compile(module, backend="eager", fullgraph=True)


def whole_by_hand(module: Net) -> Any:
    return from_compiled(torch.compile(module, backend="eager", fullgraph=True))


def child(module: Net) -> Net:
    module.net = torch.compile(module.net, backend="aot_eager")  # type: ignore[assignment]  # a module around the module
    return module


def child_in_place(module: Net) -> Net:
    module.net.compile(backend="eager")
    return module


def in_place(module: Net) -> Net:
    module.compile(backend="eager")
    return module


def one_method(module: Net) -> Net:
    module.training_step = torch.compile(module.training_step, backend="eager")  # type: ignore[method-assign]  # it is the test
    return module


class Configured(Net):
    def configure_model(self) -> None:
        if isinstance(self.net, nn.Sequential):
            child(self)


class Decorated(Net):
    @torch.compile(backend="eager", fullgraph=True)
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return Net.training_step(self, batch, batch_idx)


@torch.compile(backend="eager")
def compiled_elsewhere(module: Any, batch: Any, batch_idx: int) -> Any:
    return Net.training_step(module, batch, batch_idx)


class Elsewhere(Net):
    """Calls a compiled function, of which nothing is seen in the module."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return compiled_elsewhere(self, batch, batch_idx)


WAYS: list[tuple[type[Net], Callable[[Net], Any]]] = [
    (Net, whole),
    (Net, child),
    (Net, child_in_place),
    (Net, in_place),
    (Net, one_method),
    (Configured, lambda module: module),
    (Decorated, lambda module: module),
]


@pytest.mark.parametrize(("cls", "way"), WAYS, ids=lambda each: each.__name__)
def test_compiled_training_has_the_numbers_of_eager_training_and_breaks_no_graph(cls: type[Net], way: Any, dynamo: Any) -> None:
    eager = Net()
    trainer, expected = trained(eager)
    predicted = trainer.predict(eager, loader())
    assert graphs(dynamo) == 0
    module = cls()
    model = way(module)
    trainer, found = trained(model)
    assert found == expected
    assert kit.same(kit.weights(eager), kit.weights(module))
    assert kit.same(predicted, trainer.predict(model, loader()))
    assert trainer.lightning_module is module
    assert breaks(dynamo) == 0
    assert graphs(dynamo) > 0 or way is child_in_place  # torch compiles no forward of its own classes in place
    assert not {"log", "log_dict"} & vars(module).keys()
    if way is whole:
        trainer.validate(model, loader(), verbose=False)  # in inference mode, as fit does not validate
        before = graphs(dynamo)
        trained(model)
        assert trainer.validate(model, loader(), verbose=False)
        assert graphs(dynamo) == before, "what is there is compiled anew"


of_torch = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
"""What Dynamo causes where it leaves a graph with a tensor that is no parameter."""


@of_torch
def test_what_is_compiled_out_of_sight_is_right_too() -> None:
    module, twin = Elsewhere(), Net()
    assert not is_compiled(module)
    assert trained(module)[1] == trained(twin)[1]
    assert kit.same(kit.weights(module), kit.weights(twin))


@of_torch
def test_a_log_where_none_is_legal_is_refused_in_a_graph_too() -> None:
    class Late(Net):
        def on_fit_end(self) -> None:
            self.training_step([X], 0)

    with pytest.raises(IllegalLog, match="on_fit_end"):
        trained(torch.compile(Late(), backend="eager"), **SHORT)


class Manual(Net):
    """Steps by hand, in the graph's midst."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self(batch[0]).square().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss)


@of_torch
def test_a_compiled_step_drives_its_optimizers_by_hand() -> None:
    module, twin = Manual(), Manual()
    assert trained(torch.compile(module, backend="eager"))[1] == trained(twin)[1]
    assert kit.same(kit.weights(module), kit.weights(twin))


# Files


def test_files_know_nothing_of_compilation_and_load_on_both_sides(tmp_path: Path) -> None:
    plain, compiled = Net(), child(Net())
    for name, module in (("plain", plain), ("compiled", compiled)):
        trained(module, **SHORT)[0].save_checkpoint(tmp_path / f"{name}.ckpt")
        save_weights(module, tmp_path / f"{name}.safetensors")
    names = [f"net.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
    for name in ("plain", "compiled"):
        content = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert list(content["state_dict"]) == names
        assert "_orig_mod" not in str(content)
        assert kit.same(kit.weights(Net.load_from_checkpoint(tmp_path / f"{name}.ckpt")), kit.weights(plain))
        for other in (Net(), child(Net()), child_in_place(Net())):
            load_weights(other, tmp_path / f"{name}.safetensors")
            assert kit.same(list(kit.weights(other).values()), list(kit.weights(plain).values()))


def test_files_with_torch_s_prefix_load(tmp_path: Path) -> None:
    trainer, _ = trained(Net(), **SHORT)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    content = torch.load(tmp_path / "net.ckpt", weights_only=True)
    content.pop("leyden")
    state = content["state_dict"]
    renamed = {
        "child.ckpt": {name.replace("net.", "net._orig_mod."): value for name, value in state.items()},
        "whole.ckpt": {f"_orig_mod.{name}": value for name, value in state.items()},
    }
    for file, named in renamed.items():
        torch.save({**content, "state_dict": named}, tmp_path / file)
        assert kit.same(kit.weights(Net.load_from_checkpoint(tmp_path / file)), state)
        for module in (Net(), child(Net())):
            run = kit.trainer(max_epochs=2)
            run.validate(module, loader(), ckpt_path=tmp_path / file, verbose=False)
            assert kit.same(kit.weights(module), state)


def test_states_go_round_in_torch_s_own_wrapper() -> None:
    module = Net()
    wrapper: Any = torch.compile(module, backend="eager")
    state = {name: value + 1 for name, value in wrapper.state_dict().items()}
    assert all(name.startswith("_orig_mod.net.") for name in state)
    wrapper.load_state_dict(state)
    assert kit.same(list(kit.weights(module).values()), list(state.values()))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*net.9.weight"):
        child(Net()).load_state_dict({**Net().state_dict(), "net.9.weight": X})
    missing = child(Net()).load_state_dict({"net.0.bias": torch.ones(8)}, strict=False).missing_keys
    assert len(missing) == 3
    holder = nn.ModuleDict({"a": child(Net()), "b": nn.Linear(1, 1)})
    assert "a.net.0.weight" in holder.state_dict()
    holder.load_state_dict(nn.ModuleDict({"a": Net(), "b": nn.Linear(1, 1)}).state_dict())


class Stop(Exception):
    pass


@pytest.mark.parametrize(("before", "after"), [(child, lambda module: module), (lambda module: module, child)])
def test_a_run_that_was_cut_goes_on_compiled_or_not(before: Any, after: Any, tmp_path: Path) -> None:
    """Inside an accumulation window: gradients and the optimizer's momentum find their parameters by name."""

    def run(model: Any, stop: int | None = None, ckpt_path: Any = None) -> None:
        def cut() -> None:
            trainer.save_checkpoint(tmp_path / "cut.ckpt")
            raise Stop

        callbacks = [] if stop is None else [kit.at_batch(stop, cut)]
        trainer = kit.trainer(max_epochs=2, accumulate_grad_batches=3, callbacks=callbacks)
        trainer.fit(model, loader(), loader(), ckpt_path=ckpt_path)

    expected = Net()
    run(expected)
    with pytest.raises(Stop):
        run(before(Net()), stop=8)
    module = Net()
    run(after(module), ckpt_path=tmp_path / "cut.ckpt")
    assert kit.same(list(kit.weights(module).values()), list(kit.weights(expected).values()))


# In and out


def test_in_and_out_of_the_wrapper() -> None:
    module = Net()
    wrapper: Any = torch.compile(module, backend="eager")
    assert to_uncompiled(wrapper) is module
    with pytest.raises(InvalidOption, match=r"model='Net'.*expected a module that torch.compile"):
        to_uncompiled(module)
    assert from_compiled(wrapper) is module
    step = module.training_step
    assert from_compiled(wrapper).training_step is step
    assert from_compiled(torch.compile(module, backend="aot_eager")).training_step is not step
    assert {"forward", "training_step", "validation_step", "predict_step"} <= vars(module).keys()
    assert "test_step" not in vars(module)
    assert torch.equal(module(X), to_uncompiled(module)(X))
    assert not {"forward", "training_step", "leyden_compiled"} & vars(module).keys()
    for wrong in (nn.Linear(1, 1), torch.compile(nn.Linear(1, 1), backend="eager"), None):
        with pytest.raises(InvalidType, match="compile"):
            from_compiled(wrong)
        with pytest.raises(ValueError, match="compiled LightningModule"):
            to_uncompiled(wrong)
    with pytest.raises(InvalidType, match=r"expected a leyden.LightningModule"):
        kit.trainer().fit(torch.compile(nn.Linear(1, 1), backend="eager"))  # type: ignore[arg-type]  # the mistake under test


def test_a_method_that_was_there_before_comes_back() -> None:
    module, own = Net(), lambda batch, batch_idx: None
    module.validation_step = own  # type: ignore[method-assign]  # it is the test
    to_uncompiled(from_compiled(torch.compile(module, backend="eager")))
    assert module.validation_step is own


def test_copies_are_not_compiled_and_log_for_nobody() -> None:
    copies: list[Any] = []

    class Copying(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            copies.extend([copy.deepcopy(pl_module), copy.copy(pl_module), pickle.loads(pickle.dumps(pl_module))])

    module = Net()
    trained(whole_by_hand(module), callbacks=[Copying()], **SHORT)
    assert len(copies) == 3
    for each in copies:
        assert not {"forward", "training_step", "log", "leyden_compiled"} & vars(each).keys()
        assert each.training_step.__self__ is each
        assert not is_compiled(each)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("way", [whole, whole_by_hand, child, child_in_place, in_place])
def test_a_compiled_module_is_exported_as_what_it_was_compiled_from(way: Any) -> None:
    model = way(Net())
    expected = Net()(X[:2])
    assert torch.equal(to_exported_program(model).module()(X[:2]), expected)
    assert torch.equal(model.to_torchscript(method="trace")(X[:2]), expected)
    assert is_compiled(model)
