"""Callbacks that work on the weights, where each of several real processes holds a shard of them: numbers, and resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from leyden.plugins import ShardedCheckpointIO


class Net(leyden.LightningModule):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.lr, self.batch_size = 0.05, 2
        self.backbone = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh())
        self.norm = nn.BatchNorm1d(5) if norm else nn.Identity()
        self.head = nn.Linear(5, 1)
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.passing += 1
        loss = (self.head(self.norm(self.backbone(batch[0]))) - 1).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", self.head(self.norm(self.backbone(batch[0]))).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([each for each in self.parameters() if each.requires_grad], self.lr)


class Compiled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head.compile(backend="eager")


class Doubled(WeightAveraging):
    """Averages by a function of the user's, of all parameters at once."""

    def __init__(self) -> None:
        super().__init__(multi_avg_fn=half)


def half(averages: Any, currents: Any, count: Any) -> None:
    for average, current in zip(averages, currents, strict=True):
        average.copy_(average + (current - average) / (count + 1))


def by_norm(average: Tensor, current: Tensor, count: Any) -> Tensor:
    return average + (current - average) / (1 + current.norm())


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "ema": (Net, lambda: EMAWeightAveraging(decay=0.5, update_starting_at_step=2), {}),
    "mean": (Net, WeightAveraging, {"val_check_interval": 2}),
    "a function of the user's": (Net, lambda: WeightAveraging(avg_fn=by_norm), {}),
    "a function of all": (Net, Doubled, {"gradient_clip_val": 0.1}),
    "halves": (Net, lambda: EMAWeightAveraging(decay=0.9), {"precision": "bf16-true"}),
    "swa": (Net, lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1), {}),
    "finetuning": (Net, lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=1), {}),
    "rate": (Net, lambda: LearningRateFinder(num_training_steps=40, max_lr=10.0, early_stop_threshold=None), {"max_epochs": 1}),
    "windows": (Net, lambda: GradientAccumulationScheduler({0: 1, 1: 3}), {}),
    "compiled": (Compiled, leyden.Callback, {}),
}


def samples(count: int, size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(3.0 * count).view(count, 3) / count), size)


def trained(devices: int, size: int, case: str, saves: Any = None, ckpt_path: Any = None, **options: Any) -> Any:
    torch.manual_seed(3)
    make, callback, asked = CASES[case]
    net, used = make(), callback()
    run = kit.trainer(
        used,
        *([saves] if saves else []),
        devices=devices,
        strategy="fsdp" if devices > 1 else "auto",
        **{"max_epochs": 3, **asked, **options},
    )
    run.fit(net, samples(12, size), samples(4, size // 2), ckpt_path=ckpt_path)
    return (
        kit.whole_weights(run),
        {name: float(value) for name, value in run.callback_metrics.items() if name != "loss_step"},
        net.lr,
    )


def all_cases(devices: int, size: int) -> dict[str, Any]:
    return {case: trained(devices, size, case) for case in CASES}


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return together(2, all_cases, 2, 2)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_with_batches_twice_as_large(case: str, two: list[dict[str, Any]]) -> None:
    weights, metrics, rate = trained(1, 4, case)
    first, second = two[0][case], two[1][case]
    coarse = 1e-2 if case == "halves" else 1e-5
    assert first[0].keys() == weights.keys()
    for name, value in weights.items():
        assert torch.allclose(first[0][name], value, atol=coarse), name
    assert first[1:] == second[1:]
    assert first[1] == pytest.approx(metrics, abs=coarse)
    assert first[2] == pytest.approx(rate, rel=1e-3)
    assert rate != 0.05 or case != "rate", "the search has found something"


# -- resumes


class Saves(leyden.Callback):
    """Keeps a checkpoint of a moment in the middle of things."""

    def __init__(self, path: str, hook: str, at: int) -> None:
        self.path, self.hook, self.left = path, hook, at

    def reach(self, hook: str, run: Any) -> None:
        if hook == self.hook and not run.sanity_checking:
            self.left -= 1
            if self.left == 0:
                run.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.reach("on_train_batch_end", trainer)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self.reach("on_validation_batch_end", trainer)


CUTS = [
    ("ema", "on_train_batch_end", 1, False),
    ("mean", "on_validation_batch_end", 3, True),
    ("halves", "on_validation_batch_end", 3, False),
    ("swa", "on_train_batch_end", 8, True),
]


def resumed(folder: str) -> list[Any]:
    found = []
    for number, (case, hook, at, sharded) in enumerate(CUTS):
        path, options = f"{folder}/{number}", {"plugins": [ShardedCheckpointIO()]} if sharded else {}
        whole = trained(2, 2, case, saves=Saves(path, hook, at), **options)
        found.append((whole, trained(2, 2, case, ckpt_path=path, **options)))
    ended = f"{folder}/ended"
    whole = trained(2, 2, "ema", max_epochs=4)
    torch.manual_seed(3)
    run = kit.trainer(EMAWeightAveraging(decay=0.5, update_starting_at_step=2), devices=2, strategy="fsdp", max_epochs=2)
    run.fit(Net(), samples(12, 2), samples(4, 1))
    run.save_checkpoint(ended)
    found.append((whole, trained(2, 2, "ema", ckpt_path=ended, max_epochs=4)))
    return found


def test_averages_of_shards_go_on_to_the_same_bits_and_their_files_elsewhere(tmp_path: Path) -> None:
    first, second = together(2, resumed, str(tmp_path))
    for cut, (whole, again), (_, others) in zip([*CUTS, "ended"], first, second, strict=True):
        assert kit.same(whole[0], again[0]), cut
        assert whole[1:] == again[1:] == others[1:], cut
    weights, metrics, _ = trained(1, 4, "ema", ckpt_path=str(tmp_path / "ended"), max_epochs=4)
    for name, value in weights.items():
        assert torch.allclose(first[-1][0][0][name], value, atol=1e-5), name
    assert metrics["value"] == pytest.approx(first[-1][0][1]["value"], abs=1e-5)
    written = torch.load(tmp_path / "0", weights_only=True)
    shapes = {name: value.shape for name, value in Net().state_dict().items()}
    for name in ("state_dict", "current_model_state"):
        assert {key: value.shape for key, value in written[name].items()} == shapes


# -- what cannot be


class Extra(Net):
    def get_extra_state(self) -> Any:
        return {"of": "the user's"}

    def set_extra_state(self, state: Any) -> None:
        pass


def refused() -> list[str]:
    said = []
    cases: Any = [(ModelPruning("l1_unstructured"), Net), (BatchSizeFinder(), Net), (WeightAveraging(), Extra)]
    for callback, module in cases:
        try:
            kit.trainer(callback, devices=2, strategy="fsdp").fit(module(), samples(4, 1))
        except leyden.errors.Unsupported as error:
            said.append(str(error))
    return said


def test_what_works_on_whole_weights_alone_is_a_named_error() -> None:
    for pruning, sizes, averaging in together(2, refused):
        assert "ModelPruning compares whole parameters" in pruning
        assert "Prune with strategy='ddp'" in pruning
        assert "Search with devices=1" in sizes
        assert "by their names, and '_extra_state' is no parameter or buffer of Extra" in averaging
