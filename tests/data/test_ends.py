"""Processes whose training data ends at different batches end together, and exchange nothing in between."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from processes_of_threads import ProcessesOfThreads, outcomes_together, run_together
from torch.utils.data import DataLoader, TensorDataset

from leyden.data.share import Share
from leyden.data.source import Source
from leyden.errors import InvalidLoader, LeydenWarning


class Store:
    """A store as the process group has it."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def compare_set(self, key: str, expected: str, value: str) -> None:
        self.held.setdefault(key, value)

    def check(self, keys: list[str]) -> bool:
        return all(key in self.held for key in keys)

    def get(self, key: str) -> bytes:
        return self.held[key].encode()


def read_streams(lengths: list[int], window: int, steps_meet: bool = True, later: bool = False) -> list[Any]:
    """For each rank its batches, as ``(batch, is_last)``, and its exchanges but for those of the steps: ``later`` on, as a GPU's
    are, when somebody waits for them."""
    store = Store()

    def body(processes: ProcessesOfThreads) -> Any:
        processes.store = store
        loader = DataLoader(kit.Stream(range(lengths[processes.rank])), batch_size=1)
        source = Source(loader, "it", 1.0, "limit", training=True, share=Share(processes=processes))
        asked: list[str] = []

        def meet() -> None:
            while asked:
                processes.barrier(asked.pop())

        source.window = lambda: (window, meet if steps_meet else None)
        epochs = []
        for epoch in range(2):
            processes.exchanges.clear()
            read = []
            for batch, index, is_last in source.read(epoch):
                read.append((int(batch[0]), is_last))
                if is_last or (index + 1) % window == 0:
                    asked.append("of a step")
                    if not later or is_last:
                        meet()
            epochs.append((read, [word for word in processes.words if word != "barrier"]))
        return epochs

    return run_together(len(lengths), body)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[5, 3], [1, 4], [4, 4], [7, 12], [2, 1], [9, 20, 6]], ids=str)
def test_streams_end_with_the_shortest(lengths: list[int], window: int, later: bool) -> None:
    last = min(lengths) - 1
    for epochs in read_streams(lengths, window, later=later):
        for read, exchanges in epochs:
            assert read == [(number, number == last) for number in range(last + 1)]
            assert len(exchanges) <= 2, "at the beginning, and at the end"


def test_without_exchanges_of_steps_they_talk_at_every_batch() -> None:
    for epochs in read_streams([5, 3], 1, steps_meet=False):
        assert [read[-1] for read, _ in epochs] == [(2, True)] * 2


def test_lengths_that_are_known_are_compared_once_an_epoch() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        loader = DataLoader(TensorDataset(torch.arange(5 - 2 * processes.rank)), 1)
        source = Source(loader, "it", 1.0, "limit", training=True, share=Share(processes=processes))
        return source.stops, [is_last for _, _, is_last in source.read()]

    with pytest.warns(LeydenWarning, match="5 on process 0, 3 on process 1.*ends after 3 on all"):
        outcomes = run_together(2, body)
    assert outcomes == [([3], [False, False, True])] * 2


def test_one_who_knows_and_one_who_does_not() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        data: Any = kit.Stream(range(7)) if processes.rank else TensorDataset(torch.arange(4))
        source = Source(DataLoader(data, 1), "it", 1.0, "limit", training=True, share=Share(processes=processes))
        return len([batch for batch, _, _ in source.read()])

    assert run_together(2, body) == [4, 4]


def test_shares_of_different_datasets_are_refused_on_all() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        share = Share(processes.rank, 2, "drop", processes=processes)
        Source(DataLoader(TensorDataset(torch.arange(8 + 2 * processes.rank)), 1), "it", 1.0, "l", training=True, share=share)

    for outcome in outcomes_together(2, body):
        assert isinstance(outcome, InvalidLoader)
        assert "4 on process 0, 5 on process 1" in str(outcome)
        assert "use_distributed_sampler=False" in str(outcome)


def test_a_cut_stream_goes_on_and_ends_with_the_others() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        def source() -> Source:
            loader = DataLoader(kit.Stream(range(9 - 3 * processes.rank)), batch_size=1)
            made = Source(loader, "it", 1.0, "limit", training=True, share=Share(processes=processes))
            made.window = lambda: (1, None)
            return made

        cut = source()
        reading = cut.read()
        begun = [int(next(reading)[0][0]) for _ in range(3)]
        state = cut.state_dict(0, 3)
        resumed = source()
        resumed.restore(state)
        return begun + [int(batch[0]) for batch, _, _ in resumed.read(0, 3)]

    assert run_together(2, body) == [list(range(6))] * 2
