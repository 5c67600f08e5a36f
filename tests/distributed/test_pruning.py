"""ModelPruning in several processes: what is drawn for it, and what it goes back to, is the first process's in all."""

from __future__ import annotations

import os
from typing import Any

import kit
import torch
from real_processes import together
from torch import Tensor

from leyden.callbacks import ModelPruning
from leyden.testing import random_batches

KINDS: list[dict[str, Any]] = [
    {"pruning_fn": "random_unstructured", "use_lottery_ticket_hypothesis": False},
    {"pruning_fn": "random_structured", "use_global_unstructured": False, "pruning_dim": 1, "amount": 1},
    {"pruning_fn": "l1_unstructured", "resample_parameters": True},
    {"pruning_fn": "l1_unstructured"},  # back to what the module was made with, which differs
]


def pruned() -> list[dict[str, Tensor]]:
    """The weights after each kind, of a process that draws other numbers than the next one, from its module's making on."""
    torch.manual_seed(int(os.environ["RANK"]))
    found = []
    for options in KINDS:
        module = kit.Net()
        pruning = ModelPruning(parameter_names=["weight"], make_pruning_permanent=False, **options)
        kit.trainer(pruning, devices=2, max_epochs=2).fit(module, random_batches(8, 1, 4), random_batches(4, 1, 4))
        found.append({name: value.clone() for name, value in module.state_dict().items()})
    return found


def test_all_processes_prune_alike() -> None:
    first, second = together(2, pruned)
    for mine, theirs in zip(first, second, strict=True):
        assert kit.same(mine, theirs)
        assert not all(mask.all() for name, mask in mine.items() if name.endswith("_mask"))
