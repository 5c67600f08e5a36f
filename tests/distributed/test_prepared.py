"""``prepare_data`` runs once for each machine, and what it assigned is there on every process."""

from __future__ import annotations

from typing import Any

import pytest
from processes_of_threads import ProcessesOfThreads, outcomes_together, run_together
from torch import nn

import leyden
from leyden.distributed.prepared import prepare
from leyden.errors import MisconfigurationException, Unsupported


class Prepared(leyden.LightningModule):
    def __init__(self, rank: int, per_node: bool, assigned: Any) -> None:
        super().__init__()
        self.rank, self.assigned = rank, assigned
        self.kept = object()
        self.prepare_data_per_node = per_node

    def prepare_data(self) -> None:
        if isinstance(self.assigned, Exception):
            raise self.assigned
        self.data = self.assigned
        self.by = self.rank
        self.table = nn.Linear(1, 1)


def prepared(processes: ProcessesOfThreads, per_node: bool = True, assigned: Any = (1, 2)) -> Any:
    module = Prepared(processes.rank, per_node, assigned)
    kept = module.kept
    prepare(processes, module, module.prepare_data)
    assert module.kept is kept
    return module.by, module.data, [name for name, _ in module.named_children()]


@pytest.mark.parametrize(("per_node", "by"), [(True, [0, 0, 2, 2]), (False, [0, 0, 0, 0])])
def test_it_runs_once_a_machine_or_once_in_all(per_node: bool, by: list[int]) -> None:
    outcomes = run_together(4, lambda processes: prepared(processes, per_node), nodes=2)
    assert outcomes == [(rank, (1, 2), ["table"]) for rank in by]


def test_what_cannot_be_handed_on_is_named_on_every_process() -> None:
    first, second = outcomes_together(2, lambda processes: prepared(processes, assigned=lambda: 0))
    assert isinstance(first, Unsupported)
    assert isinstance(second, MisconfigurationException)
    for outcome in (first, second):
        assert "self.data (function), which cannot be pickled" in str(outcome)
        assert "setup()" in str(outcome)


def test_a_failure_is_there_on_every_process() -> None:
    first, second = outcomes_together(2, lambda processes: prepared(processes, assigned=OSError("no space")))
    assert isinstance(first, OSError)
    assert str(second) == "Prepared.prepare_data failed on process 0: OSError: no space"


def test_nothing_is_exchanged_where_there_is_nothing_to_prepare() -> None:
    def body(processes: ProcessesOfThreads) -> list[str]:
        module = leyden.LightningModule()
        prepare(processes, module, module.prepare_data, overridden=False)
        return processes.words

    assert run_together(2, body) == [[], []]
