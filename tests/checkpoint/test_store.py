"""FileStore: what is there, in which order, and what is done to it, for files and URLs; asked on the first process only."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import fsspec
import pytest
from torch import Tensor

from leyden.checkpoint.asynchronous import AsyncCheckpointIO
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.store import FileStore, Place
from leyden.distributed.processes import Body, Processes
from leyden.errors import CheckpointWriteFailed, MissingPackage


@pytest.fixture
def remote() -> Iterator[str]:
    """A folder of a storage in memory."""
    yield "memory://of-the-store/one"
    fsspec.filesystem("memory").rm("/of-the-store", recursive=True)


def put(path: str | Path, at: float | None = None, content: bytes = b"content") -> str:
    """A file, written ``at`` so many seconds after 1970."""
    if "://" in str(path):
        with fsspec.open(str(path), "wb") as file:
            file.write(content)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(content)
        if at is not None:
            os.utime(path, (at, at))
    return str(path)


def newest(*places: Place) -> list[str]:
    return [os.path.basename(path) for path in FileStore().newest(places)]


# -- what is there


def test_what_exists(tmp_path: Path, remote: str) -> None:
    here, there = put(tmp_path / "a.ckpt"), put(f"{remote}/a.ckpt")
    store = FileStore()
    assert [store.exists(path) for path in (here, f"file://{here}", there, str(tmp_path))] == [True] * 4
    assert [store.exists(path) for path in (f"{here}x", f"file://{here}x", f"{there}x")] == [False] * 3


def test_what_is_worth_reading_is_there_or_elsewhere(tmp_path: Path) -> None:
    here = put(tmp_path / "a.ckpt")
    assert FileStore().worth_reading([f"{here}x", "memory://nowhere", here]) == ["memory://nowhere", here]


def test_an_url_of_an_unknown_kind_says_what_is_missing() -> None:
    with pytest.raises(MissingPackage, match=r"The path 'gs://bucket/a\.ckpt' needs the package"):
        FileStore().exists("gs://bucket/a.ckpt")


def test_when_it_was_written(tmp_path: Path, remote: str) -> None:
    assert FileStore().written_at(put(tmp_path / "a.ckpt", at=1000)) == 1000 * 10**9
    assert FileStore().written_at(str(tmp_path / "b.ckpt")) is None
    assert FileStore().written_at(put(f"{remote}/a.ckpt")) is None


def test_names_in_a_folder(tmp_path: Path, remote: str) -> None:
    for folder in (str(tmp_path / "kept"), remote):
        assert FileStore().names(folder) == []
        put(f"{folder}/b.ckpt")
        put(f"{folder}/a.txt")
        assert FileStore().names(folder) == ["a.txt", "b.ckpt"]
    assert FileStore().names(str(tmp_path / "kept" / "a.txt")) == []


def test_folders_that_match(tmp_path: Path) -> None:
    for name in ("version_0", "version_1", "other"):
        (tmp_path / name).mkdir()
    found = FileStore().folders([str(tmp_path / "version_*"), str(tmp_path / "*_0"), str(tmp_path / "nowhere")])
    assert found == [str(tmp_path / "version_0"), str(tmp_path / "version_1")]


# -- the order for "last"


def test_the_newest_is_first(tmp_path: Path) -> None:
    for age, name in enumerate(["epoch=1.ckpt", "last.ckpt", "epoch=0.ckpt", "x.txt", ".a.ckpt.1.leyden-tmp"]):
        put(tmp_path / name, at=1000 - age)
    assert newest(Place(str(tmp_path))) == ["epoch=1.ckpt", "last.ckpt", "epoch=0.ckpt"]
    assert newest(Place(str(tmp_path / "nowhere"))) == []


def test_of_one_age_last_is_first(tmp_path: Path) -> None:
    for name in ["epoch=1.ckpt", "last.ckpt", "lastly.ckpt", "last-v1.ckpt"]:
        put(tmp_path / name, at=1000)
    assert newest(Place(str(tmp_path))) == ["last.ckpt", "last-v1.ckpt", "lastly.ckpt", "epoch=1.ckpt"]


def test_all_places_are_one_list_without_twins(tmp_path: Path) -> None:
    for age, path in enumerate(["one/a.ckpt", "two/b.ckpt", "one/c.ckpt"]):
        put(tmp_path / path, at=1000 - age)
    one, two = Place(str(tmp_path / "one")), Place(str(tmp_path / "two"))
    assert newest(one, two, one) == ["a.ckpt", "b.ckpt", "c.ckpt"]


def test_subfolders_and_another_extension(tmp_path: Path) -> None:
    for age, path in enumerate(["0/model.pt", "0/deep/model.pt", "model.pt", "model.ckpt", ".hidden/model.pt"]):
        put(tmp_path / path, at=1000 - age)
    found = FileStore().newest([Place(str(tmp_path), ".pt", depth=1)])
    assert [os.path.relpath(path, tmp_path) for path in found] == ["0/model.pt", "model.pt"]


def test_links_that_lead_nowhere_or_in_circles_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "a.ckpt")
    os.symlink(tmp_path / "gone", tmp_path / "b.ckpt")
    os.symlink(tmp_path / "c.ckpt", tmp_path / "c.ckpt")
    os.symlink(tmp_path, tmp_path / "again")
    assert newest(Place(str(tmp_path))) == ["a.ckpt"]
    assert sorted(newest(Place(str(tmp_path), depth=3))) == ["a.ckpt"]


def test_a_storage_elsewhere_is_listed_too(remote: str) -> None:
    for name in ("a.ckpt", "b.ckpt", "c.txt", "deep/d.ckpt"):
        put(f"{remote}/{name}")
    assert FileStore().newest([Place(remote)]) == [f"{remote}/b.ckpt", f"{remote}/a.ckpt"]
    assert FileStore().newest([Place(f"{remote}/", depth=1)])[0] == f"{remote}/deep/d.ckpt"


# -- what is done


def test_a_duplicate_is_the_same_file(tmp_path: Path) -> None:
    source, target = put(tmp_path / "a.ckpt"), str(tmp_path / "last.ckpt")
    assert FileStore().duplicate(source, target, just_saved=True)
    assert os.path.samefile(source, target)


def test_what_cannot_be_duplicated_has_to_be_saved_again(tmp_path: Path, remote: str) -> None:
    (tmp_path / "shards.ckpt").mkdir()
    store, target = FileStore(), str(tmp_path / "last.ckpt")
    assert not store.duplicate(put(f"{remote}/a.ckpt"), f"{remote}/last.ckpt")
    assert not store.duplicate(str(tmp_path / "shards.ckpt"), target)
    assert not store.duplicate(str(tmp_path / "gone.ckpt"), target)
    in_background = FileStore(checkpoint_io=AsyncCheckpointIO())
    source = put(tmp_path / "a.ckpt")
    assert not in_background.duplicate(source, target, just_saved=True)
    assert in_background.duplicate(source, target)


def test_a_duplicate_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointWriteFailed, match="could not be written"):
        FileStore().duplicate(put(tmp_path / "a.ckpt"), put(tmp_path / "b") + "/last.ckpt")


def test_what_is_removed_goes_through_the_one_that_wrote_it(tmp_path: Path, remote: str) -> None:
    removed = []

    class Noting(TorchCheckpointIO):
        def remove_checkpoint(self, path: Any) -> None:
            removed.append(path)
            super().remove_checkpoint(path)

    paths = [put(tmp_path / "a.ckpt"), put(f"{remote}/a.ckpt")]
    store = FileStore(checkpoint_io=Noting())
    for path in (*paths, *paths):
        store.remove(path)
    assert removed == [*paths, *paths]
    assert not any(store.exists(path) for path in paths)


def test_quarantine(tmp_path: Path, remote: str) -> None:
    store, path = FileStore(), put(tmp_path / "a.ckpt")
    assert store.quarantine(path) == f"{path}.damaged"
    assert store.names(str(tmp_path)) == ["a.ckpt.damaged"]
    assert store.quarantine(path) is None  # gone
    assert store.quarantine(put(f"{remote}/a.ckpt")) is None
    assert store.exists(f"{remote}/a.ckpt")


@pytest.mark.skipif(os.name == "nt", reason="no locks on folders there")
def test_a_folder_is_held_until_it_is_let_go(tmp_path: Path) -> None:
    mine, other = FileStore(), FileStore()
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    put(tmp_path / "file")
    mine.hold([first, "memory://elsewhere", str(tmp_path / "file" / "folder")])
    mine.hold([first])
    with pytest.raises(BlockingIOError) as caught:
        other.hold([second, first])
    assert caught.value.filename == first
    other.let_go()
    mine.hold([second])
    mine.let_go()
    mine.let_go()
    other.hold([first, second])
    other.let_go()


def test_leftovers_are_cleaned(tmp_path: Path, remote: str) -> None:
    put(tmp_path / f".last.ckpt.{2**22 + 1}.leyden-tmp")
    put(tmp_path / "last.ckpt")
    put(f"{remote}/.last.ckpt.1.leyden-tmp")
    for folder in (str(tmp_path), str(tmp_path / "nowhere"), remote):
        FileStore().clean(folder)
    assert FileStore().names(str(tmp_path)) == ["last.ckpt"]
    assert FileStore().names(remote) == [".last.ckpt.1.leyden-tmp"]


# -- several processes


class Pair(Processes):
    """One of two processes; what the first broadcasts goes over a wire on which only bytes travel."""

    world = 2

    def __init__(self, rank: int, wire: list[bytes]) -> None:
        self.rank = rank
        self.wire = wire

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        if self.is_first:
            self.wire.append(pickle.dumps(obj))
        return pickle.loads(self.wire[-1] if self.is_first else self.wire.pop(0))

    def launched(self, body: Body) -> Body:
        raise NotImplementedError

    def barrier(self, name: str | None = None) -> None:
        raise NotImplementedError

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        raise NotImplementedError

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        raise NotImplementedError

    def gather_objects(self, obj: Any) -> list[Any]:
        raise NotImplementedError

    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        raise NotImplementedError


QUESTIONS: dict[str, Callable[[FileStore, str], Any]] = {
    "exists": lambda store, path: store.exists(path),
    "worth reading": lambda store, path: store.worth_reading([path]),
    "written at": lambda store, path: store.written_at(path),
    "newest": lambda store, path: store.newest([Place(os.path.dirname(path))]),
    "folders": lambda store, path: store.folders([os.path.dirname(path)]),
    "names": lambda store, path: store.names(os.path.dirname(path)),
    "duplicate": lambda store, path: store.duplicate(path, f"{path}-2"),
    "quarantine": lambda store, path: store.quarantine(path),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_process_is_asked_and_the_other_has_its_answer(question: str, tmp_path: Path) -> None:
    path, wire = put(tmp_path / "kept" / "a.ckpt"), []  # type: ignore[var-annotated]  # bytes, by what it is passed to
    answer = QUESTIONS[question](FileStore(Pair(0, wire)), path)
    assert answer
    assert len(wire) == 1
    seen = os.path.dirname(path)
    for name in os.listdir(seen):
        os.remove(os.path.join(seen, name))
    os.rmdir(seen)  # the other does not look
    assert QUESTIONS[question](FileStore(Pair(1, wire)), path) == answer


def test_an_error_is_shared_and_leaves_nobody_waiting(tmp_path: Path) -> None:
    wire: list[bytes] = []
    source, target = put(tmp_path / "a.ckpt"), put(tmp_path / "b") + "/last.ckpt"
    for rank in (0, 1):
        with pytest.raises(CheckpointWriteFailed, match="could not be written"):
            FileStore(Pair(rank, wire)).duplicate(source, target)
    holder = FileStore()
    holder.hold([str(tmp_path)])
    for rank in (0, 1):
        with pytest.raises(BlockingIOError) as caught:
            FileStore(Pair(rank, wire)).hold([str(tmp_path)])
        assert caught.value.filename == str(tmp_path)
    holder.let_go()


def test_a_copy_belongs_to_no_run(tmp_path: Path) -> None:
    store = FileStore(Pair(1, []))
    path = put(tmp_path / "a.ckpt")
    for other in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        assert other.exists(path)
