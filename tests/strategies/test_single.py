"""One process, one device: every call of the interface, and the parts that may be left open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import nn

from leyden.callbacks import ModelCheckpoint
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.devices.accelerators import CPUAccelerator, MPSAccelerator
from leyden.devices.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, MisconfigurationException
from leyden.strategies import SingleDeviceStrategy
from leyden.testing import random_batches


class InMemory(CheckpointIO):
    """Checkpoints in a dict, with the arguments that Lightning's interface had before ``weights_only``."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.files[str(path)] = (checkpoint, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None) -> dict[str, Any]:  # type: ignore[override]  # as older code has it
        checkpoint: dict[str, Any] = self.files[str(path)][0]
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        del self.files[str(path)]


def test_the_default_is_the_cpu_in_full_precision() -> None:
    strategy = SingleDeviceStrategy()
    assert strategy.root_device == torch.device("cpu")
    assert isinstance(strategy.accelerator, CPUAccelerator)
    assert strategy.precision.name == "32-true"
    assert isinstance(strategy.checkpoint_io, TorchCheckpointIO)
    assert strategy.checkpoint_io is strategy.checkpoint_io
    assert strategy.is_global_zero
    assert strategy.holds_whole_parameters
    assert repr(strategy) == "SingleDeviceStrategy(device='cpu')"
    figures = [
        getattr(strategy, name) for name in ("world_size", "global_rank", "local_rank", "node_rank", "num_nodes", "num_devices")
    ]
    assert figures == [1, 0, 0, 0, 1, 1]


def test_checkpoints_that_are_no_files_are_found_by_name_and_as_the_best() -> None:
    storage = InMemory()
    run = kit.trainer(ModelCheckpoint(monitor="val_loss"), plugins=[storage], enable_checkpointing=True)
    run.fit(module := kit.Logging(), random_batches(2), random_batches(1))
    run.save_checkpoint("kept")
    assert os.listdir() == []
    assert len(storage.files) == 2
    assert run.validate(module, random_batches(1), ckpt_path="best")
    assert kit.fit(module, random_batches(2), plugins=[storage], max_epochs=2, ckpt_path="kept").global_step == 4


@pytest.mark.parametrize(
    ("device", "root"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), (torch.device("cpu"), "cpu"), ("mps", "mps")]
)
def test_a_device_in_every_form(device: Any, root: str) -> None:
    strategy = SingleDeviceStrategy(device)
    assert str(strategy.root_device) == root
    assert strategy.leyden_moves == (root != "cpu")


@pytest.mark.parametrize("device", ["gpu7", None, object()])
def test_what_is_no_device(device: Any) -> None:
    with pytest.raises(InvalidOption, match='expected a device such as "cpu", "cuda:0" or "mps"'):
        SingleDeviceStrategy(device)


def test_a_precision_is_an_object() -> None:
    with pytest.raises(InvalidType, match=r"precision='16-mixed' .*Names go to the Trainer"):
        SingleDeviceStrategy(precision="16-mixed")  # type: ignore[arg-type]  # the mistake under test


def test_a_module_is_converted_and_stays_usable() -> None:
    strategy = SingleDeviceStrategy(precision=DoublePrecision())
    net = nn.Linear(2, 1)
    strategy.connect(net)
    assert strategy.model is net
    assert strategy.setup(net) is net
    assert net.weight.dtype is torch.float64
    strategy.teardown()
    assert net(torch.ones(1, 2, dtype=torch.float64)).shape == (1, 1)


def test_setup_without_connect() -> None:
    strategy, net = SingleDeviceStrategy(), nn.Linear(2, 1)
    assert strategy.setup(net) is strategy.model is net


def test_a_module_is_refused_by_another_kinds_device() -> None:
    strategy = SingleDeviceStrategy("cpu", accelerator=MPSAccelerator())
    with pytest.raises(InvalidOption, match="expected an MPS device"):
        strategy.setup(nn.Linear(1, 1))


def test_on_the_cpu_a_batch_is_handed_on_untouched() -> None:
    strategy, batch = SingleDeviceStrategy(), {"x": torch.ones(2)}
    assert not strategy.leyden_moves
    assert strategy.leyden_move(batch) is batch


def test_a_batch_moves_where_it_is_told_to() -> None:
    batch = {"x": torch.ones(2)}
    moved = SingleDeviceStrategy().leyden_move(batch, torch.device("meta"), dataloader_idx=1)
    assert (moved["x"].device.type, batch["x"].device.type) == ("meta", "cpu")


