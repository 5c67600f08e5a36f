"""A durable write: whichever system call fails, the file that stood there is whole and nothing else is left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from warm_python import python

from leyden.checkpoint.durable import Disk, beside_of, clean_leftovers, duplicate, quarantine, write_durably
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.errors import CheckpointWriteFailed, LeydenWarning
from leyden.plugins import ShardedCheckpointIO

CALLS = ["make_folders", "open", "lock", "write", "flush", "sync_file", "replace", "sync_folder"]


class FailingDisk(Disk):
    """A disk of which one call fails, once it was called ``after`` times."""

    def __init__(self, call: str, error: OSError, after: int = 0) -> None:
        self.calls: list[str] = []
        real = getattr(self, call)
        left = [after]

        def failing(*args: Any) -> Any:
            if left[0] == 0:
                raise error
            left[0] -= 1
            return real(*args)

        setattr(self, call, failing)


class CountingDisk(Disk):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def open(self, path: str) -> IO[bytes]:
        self.calls.append("open")
        return super().open(path)

    def flush(self, file: IO[bytes]) -> None:
        self.calls.append("flush")
        super().flush(file)

    def sync_file(self, file: IO[bytes]) -> None:
        self.calls.append("sync_file")
        super().sync_file(file)

    def replace(self, source: str, target: str) -> None:
        self.calls.append("replace")
        super().replace(source, target)

    def sync_folder(self, folder: str) -> None:
        self.calls.append("sync_folder")
        super().sync_folder(folder)


def test_the_order_that_survives_a_power_cut(tmp_path: Path):
    disk = CountingDisk()
    TorchCheckpointIO(disk).save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    assert disk.calls == ["open", "flush", "sync_file", "replace", "sync_folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", CALLS)
def test_any_failing_call_leaves_a_whole_file_and_no_other(tmp_path: Path, call: str, number: int):
    folder = tmp_path / "run"
    path = folder / "a.ckpt"
    if call != "make_folders":
        TorchCheckpointIO().save_checkpoint({"epoch": 1}, path)
    disk = FailingDisk(call, OSError(number, os.strerror(number)))
    with pytest.raises(CheckpointWriteFailed, match=r"a\.ckpt' could not be written") as raised:
        TorchCheckpointIO(disk).save_checkpoint({"epoch": 2, "w": torch.ones(1000)}, path)
    assert os.strerror(number) in str(raised.value)
    assert raised.value.errno == number
    assert isinstance(raised.value.__cause__, OSError)
    if call == "make_folders":
        assert not folder.exists()
        return
    assert os.listdir(folder) == ["a.ckpt"]
    # once renamed, the new file stands there, whole
    assert TorchCheckpointIO().load_checkpoint(path)["epoch"] == (2 if call == "sync_folder" else 1)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 13])
def test_a_disk_that_fills_up_half_way(tmp_path: Path, after: int):
    TorchCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    disk = FailingDisk("write", OSError(errno.ENOSPC, "No space left on device"), after)
    with pytest.raises(CheckpointWriteFailed, match=r"No space left on device\. What stood there before is intact"):
        TorchCheckpointIO(disk).save_checkpoint({f"w{i}": torch.ones(1000) for i in range(5)}, tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt") == {"epoch": 1}


def test_an_error_that_is_not_the_disks_comes_out_as_it_is(tmp_path: Path):
    class Refuses:
        def __reduce__(self) -> Any:
            raise ValueError("not me")

    with pytest.raises(ValueError, match="not me"):
        TorchCheckpointIO().save_checkpoint({"x": Refuses()}, tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_folder_deleted_during_the_write_is_made_again_loudly(tmp_path: Path):
    folder = tmp_path / "run"

    class Deleting(Disk):
        done = False

        def replace(self, source: str, target: str) -> None:
            if not self.done:
                self.done = True
                os.remove(source)
                os.rmdir(folder)
            super().replace(source, target)

    with pytest.warns(LeydenWarning, match="run' was deleted while the run went on. It was made again"):
        write_durably(str(folder / "a"), lambda sink: sink.write(b"x") and None, Deleting())
    assert (folder / "a").read_bytes() == b"x"


def test_a_relative_name_is_written_where_we_stand():
    write_durably("a", lambda sink: sink.write(b"x") and None, Disk())
    assert Path("a").read_bytes() == b"x"


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_durably(str(tmp_path / "a"), lambda sink: sink.write(b"x") and None, Disk())
    assert (tmp_path / "a").read_bytes() == b"x"


def test_leftovers_of_a_crash_go_and_nothing_else(tmp_path: Path):
    for name in (".a.ckpt.999999.leyden-tmp", f".b.ckpt.{os.getpid()}.leyden-tmp", "a.ckpt", ".hidden", "c.leyden-tmp"):
        (tmp_path / name).write_bytes(b"x")
    removed = clean_leftovers(tmp_path)
    assert sorted(map(os.path.basename, removed)) == sorted([".a.ckpt.999999.leyden-tmp", f".b.ckpt.{os.getpid()}.leyden-tmp"])
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.ckpt", "c.leyden-tmp"]
    assert clean_leftovers(tmp_path / "nowhere") == []


def test_leftovers_of_another_folder_than_the_working_one_go_too(tmp_path: Path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / ".a.0.leyden-tmp").write_bytes(b"")
    (tmp_path / ".a.0.leyden-tmp").write_bytes(b"")
    assert clean_leftovers(folder) == [str(folder / ".a.0.leyden-tmp")]
    assert (tmp_path / ".a.0.leyden-tmp").exists()


def test_a_file_being_written_is_no_leftover(tmp_path: Path):
    seen = []

    def fill(sink: Any) -> None:
        sink.write(b"x")
        seen.append(clean_leftovers(tmp_path))

    write_durably(str(tmp_path / "a"), fill, Disk())
    assert seen == [[]]
    assert os.listdir(tmp_path) == ["a"]


def test_where_there_are_no_locks_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".a.{ended.pid}.leyden-tmp").write_bytes(b"x")
    (tmp_path / f".b.{os.getpid()}.leyden-tmp").write_bytes(b"x")
    assert [os.path.basename(path) for path in clean_leftovers(tmp_path)] == [f".a.{ended.pid}.leyden-tmp"]


def test_a_killed_writer_leaves_what_can_be_cleaned(tmp_path: Path):
    program = (
        "import os, signal, sys\n"
        "from leyden.checkpoint.durable import Disk, write_durably\n"
        "def fill(sink):\n"
        "    sink.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_durably(sys.argv[1], fill, Disk())\n"
    )
    (tmp_path / "a").write_bytes(b"whole")
    python("-c", program, tmp_path / "a")
    assert len(os.listdir(tmp_path)) == 2
    assert len(clean_leftovers(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_duplicate_is_a_file_of_its_own(tmp_path: Path):
    storage = TorchCheckpointIO()
    storage.save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    duplicate(str(tmp_path / "a.ckpt"), str(tmp_path / "last.ckpt"))
    duplicate(str(tmp_path / "a.ckpt"), str(tmp_path / "last.ckpt"))
    storage.save_checkpoint({"epoch": 2}, tmp_path / "b.ckpt")
    duplicate(str(tmp_path / "b.ckpt"), str(tmp_path / "last.ckpt"))
    storage.remove_checkpoint(tmp_path / "b.ckpt")
    assert storage.load_checkpoint(tmp_path / "last.ckpt") == {"epoch": 2}
    assert storage.load_checkpoint(tmp_path / "a.ckpt") == {"epoch": 1}
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "last.ckpt"]


def test_a_duplicate_without_hard_links_is_a_copy(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x")
    duplicate(str(tmp_path / "a"), str(tmp_path / "b"), FailingDisk("link", OSError(errno.EPERM, "no links here")))
    assert (tmp_path / "b").read_bytes() == b"x"
    assert (tmp_path / "b").stat().st_nlink == 1


@pytest.mark.parametrize("call", ["replace", "sync_folder"])
def test_a_duplicate_that_fails_leaves_nothing(tmp_path: Path, call: str):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(CheckpointWriteFailed, match="b' could not be written: disk on fire"):
        duplicate(str(tmp_path / "a"), str(tmp_path / "b"), FailingDisk(call, OSError(errno.EIO, "disk on fire")))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "b").read_bytes() in (b"old", b"new")


def test_a_bad_file_is_put_aside_under_a_free_name(tmp_path: Path):
    for expected in ("a.ckpt.damaged", "a.ckpt.damaged-1", "a.ckpt.damaged-2"):
        (tmp_path / "a.ckpt").write_bytes(b"bad")
        assert os.path.basename(quarantine(tmp_path / "a.ckpt")) == expected
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("name", ["x" * 240, "x" * 255, "ü" * 120 + ".ckpt", "x" * 101])
def test_a_name_as_long_as_the_disk_takes_it(tmp_path: Path, name: str):
    """Something is added to a name while it is written, and when it is put aside: it still fits."""
    storage, path = TorchCheckpointIO(), tmp_path / name
    storage.save_checkpoint({"epoch": 1}, path)
    (tmp_path / "other").write_bytes(b"old")
    duplicate(str(path), str(tmp_path / ("y" * 255)))
    assert storage.load_checkpoint(tmp_path / ("y" * 255)) == {"epoch": 1}
    assert beside_of(str(path)) != beside_of(str(path)[:-1])
    (tmp_path / os.path.basename(beside_of(str(path))).replace(str(os.getpid()), "4194304")).touch()
    assert len(clean_leftovers(tmp_path)) == 1
    moved = {quarantine(path)}
    for _ in range(11):
        path.touch()
        moved.add(quarantine(path))
    assert len(moved) == 12


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_that_is_no_checkpoint_stays_what_it_is(tmp_path: Path, sharded: bool):
    """`save_checkpoint("checkpoints")` in place of `"checkpoints/a.ckpt"`."""
    (folder := tmp_path / "checkpoints").mkdir()
    (folder / "best.ckpt").write_bytes(b"weeks of work")
    storage = ShardedCheckpointIO() if sharded else TorchCheckpointIO()
    with pytest.raises(CheckpointWriteFailed, match="it is a folder, and no checkpoint: give the name of a file in it"):
        storage.save_checkpoint({"state_dict": {"w": torch.zeros(2)}}, folder)
    assert (folder / "best.ckpt").read_bytes() == b"weeks of work"
    assert os.listdir(tmp_path) == ["checkpoints"]


def test_a_device_or_a_pipe_stays_what_it_is(tmp_path: Path):
    os.mkfifo(pipe := tmp_path / "a.ckpt")
    with pytest.raises(CheckpointWriteFailed, match="it is a device, a pipe or a socket"):
        TorchCheckpointIO().save_checkpoint({"epoch": 1}, pipe)
    assert pipe.is_fifo()


def test_a_checkpoint_that_is_a_folder_gives_way_to_a_file_and_back(tmp_path: Path):
    path = tmp_path / "a.ckpt"
    for number, storage in enumerate((ShardedCheckpointIO(), TorchCheckpointIO(), ShardedCheckpointIO(), ShardedCheckpointIO())):
        storage.save_checkpoint({"state_dict": {"w": torch.full((2,), number)}}, path)
        assert storage.load_checkpoint(path)["state_dict"]["w"].tolist() == [number, number]
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_each_new_folder_s_name_is_made_durable_in_its_parent(tmp_path: Path):
    synced: list[str] = []

    class Noting(Disk):
        def sync_folder(self, folder: str) -> None:
            synced.append(os.path.relpath(folder, tmp_path))
            super().sync_folder(folder)

    TorchCheckpointIO(Noting()).save_checkpoint({"epoch": 1}, tmp_path / "a" / "b" / "c" / "x.ckpt")
    assert synced == [".", "a", "a/b", "a/b/c"]


@pytest.mark.parametrize(
    "error", [OSError("the store says no"), OSError(errno.EIO, "the store says no")], ids=["words", "number"]
)
def test_why_a_write_failed_is_told(tmp_path: Path, error: OSError):
    class Refusing(Disk):
        def sync_file(self, file: IO[bytes]) -> None:
            raise error

    with pytest.raises(CheckpointWriteFailed, match=r"x\.ckpt' could not be written: the store says no"):
        TorchCheckpointIO(Refusing()).save_checkpoint({"epoch": 1}, tmp_path / "x.ckpt")
