"""Training over a mesh of data and tensor parallel processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.distributed.backends import carried
from leyden.errors import ConflictingOptions, InvalidOption, MisconfigurationException
from leyden.strategies import ModelParallelStrategy


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(4, 1)
        self.seen: list[float] = []

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is None or hasattr(self.up.weight, "placements"):
            return
        assert mesh.mesh_dim_names == ("data_parallel", "tensor_parallel")
        parallelize_module(self, mesh["tensor_parallel"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        self.shard(mesh)

    def shard(self, mesh: Any) -> None:
        if mesh["data_parallel"].size() > 1:
            fully_shard(self, mesh=mesh["data_parallel"])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.down(self.up(x).relu()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += batch[0][:, 0].tolist()
        loss = (self(batch[0]) - 1).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        self.log("total", batch[0].sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", self(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.05)


class Unaveraged(Net):
    def shard(self, mesh: Any) -> None:
        pass


def samples(count: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(3.0 * count).view(count, 3) / count), size, **options)


def trained(
    size: int, strategy: Any = None, module: type[Net] = Net, ckpt_path: Any = None, save: Any = None, **options: Any
) -> Any:
    devices = 1 if strategy is None else int(os.environ["WORLD_SIZE"])
    torch.manual_seed(3 if strategy is None else 3 + int(os.environ["RANK"]))
    net = module()
    how = "auto" if strategy is None else ModelParallelStrategy(**strategy)
    run = kit.trainer(
        devices=devices, strategy=how, gradient_clip_val=0.5, accumulate_grad_batches=2, **{"max_epochs": 2, **options}
    )
    run.fit(net, samples(16, size), samples(5, 1), ckpt_path=ckpt_path)
    if save:
        run.save_checkpoint(save)
    state = run.strategy.lightning_module_state_dict()
    whole = {name: value.full_tensor() if hasattr(value, "placements") else value.clone() for name, value in state.items()}
    return whole, net.seen, {name: float(value) for name, value in run.callback_metrics.items()}


def test_meshes_train_as_one_process_does_and_go_on_from_each_other(tmp_path: Path) -> None:
    folder, file = str(tmp_path / "folder.ckpt"), str(tmp_path / "file.ckpt")
    whole, longer = trained(4), trained(4, max_epochs=3)
    two = together(2, over_two, folder)
    four = together(4, over_four, folder, file)
    for found, expected in (
        (two[0], whole),
        (four[0], longer),
        (trained(4, ckpt_path=file, max_epochs=4), trained(4, max_epochs=4)),
    ):
        assert found[0].keys() == expected[0].keys()
        for name, value in expected[0].items():
            assert torch.allclose(found[0][name], value, atol=3e-6), name
        assert found[2]["total"] == pytest.approx(expected[2]["total"])
        assert found[2]["value"] == pytest.approx(expected[2]["value"], abs=1e-5)
    assert [each[1] for each in four][0::2] == [each[1] for each in four][1::2], "one tensor parallel group has the same batches"
    assert sorted(four[0][1] + four[2][1]) == sorted(whole[1][:16])
    assert Path(folder).is_dir()
    assert Path(file).is_file()


def over_two(folder: str) -> Any:
    return trained(4, {"data_parallel_size": 1, "tensor_parallel_size": 2}, save=folder)


def over_four(folder: str, file: str) -> Any:
    sizes = {"data_parallel_size": 2, "tensor_parallel_size": 2}
    with pytest.raises(MisconfigurationException, match=r"up.weight would get other gradients in each of the 2 data parallel"):
        trained(2, sizes, Unaveraged)
    return trained(2, {**sizes, "save_distributed_checkpoint": False}, ckpt_path=folder, max_epochs=3, save=file)


def after_others(path: str) -> list[float]:
    """The samples of an epoch over one tensor parallel group, after one that processes with other random numbers trained."""
    torch.manual_seed(3 + int(os.environ["RANK"]))
    run = kit.trainer(devices=2, max_epochs=1)
    run.fit(Net(), samples(16, 2, shuffle=True))
    run.save_checkpoint(path)
    net = Net()
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
    kit.trainer(devices=2, strategy=strategy, max_epochs=2).fit(net, samples(16, 4, shuffle=True), ckpt_path=path)
    return net.seen


def test_one_group_has_the_same_batches_after_a_run_whose_processes_had_their_own(tmp_path: Path) -> None:
    first, second = together(2, after_others, str(tmp_path / "saved"))
    assert first == second
    assert len(set(first)) == 16


class Stops(leyden.Callback):
    """Saves in the middle of a window of gradients, and ends the run."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def cut_in_shards(path: str) -> Any:
    """Stopped in the middle of a window over one tensor parallel group, and gone on with by as many processes with ddp."""
    trained(4, {"data_parallel_size": 1, "tensor_parallel_size": 2}, callbacks=Stops(path), max_epochs=1)
    net = Net()
    run = kit.trainer(devices=2, gradient_clip_val=0.5, accumulate_grad_batches=2, max_epochs=1)
    run.fit(net, samples(16, 2), samples(5, 1), ckpt_path=path)
    return net.state_dict(), [], {name: float(value) for name, value in run.callback_metrics.items()}


def cut_in_shards_of_both(path: str) -> None:
    torch.manual_seed(3)  # what configure_model has shared out is not made alike
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2)
    run = kit.trainer(Stops(path), devices=4, strategy=strategy, gradient_clip_val=0.5, accumulate_grad_batches=2, max_epochs=1)
    run.fit(Net(), samples(16, 2), samples(5, 1))


def test_an_open_window_and_an_open_epoch_go_on_with_other_processes(tmp_path: Path) -> None:
    two, four = str(tmp_path / "two.ckpt"), str(tmp_path / "four.ckpt")
    ways = [together(2, cut_in_shards, two)[1], trained(4, ckpt_path=two, max_epochs=1)]
    together(4, cut_in_shards_of_both, four)
    ways.append(trained(4, ckpt_path=four, max_epochs=1))
    expected = trained(4, max_epochs=1)
    for weights, _, logged in ways:
        for name, value in expected[0].items():
            assert torch.allclose(weights[name], value, atol=3e-6), name
        for name in ("total", "value", "loss_epoch"):  # each batch counts once, and not once for each process of a group
            assert logged[name] == pytest.approx(expected[2][name], abs=1e-5), name


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(InvalidOption, match="data_parallel_size"):
        ModelParallelStrategy(data_parallel_size=0)
    with pytest.raises(
        ConflictingOptions, match="data_parallel_size=1 x tensor_parallel_size=3 are 3 processes, and the Trainer asks for 2"
    ):
        kit.trainer(devices=2, strategy=ModelParallelStrategy(tensor_parallel_size=3))
    strategy = ModelParallelStrategy()
    run = kit.trainer(devices=2, strategy=strategy)
    assert strategy.distributed_sampler_kwargs == {"num_replicas": 1, "rank": 0}
    assert run.strategy is strategy


@pytest.mark.parametrize(
    ("backend", "carries"), [("nccl", True), ("cuda:nccl", True), ("cpu:gloo,cuda:nccl", False), ("gloo", False)]
)
def test_a_group_of_the_users_that_knows_no_tensors_on_the_cpu(
    backend: str, carries: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda group: backend)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    tensor = torch.ones(2)
    assert carried(tensor).is_meta is carries
    assert carries or carried(tensor) is tensor
