"""What processes on several GPUs meet, shown where there is none: gradients on several meshes, groups and tensors of a GPU."""

from __future__ import annotations

import os
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from processes_of_threads import run_together
from real_processes import together
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.distributed.broadcast import from_first
from leyden.distributed.peers import same_random_state
from leyden.plugins.environments import LightningEnvironment
from leyden.strategies import FSDPStrategy, ModelParallelStrategy

FEW = ("all_gather", "all_gather_object", "all_reduce", "barrier", "broadcast", "broadcast_object_list")


class OnGpu(Tensor):
    """A tensor that says it is on a GPU, and that nothing can be done with but to bring it to the CPU."""

    plain: Tensor

    @staticmethod
    def __new__(cls, plain: Tensor) -> OnGpu:
        made: OnGpu = Tensor._make_wrapper_subclass(cls, plain.shape, dtype=plain.dtype, device="cuda")
        made.plain = plain
        return made

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call.name() == "aten::detach":
            return args[0]
        assert call.name().startswith(("aten::to", "aten::_to_copy")), call
        return args[0].plain.clone()


class Net(leyden.LightningModule):
    """One layer is whole on each process. Process 1's gradients overflow at its second step, in another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(3), nn.Linear(3, 8), nn.Linear(8, 1)
        self.register_buffer("counts", torch.full((3,), int(os.environ.get("RANK", "0")), dtype=torch.int16))

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is not None and "tensor_parallel" in (mesh.mesh_dim_names or ()):
            parallelize_module(self, mesh["tensor_parallel"], {"up": ColwiseParallel(), "down": RowwiseParallel()})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.down(self.up(self.norm(batch[0]))).mean()
        self.log("loss", loss.detach(), sync_dist=True)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return OnGpu(batch[0].sum(1))

    def on_after_backward(self) -> None:
        if self.trainer.global_step == 1 and self.trainer.global_rank == 1 and self.trainer.precision == "16-mixed":
            self.up.weight.grad.to_local().fill_(float("inf"))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def samples() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(12, 3)), 2)


def overflowed(strategy: Any) -> Any:
    net = Net()
    if isinstance(strategy, FSDPStrategy):
        strategy._ignored = [net.norm]
    run = kit.trainer(devices=2, strategy=strategy, precision="16-mixed", max_steps=3)
    run.fit(net, samples())
    return net.norm.bias.tolist(), run.precision_plugin.scaler.get_scale(), net.counts.tolist()


def exchanged(patch: pytest.MonkeyPatch) -> Any:
    """A fit and other exchanges in a group of the user's that, as one of NCCL alone, takes no tensors on the CPU."""

    def refusing(name: str) -> Any:
        exchange = getattr(dist, name)

        def asked(*args: Any, **kwargs: Any) -> Any:
            assert kwargs.get("group") is not None, name
            return exchange(*args, **kwargs)

        return asked

    with patch.context() as within:
        within.setattr(dist, "get_backend_config", lambda group=None: "cuda:nccl")
        for name in FEW:
            within.setattr(dist, name, refusing(name))
        net = Net()
        del net.counts
        run = kit.trainer(devices=2)
        run.fit(net, samples())
        strategy = run.strategy
        strategy.barrier()
        said, ranks = strategy.broadcast(strategy.global_rank), strategy.processes.gather_objects(strategy.global_rank)
        mine = torch.ones(2, requires_grad=True)
        (run.strategy.all_gather(mine, sync_grads=True) * torch.tensor([[1.0], [2.0]])).sum().backward()
    return said, ranks, mine.grad.tolist()


def drawn_alike() -> Any:
    """Random numbers of processes that had their own, on the CPU and on a device."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    torch.manual_seed(dist.get_rank())
    source = SimpleNamespace(get_rng_state=generator.get_state, set_rng_state=generator.set_state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_device_module", lambda device: source)
        same_random_state(dist.group.WORLD, torch.device("cuda"))
    return torch.rand(()).item(), torch.rand((), generator=generator).item()


def predicted_by_the_first() -> Any:
    """What all have of the predictions of a Trainer of one process."""
    found = kit.trainer(devices=1, plugins=LightningEnvironment()).predict(Net(), samples())
    return type(found[0]).__name__, len(found)


def all_of_it() -> dict[str, Any]:
    dist.init_process_group("gloo")
    torch.manual_seed(3)
    found = {"predicted": predicted_by_the_first(), "drawn": drawn_alike()}
    torch.manual_seed(3)
    found["tensor parallel"] = overflowed(ModelParallelStrategy(1, 2))
    found["fsdp"] = overflowed(FSDPStrategy())
    found["exchanged"] = exchanged(pytest.MonkeyPatch())
    return found


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return together(2, all_of_it)


@pytest.mark.parametrize("kind", ["tensor parallel", "fsdp"])
def test_gradients_that_overflow_on_one_process_are_left_out_by_all(kind: str, found: Any) -> None:
    (bias, scale, _), other = found[0][kind], found[1][kind]
    assert [bias, scale] == [*other[:2]]
    assert scale == 2.0**14  # halved twice: it began too high
    assert any(bias)


@pytest.mark.parametrize("kind", ["tensor parallel", "fsdp"])
def test_numbers_of_a_type_that_backends_do_not_know_begin_alike(kind: str, found: Any) -> None:
    assert [each[kind][2] for each in found] == [[0, 0, 0]] * 2


def test_a_group_of_the_users_that_takes_no_tensors_on_the_cpu_is_asked_for_none(found: Any) -> None:
    assert [each["exchanged"] for each in found] == [(0, [0, 1], [2.0, 2.0]), (0, [0, 1], [4.0, 4.0])]


def test_one_tensor_parallel_group_draws_the_same_numbers_on_its_devices(found: Any) -> None:
    assert found[0]["drawn"] == found[1]["drawn"]


def test_what_the_first_process_predicted_on_its_gpu_comes_to_the_others_on_the_cpu(found: Any) -> None:
    assert [each["predicted"] for each in found] == [("OnGpu", 6), ("Tensor", 6)]


def test_a_checkpoint_that_was_read_onto_a_gpu_comes_to_all_on_the_cpu() -> None:
    state = OrderedDict(weight=OnGpu(torch.arange(3.0)))
    state._metadata = {"": {"version": 2}}
    content = {"state_dict": state, "epoch": 3}
    for theirs in run_together(2, lambda processes: from_first(processes, lambda: content)):
        assert type(theirs["state_dict"]["weight"]) is Tensor
        assert kit.same(theirs["state_dict"], OrderedDict(weight=torch.arange(3.0)))
        assert theirs["state_dict"]._metadata == {"": {"version": 2}}
