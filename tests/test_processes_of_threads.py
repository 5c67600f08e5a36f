"""The tests' own processes: what they exchange is right, written down, and never hangs."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from processes_of_threads import ExchangeFailed, ProcessesOfThreads, outcomes_together, run_together

from leyden.distributed.rank_zero import rank_zero_only


def test_every_exchange() -> None:
    def body(processes: ProcessesOfThreads) -> dict[str, Any]:
        mine = torch.tensor([processes.rank, 5])
        processes.barrier("here")
        return {
            "sum": processes.all_reduce(mine).tolist(),
            "min": processes.all_reduce(mine, "min").tolist(),
            "max": processes.all_reduce(mine, "max").tolist(),
            "all": processes.all_gather(mine).tolist(),
            "one": processes.broadcast({"from": processes.rank}, src=2),
            "objects": processes.gather_objects(processes.rank * "x"),
            "agreed": processes.agree(1 << processes.rank, float(processes.rank)),
            "once": processes.once(lambda: "written"),
            "words": processes.words,
        }

    for found in run_together(3, body):
        assert found == {
            "sum": [3, 15],
            "min": [0, 5],
            "max": [2, 5],
            "all": [[0, 5], [1, 5], [2, 5]],
            "one": {"from": 2},
            "objects": ["", "x", "xx"],
            "agreed": (7, 0.0),
            "once": "written",
            "words": ["barrier", *["all_reduce"] * 3, "all_gather", "broadcast", "gather_objects", "agree", "broadcast"],
        }


def test_where_each_rank_stands() -> None:
    found = run_together(4, lambda p: (p.rank, p.local_rank, p.node_rank, p.world, p.nodes, p.alone, p.is_first), nodes=2)
    assert found == [
        (0, 0, 0, 4, 2, False, True),
        (1, 1, 0, 4, 2, False, False),
        (2, 0, 1, 4, 2, False, False),
        (3, 1, 1, 4, 2, False, False),
    ]


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        (lambda p: p.all_reduce(torch.zeros(3)), "ask for different exchanges"),
        (lambda p: p.all_reduce(torch.zeros(2, dtype=torch.int64)), "ask for different exchanges"),
        (lambda p: p.all_reduce(torch.zeros(2), "max"), "ask for different exchanges"),
        (lambda p: p.barrier(), "ask for different exchanges"),
        (lambda p: None, r"the ranks \[1\] have ended"),
    ],
)
def test_a_rank_that_does_something_else_is_an_error_on_all(others: Any, complaint: str) -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        if processes.rank == 1:
            return others(processes)
        return processes.all_reduce(torch.zeros(2))

    outcomes = outcomes_together(3, body, timeout=5.0)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [ExchangeFailed] * (3 if "ask" in complaint else 2)
    with pytest.raises(ExchangeFailed, match=complaint):
        run_together(3, body, timeout=5.0)


def test_the_error_of_the_rank_that_failed_is_raised() -> None:
    def body(processes: ProcessesOfThreads) -> None:
        if processes.rank == 1:
            raise ValueError("mine")
        processes.barrier()

    with pytest.raises(ValueError, match="mine"):
        run_together(2, body)


def test_each_rank_has_its_own_random_state_and_rank() -> None:
    def body(processes: ProcessesOfThreads) -> tuple[Any, ...]:
        torch.manual_seed(processes.rank)
        random.seed(processes.rank)
        processes.barrier()
        drawn = torch.rand(()).item(), random.random()
        processes.barrier()
        return (*drawn, torch.rand(()).item(), rank_zero_only.rank)

    def alone(rank: int) -> tuple[Any, ...]:
        torch.manual_seed(rank)
        random.seed(rank)
        first, own = torch.rand(()).item(), random.random()
        return first, own, torch.rand(()).item(), rank

    before, mine = torch.get_rng_state(), rank_zero_only._rank
    found = run_together(2, body)
    assert torch.equal(torch.get_rng_state(), before)
    assert rank_zero_only._rank == mine
    assert found == [alone(0), alone(1)]
