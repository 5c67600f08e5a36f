"""Writing in the background: a snapshot is written, one at a time, and what goes wrong is heard of."""

from __future__ import annotations

import os
import pickle
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from warm_python import python

from leyden.checkpoint.asynchronous import AsyncCheckpointIO, snapshot
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.checkpoint.sharded import ShardedCheckpointIO
from leyden.errors import CheckpointWriteFailed, InvalidType


class Gate(CheckpointIO):
    """Writes when it is let; notes what it was asked to do."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.done: list[tuple[str, Any]] = []
        self.fail = False
        self.ended = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        assert self.open.wait(10)
        if self.fail:
            raise CheckpointWriteFailed(f"{path} is full")
        self.done.append(("save", (path, checkpoint, storage_options)))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        self.done.append(("load", (path, map_location, weights_only)))
        return {}

    def remove_checkpoint(self, path: Any) -> None:
        self.done.append(("remove", path))

    def teardown(self) -> None:
        self.ended = True


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_what_is_written_is_what_was_there_when_it_was_asked(gate: Gate):
    storage = AsyncCheckpointIO(gate)
    weight = torch.ones(3)
    checkpoint = {"w": weight, "list": [1], "state_dict": OrderedDict(w=weight)}
    storage.save_checkpoint(checkpoint, "a", storage_options={"x": 1})
    weight.add_(1)
    checkpoint["list"].append(2)  # type: ignore[attr-defined]  # it is the list
    gate.open.set()
    storage.teardown()
    ((_, (path, written, options)),) = gate.done
    assert (path, options) == ("a", {"x": 1})
    assert written["w"].tolist() == [1, 1, 1]
    assert written["list"] == [1]
    assert gate.ended


def test_at_most_one_is_in_flight(gate: Gate):
    storage = AsyncCheckpointIO(gate)
    storage.save_checkpoint({}, "a")
    second = threading.Thread(target=storage.save_checkpoint, args=({}, "b"))
    second.start()
    assert gate.done == []
    assert second.is_alive()
    gate.open.set()
    second.join(10)
    storage.wait()
    assert [path for _, (path, *_) in gate.done] == ["a", "b"]
    storage.teardown()


def test_an_error_surfaces_at_the_next_save(gate: Gate):
    gate.fail = True
    gate.open.set()
    storage = AsyncCheckpointIO(gate)
    storage.save_checkpoint({}, "a")
    with pytest.raises(CheckpointWriteFailed, match="a is full"):
        storage.save_checkpoint({}, "b")
    gate.fail = False
    storage.save_checkpoint({}, "c")
    storage.teardown()
    assert [path for _, (path, *_) in gate.done] == ["c"]


def test_an_error_surfaces_at_teardown_and_everything_is_ended(gate: Gate):
    gate.fail = True
    gate.open.set()
    storage = AsyncCheckpointIO(gate)
    storage.save_checkpoint({}, "a")
    with pytest.raises(CheckpointWriteFailed, match="a is full"):
        storage.teardown()
    assert gate.ended
    storage.teardown()


def test_the_old_goes_only_when_the_new_is_there(gate: Gate):
    storage = AsyncCheckpointIO(gate)
    storage.save_checkpoint({}, "new")
    storage.remove_checkpoint("old")
    assert gate.done == []
    gate.open.set()
    storage.wait()
    assert [kind for kind, _ in gate.done] == ["save", "remove"]
    storage.teardown()


def test_the_old_stays_where_the_new_failed(gate: Gate):
    gate.fail = True
    storage = AsyncCheckpointIO(gate)
    storage.save_checkpoint({}, "new")
    storage.remove_checkpoint("old")
    gate.open.set()
    with pytest.raises(CheckpointWriteFailed):
        storage.wait()
    assert gate.done == []
    storage.teardown()


def test_reading_waits_for_the_writing(gate: Gate):
    storage = AsyncCheckpointIO(gate)
    storage.save_checkpoint({}, "a")
    gate.open.set()
    storage.load_checkpoint("a", "cpu", True)
    assert [kind for kind, _ in gate.done] == ["save", "load"]
    storage.teardown()


def test_by_default_torch_files_are_written(tmp_path: Path):
    storage = AsyncCheckpointIO()
    assert isinstance(storage.checkpoint_io, TorchCheckpointIO)
    storage.save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    assert storage.load_checkpoint(tmp_path / "a.ckpt") == {"epoch": 1}
    storage.teardown()


def test_it_can_be_sent_to_another_process(tmp_path: Path):
    storage = AsyncCheckpointIO()
    storage.save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    copied = pickle.loads(pickle.dumps(storage))
    assert copied.load_checkpoint(tmp_path / "a.ckpt") == {"epoch": 1}
    storage.teardown()


def test_the_end_of_the_process_waits(tmp_path: Path):
    program = (
        "import sys, torch\n"
        "from leyden.checkpoint.asynchronous import AsyncCheckpointIO\n"
        "AsyncCheckpointIO().save_checkpoint({'w': torch.ones(1 << 22)}, sys.argv[1])\n"
    )
    assert python("-c", program, tmp_path / "a.ckpt").returncode == 0
    assert TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["w"].sum() == 1 << 22
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_an_error_that_nobody_asked_for_is_told_at_the_end(tmp_path: Path):
    (tmp_path / "file").touch()
    program = (
        "import sys\n"
        "from leyden.checkpoint.asynchronous import AsyncCheckpointIO\n"
        "storage = AsyncCheckpointIO()\n"
        "storage.save_checkpoint({}, sys.argv[1])\n"
    )
    ended = python("-c", program, tmp_path / "file" / "a.ckpt")
    assert ended.returncode == 0
    assert "a.ckpt' could not be written: " in ended.stderr


def test_a_snapshot_shares_what_was_shared_and_nothing_with_the_original():
    base = torch.arange(6.0)
    parameter = torch.nn.Parameter(torch.ones(2))
    value = {
        "base": base,
        "view": base[2:4],
        "again": base,
        "turned": base.view(2, 3).t(),
        "p": parameter,
        "sparse": torch.eye(2).to_sparse(),
    }
    copied = snapshot(value)
    assert copied["base"] is copied["again"]
    base.zero_()
    assert copied["view"].tolist() == [2, 3]
    assert copied["turned"].stride() == (1, 3)
    copied["base"][2] = 9
    assert copied["view"].tolist() == [9, 3]
    assert isinstance(copied["p"], torch.nn.Parameter)
    assert copied["p"].data_ptr() != parameter.data_ptr()
    assert copied["sparse"].to_dense().tolist() == [[1, 0], [0, 1]]


def test_a_snapshot_copies_every_kind_of_tensor():
    graph = torch.ones(2, requires_grad=True) * 2
    values = [
        graph,
        torch.ones(2, dtype=torch.cfloat).conj(),
        torch.empty(2, device="meta"),
        torch.empty(0),
        torch.tensor(3, dtype=torch.bfloat16),
    ]
    copied = snapshot((values, {1}, "x", torch.nn.BatchNorm1d(2).state_dict()))
    assert [tensor.dtype for tensor in copied[0]] == [tensor.dtype for tensor in values]
    assert torch.equal(copied[0][0], graph)
    assert not copied[0][1].is_conj() or torch.equal(copied[0][1], values[1])
    assert copied[0][2].is_meta
    assert copied[1:3] == ({1}, "x")
    assert copied[3]._metadata


def test_memory_is_used_again_and_every_file_holds_its_own_moment(tmp_path: Path) -> None:
    saving = AsyncCheckpointIO()
    weights = torch.zeros(2**19)  # 2 MiB
    for moment in range(4):
        weights.fill_(moment)
        saving.save_checkpoint({"weights": weights, "small": torch.tensor(moment)}, tmp_path / f"{moment}.ckpt")
    weights.fill_(-1)
    (kept,) = saving._memory
    saving.save_checkpoint({"weights": weights}, tmp_path / "again.ckpt")
    assert saving._memory[0].data_ptr() == kept.data_ptr()
    saving.teardown()
    assert saving._memory == []
    for moment in range(4):
        loaded = torch.load(tmp_path / f"{moment}.ckpt", weights_only=True)
        assert torch.equal(loaded["weights"], torch.full((2**19,), float(moment)))
        assert int(loaded["small"]) == moment
    assert torch.equal(torch.load(tmp_path / "again.ckpt", weights_only=True)["weights"], weights)


def test_another_storage_may_hold_on_to_what_it_was_given(tmp_path: Path) -> None:
    class InMemory(TorchCheckpointIO):
        def __init__(self) -> None:
            super().__init__()
            self.held: list[Any] = []

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            self.held.append(checkpoint)

    holding = InMemory()
    saving = AsyncCheckpointIO(holding)
    weights = torch.zeros(2**19)
    for moment in range(3):
        weights.fill_(moment)
        saving.save_checkpoint({"weights": weights}, tmp_path / "x.ckpt")
    saving.teardown()
    assert [float(each["weights"][0]) for each in holding.held] == [0.0, 1.0, 2.0]


def test_what_does_the_work_may_be_changed() -> None:
    io = AsyncCheckpointIO()
    other = io.checkpoint_io = ShardedCheckpointIO()
    assert io.checkpoint_io is other
    assert io.leyden_sharded
    with pytest.raises(InvalidType, match=r"checkpoint_io=.* expected a CheckpointIO"):
        io.checkpoint_io = ShardedCheckpointIO  # type: ignore[assignment]  # the mistake under test