def test_backward_goes_through_the_precision() -> None:
    class Recording(Precision):
        def backward(self, tensor: torch.Tensor, module: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
            seen.append((module, kwargs))
            super().backward(tensor, module, optimizer, *args, **kwargs)

    seen: list[Any] = []
    strategy, net = SingleDeviceStrategy(precision=Recording()), nn.Linear(2, 1)
    strategy.connect(net)
    strategy.backward(net(torch.ones(1, 2)).sum(), retain_graph=True)
    assert seen == [(net, {"retain_graph": True})]
    assert net.bias.grad is not None
    assert net.bias.grad.item() == 1.0


@pytest.mark.parametrize("how", ["place", "name"])
def test_1_x_s_backward_gave_the_optimizers_number(how: str) -> None:
    """A callback of 1.5 to 1.9 that takes a second step, as sharpness-aware minimization does, calls it so."""
    strategy, net = SingleDeviceStrategy(), nn.Linear(2, 1)
    strategy.connect(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    loss = net(torch.ones(1, 2)).sum()
    if how == "place":
        strategy.backward(loss, optimizer, 0, retain_graph=True)
    else:
        strategy.backward(loss, optimizer=optimizer, optimizer_idx=0, retain_graph=True)
    strategy.backward(loss, None, torch.tensor(2.0))
    assert net.bias.grad is not None
    assert net.bias.grad.item() == 3.0


def test_alone_every_collective_is_the_identity() -> None:
    strategy, tensor, obj = SingleDeviceStrategy(), torch.ones(2), object()
    strategy.barrier("here")
    assert strategy.broadcast(obj) is obj
    assert strategy.reduce(tensor, reduce_op="sum") is tensor
    assert strategy.all_gather(tensor, sync_grads=True) is tensor
    assert strategy.reduce_boolean_decision(True, all=False) is True
    assert strategy.reduce_boolean_decision(False) is False


def test_states_of_module_and_optimizer_go_round() -> None:
    strategy = SingleDeviceStrategy()
    nets = [nn.Linear(2, 1), nn.Linear(2, 1)]
    optimizers = [torch.optim.Adam(net.parameters()) for net in nets]
    nets[0](torch.ones(1, 2)).sum().backward()
    optimizers[0].step()
    strategy.connect(nets[1])
    strategy.load_model_state_dict({"state_dict": strategy.model_state_dict(nets[0])})
    strategy.load_optimizer_state(optimizers[1], strategy.optimizer_state(optimizers[0]))
    assert torch.equal(nets[1].weight, nets[0].weight)
    assert torch.equal(optimizers[1].state[nets[1].weight]["exp_avg"], optimizers[0].state[nets[0].weight]["exp_avg"])
    state = {"weight": nets[0].weight, "extra": nets[0].bias}
    report = strategy.load_model_state_dict({"state_dict": state}, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == (["bias"], ["extra"])


def test_checkpoints_go_to_disk_and_back(tmp_path: Path) -> None:
    strategy, path = SingleDeviceStrategy(), tmp_path / "a.ckpt"
    strategy.save_checkpoint({"x": torch.ones(2)}, path)
    assert torch.equal(strategy.load_checkpoint(path)["x"], torch.ones(2))
    assert torch.equal(strategy.load_checkpoint(path, weights_only=True)["x"], torch.ones(2))
    strategy.remove_checkpoint(path)
    assert not path.exists()


def test_a_storage_of_the_users_own_may_be_set() -> None:
    strategy, storage = SingleDeviceStrategy(), InMemory()
    strategy.checkpoint_io = storage
    strategy.save_checkpoint({"x": 1}, "a", storage_options={"tier": "cold"})
    assert storage.files == {"a": ({"x": 1}, {"tier": "cold"})}
    assert strategy.load_checkpoint("a") == {"x": 1}
    strategy.remove_checkpoint("a")
    assert storage.files == {}


def test_methods_can_be_wrapped_on_the_instance() -> None:
    strategy = SingleDeviceStrategy(checkpoint_io=InMemory())
    strategy.save_checkpoint({"x": 1}, "a")
    original = strategy.load_checkpoint
    strategy.load_checkpoint = lambda *args, **kwargs: {**original(*args, **kwargs), "more": 2}  # type: ignore[method-assign]  # what libraries do
    assert strategy.load_checkpoint("a") == {"x": 1, "more": 2}


def test_what_was_left_open_is_filled_in_once() -> None:
    strategy, rules, storage = SingleDeviceStrategy(), HalfPrecision(), InMemory()
    strategy.leyden_complete(precision=rules, checkpoint_io=storage)
    strategy.leyden_complete(precision=rules)
    assert strategy.precision is rules
    assert strategy.checkpoint_io is storage
    with pytest.raises(
        ConflictingOptions, match=r"precision=MixedPrecision\('bf16-mixed'\).*already brings HalfPrecision\('16-true'\)"
    ):
        strategy.leyden_complete(precision=MixedPrecision("bf16-mixed", "cpu"))


def test_a_strategy_without_an_accelerator_says_so() -> None:
    strategy = SingleDeviceStrategy()
    strategy._accelerator = None
    with pytest.raises(MisconfigurationException, match="SingleDeviceStrategy has no accelerator yet"):
        _ = strategy.accelerator


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_module_comes_back_to_the_cpu() -> None:
    strategy, net = SingleDeviceStrategy("cuda"), nn.Linear(2, 1)
    strategy.connect(net)
    strategy.setup(net)
    assert net(strategy.leyden_move([torch.ones(1, 2)])[0]).device == torch.device("cuda", 0)
    strategy.teardown()
    assert net.weight.device.type == "cpu"
