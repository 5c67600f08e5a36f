"""Parameters that optimizers are given in the middle of a fit, of which no engine knows: in real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import outcomes_together, together
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.distributed import unforeseen
from leyden.errors import MisconfigurationException, Unsupported
from leyden.strategies import FSDPStrategy, ModelParallelStrategy

HOW = ("a parameter", "a layer", "outside of the module", "inside a step", "other layers", "by hand")


class Growing(leyden.LightningModule):
    """Gives its optimizer something to train at the fourth batch, which is drawn anew by each process."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.base, self.how, self.more, self.layer, self.gradients = nn.Linear(3, 3), how, None, None, []
        self.automatic_optimization = how != "by hand"
        self.outside: list[nn.Parameter] = []

    def configure_model(self) -> None:
        if "mesh" in self.how:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def grow(self) -> None:
        torch.manual_seed(0 if self.how == "inside a step" else self.global_rank)  # else its first forward has other values
        if self.how == "alone" and self.global_rank == 0:
            return
        if self.how in ("a layer", "a layer on the mesh"):
            self.layer = nn.Linear(3, 3)
        elif self.how == "other layers":
            self.base = nn.Linear(3, 3)
            self.optimizers().param_groups[0]["params"] = list(self.base.parameters())
            return
        elif self.how == "outside of the module":
            self.outside = [nn.Parameter(torch.rand(3))]
        else:
            self.more = nn.Parameter(torch.rand(3))
        new = [self.more] if self.more is not None else self.outside or list(self.layer.parameters())
        self.optimizers().add_param_group({"params": new, "lr": 0.05})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.more = nn.Parameter(torch.zeros(3))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (0, 3) and self.how != "inside a step" and self.more is None:
            self.grow()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (0, 3) and self.how == "inside a step":
            self.grow()
        (x,) = batch
        found = self.base(x)
        for each in (self.more, *self.outside):
            if each is not None and not (self.how == "on one process only" and self.global_rank):
                found = found + each
        if self.layer is not None:
            found = self.layer(found)
        loss = (found - x**2).pow(2).mean()
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def on_after_backward(self) -> None:
        if self.more is not None:
            self.gradients.append(None if self.more.grad is None else self.more.grad.clone())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.base.parameters(), 0.1, momentum=0.9)


def data(size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(66.0).view(22, 3).sin()), size)


def grown(devices: int, size: int, strategy: Any = "auto", how: str = "", **options: Any) -> dict[str, Tensor]:
    """The weights after two epochs of eleven batches, of which the last window of three is not filled."""
    module = Growing(how)
    window = {} if how == "by hand" else {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}
    kit.trainer(devices=devices, strategy=strategy, **{"max_epochs": 2, **window, **options}).fit(module, data(size))
    found = {**dict(module.named_parameters()), **{str(number): each for number, each in enumerate(module.outside)}}
    return {name: whole(each.detach()) for name, each in found.items()}


def whole(each: Any) -> Tensor:
    return each.full_tensor() if hasattr(each, "full_tensor") else each.clone()


def grown_in_all_ways(devices: int, size: int, strategy: str = "auto") -> list[dict[str, Tensor]]:
    return [grown(devices, size, strategy, how) for how in HOW]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_is_added_is_trained_as_by_one_process(strategy: str) -> None:
    alone = grown_in_all_ways(1, 2)
    for how, first, second, expected in zip(HOW, *together(2, grown_in_all_ways, 2, 1, strategy), alone, strict=True):
        assert kit.same(first, second), how
        assert first.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(first[name], value, atol=1e-5), (how, name)


class Scaled(Growing):
    def __init__(self) -> None:
        super().__init__("")
        self.more = nn.Parameter(torch.tensor(1.5))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def left_whole(devices: int, size: int) -> Tensor:
    module = Scaled()
    strategy = FSDPStrategy(ignored_params={module.more}) if devices > 1 else "auto"
    kit.trainer(devices=devices, strategy=strategy).fit(module, data(size))
    return module.more.detach()


def test_a_parameter_that_is_left_whole_is_averaged() -> None:
    first, second = together(2, left_whole, 2, 1)
    assert torch.equal(first, second)
    assert torch.allclose(first, left_whole(1, 2), atol=1e-5)


def kept_inside_a_window(folder: str, strategy: str) -> Any:
    """The weights of a fit, and of one that goes on from inside one of its windows."""

    class Saving(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == (0, 7):
                trainer.save_checkpoint(Path(folder, "kept.ckpt"))

    through = grown(2, 1, strategy, "a parameter", callbacks=[Saving()])
    module = Growing("a parameter")
    again = kit.trainer(devices=2, strategy=strategy, max_epochs=2, accumulate_grad_batches=3, gradient_clip_val=0.5)
    again.fit(module, data(1), ckpt_path=Path(folder, "kept.ckpt"))
    return through, {name: whole(each.detach()) for name, each in module.named_parameters()}


def test_a_run_goes_on_with_what_was_added_with_the_same_bits(tmp_path: Path) -> None:
    for through, again in together(2, kept_inside_a_window, str(tmp_path), "fsdp"):
        assert kit.same(through, again)
    module = Growing("a parameter")  # and one process with what two had inside a window
    kit.trainer(max_epochs=2, accumulate_grad_batches=3, gradient_clip_val=0.5).fit(
        module, data(2), ckpt_path=tmp_path / "kept.ckpt"
    )
    for name, each in module.named_parameters():
        assert torch.allclose(each, through[name], atol=1e-5), name


def used_by_one() -> list[Any]:
    module = Growing("on one process only")
    kit.trainer(devices=2, strategy="fsdp").fit(module, data(1))
    return module.gradients


def test_a_process_that_does_not_use_it_takes_part_all_the_same() -> None:
    first, second = together(2, used_by_one)
    assert len(first) == 8
    assert all(torch.equal(*each) for each in zip(first, second, strict=True))


def grown_alone(strategy: str) -> None:
    unforeseen.PATIENCE = 0.3
    grown(2, 1, strategy, "alone")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_alone_that_adds_something_is_named(strategy: str) -> None:
    _, second = outcomes_together(2, grown_alone, strategy)
    assert isinstance(second, Unsupported)
    assert "Other parameters are trained than before ([3] torch.float32) on process 1" in str(second)


class OnTheMesh(Growing):
    def grow(self) -> None:
        from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

        super().grow()
        if self.layer is not None:
            optimizer = self.optimizers()
            optimizer.param_groups.pop()
            parallelize_module(self.layer, self.device_mesh["tensor_parallel"], ColwiseParallel())
            optimizer.add_param_group({"params": list(self.layer.parameters())})


def over_a_mesh() -> Any:
    found = []
    for module in (Growing("a parameter on the mesh"), OnTheMesh("a layer on the mesh")):
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2)
        try:
            kit.trainer(devices=4, strategy=strategy).fit(module, data(1))
            found.append(whole(module.more.detach()))
        except MisconfigurationException as error:
            found.append(str(error))
    return found


def test_what_is_added_under_a_mesh_is_averaged_over_the_data_or_named() -> None:
    every = together(4, over_a_mesh)
    assert all(torch.equal(each[0], every[0][0]) for each in every)
    assert all("of [3, 3] that an optimizer was given would get other gradients" in each[1] for each in every)
    module = Growing("a parameter")
    kit.trainer().fit(module, data(2))
    assert torch.allclose(every[0][0], module.more.detach(), atol=1e-5)
