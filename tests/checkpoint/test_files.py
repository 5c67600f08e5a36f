"""Checkpoints to and from disk: what is written is read again, and what cannot be read says why."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.checkpoint.verified import bytes_verified
from leyden.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointForeign,
    CheckpointMissing,
    CheckpointWriteFailed,
    DeviceUnavailable,
    InvalidOption,
    LeydenWarning,
)


def a_checkpoint() -> dict[str, Any]:
    return {"state_dict": OrderedDict(w=torch.randn(3, 4), b=torch.arange(5)), "epoch": 3, "hp": {"a": "x", "b": [1, 2.5]}}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if list(a) != list(b) or any(a[key] != b[key] for key in a if key != "state_dict"):
        return False
    return list(a["state_dict"]) == list(b["state_dict"]) and all(
        torch.equal(value, b["state_dict"][key]) and value.dtype is b["state_dict"][key].dtype
        for key, value in a["state_dict"].items()
    )


def load(content: bytes) -> Any:
    return bytes_verified(content, "here.ckpt", "cpu", None)


@pytest.fixture
def written(tmp_path: Path) -> tuple[dict[str, Any], bytes]:
    checkpoint = a_checkpoint()
    TorchCheckpointIO().save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    return checkpoint, (tmp_path / "a.ckpt").read_bytes()


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("code-ran",)


def test_what_is_written_is_read_again(tmp_path: Path):
    checkpoint = a_checkpoint()
    TorchCheckpointIO().save_checkpoint(checkpoint, tmp_path / "new" / "folder" / "a.ckpt")
    assert same(TorchCheckpointIO().load_checkpoint(tmp_path / "new" / "folder" / "a.ckpt"), checkpoint)
    assert os.listdir(tmp_path / "new" / "folder") == ["a.ckpt"]


def test_a_file_url_is_a_local_path(tmp_path: Path):
    TorchCheckpointIO().save_checkpoint({"epoch": 1}, f"file://{tmp_path}/a.ckpt")
    assert TorchCheckpointIO().load_checkpoint(f"file://{tmp_path}/a.ckpt") == {"epoch": 1}
    assert (tmp_path / "a.ckpt").exists()


def test_other_urls_go_through_fsspec():
    storage = TorchCheckpointIO()
    storage.save_checkpoint({"epoch": 1}, "memory://folder/a.ckpt", storage_options={})
    assert storage.load_checkpoint("memory://folder/a.ckpt") == {"epoch": 1}
    storage.remove_checkpoint("memory://folder/a.ckpt")
    storage.remove_checkpoint("memory://folder/a.ckpt")
    with pytest.raises(CheckpointMissing, match=r"no checkpoint at 'memory://folder/a\.ckpt'"):
        storage.load_checkpoint("memory://folder/a.ckpt")


def test_what_a_storage_raises_is_one_of_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no token")  # each kind of storage has its own

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(CheckpointError, match=r"'memory://a\.ckpt' cannot be read: no token"):
        TorchCheckpointIO().load_checkpoint("memory://a.ckpt")
    with pytest.raises(CheckpointWriteFailed, match=r"'memory://a\.ckpt' could not be written: no token"):
        TorchCheckpointIO().save_checkpoint({}, "memory://a.ckpt")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda *_, **__: (_ for _ in ()).throw(NotImplementedError))
    with pytest.raises(InvalidOption, match="that can be written to"):
        TorchCheckpointIO().save_checkpoint({}, "memory://a.ckpt")


def test_an_unknown_kind_of_url_says_so():
    with pytest.raises(InvalidOption, match="an URL of a kind that fsspec knows"):
        TorchCheckpointIO().load_checkpoint("nonsense://a.ckpt")


def test_removing_is_done_once_and_asked_for_twice(tmp_path: Path):
    TorchCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt")
    TorchCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    TorchCheckpointIO().remove_checkpoint(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_tensors_come_back_on_the_cpu_or_where_asked(tmp_path: Path):
    TorchCheckpointIO().save_checkpoint({"w": torch.ones(2)}, tmp_path / "a.ckpt")
    assert TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["w"].device.type == "cpu"
    assert TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", map_location="meta")["w"].is_meta


def test_a_user_may_write_another_storage():
    class InMemory(CheckpointIO):
        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            self.kept[path] = checkpoint

        def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
            return self.kept[path]

        def remove_checkpoint(self, path: Any) -> None:
            del self.kept[path]

    storage = InMemory()
    storage.save_checkpoint({"epoch": 1}, "a")
    assert storage.load_checkpoint("a") == {"epoch": 1}
    assert storage.teardown() is None
    with pytest.raises(TypeError, match="abstract"):
        CheckpointIO()  # type: ignore[abstract]  # that is the point


def test_checksums_are_written_even_where_torch_was_told_not_to(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        TorchCheckpointIO().save_checkpoint({"w": torch.ones(3)}, tmp_path / "a.ckpt")
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert zipfile.ZipFile(tmp_path / "a.ckpt").testzip() is None


def test_a_foreign_file_without_checksums_loads():
    torch.serialization.set_crc32_options(False)
    try:
        buffer = io.BytesIO()
        torch.save({"w": 3}, buffer)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load(buffer.getvalue()) == {"w": 3}


def test_a_missing_file_names_what_is_there(tmp_path: Path):
    with pytest.raises(CheckpointMissing, match=r"no checkpoint at .*b\.ckpt.* holds no file that ends in \.ckpt"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "b.ckpt")
    TorchCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt")
    with pytest.raises(FileNotFoundError, match=r"The folder holds a\.ckpt\."):
        TorchCheckpointIO().load_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(CheckpointMissing, match="does not exist either"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "nowhere" / "b.ckpt")


def test_a_folder_is_no_checkpoint(tmp_path: Path):
    with pytest.raises(CheckpointForeign, match="is a folder"):
        TorchCheckpointIO().load_checkpoint(tmp_path)


def test_an_unreadable_file_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    TorchCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 20, b"text, and more than a few bytes of it", pickle.dumps({"epoch": 1})])
def test_what_is_no_torch_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointDamaged if content.startswith(b"PK") else CheckpointForeign, match=r"a\.ckpt"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_another_zip_file_is_foreign(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointForeign, match="a zip file, but no checkpoint"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.zip")


def test_a_file_that_holds_no_dict_is_foreign(tmp_path: Path):
    torch.save([1, 2], tmp_path / "a.ckpt")
    with pytest.raises(CheckpointForeign, match="holds a list, expected a dict"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("weights_only", [None, True])
def test_a_file_that_needs_pickle_is_refused_and_says_how_to_allow_it(tmp_path: Path, weights_only: bool | None):
    torch.save({"x": RunsCode()}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointForeign, match=r"posix\.mkdir.* would run code.*weights_only=False"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=weights_only)
    assert not os.path.exists("code-ran")


def test_a_file_that_needs_pickle_loads_on_the_callers_word(tmp_path: Path):
    torch.save({"x": Path("a")}, tmp_path / "a.ckpt")
    assert TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False) == {"x": Path("a")}


def test_a_damaged_file_runs_no_code_even_on_the_callers_word(tmp_path: Path):
    torch.save({"x": RunsCode()}, tmp_path / "a.ckpt")
    content = bytearray((tmp_path / "a.ckpt").read_bytes())
    content[content.index(b"code-ran")] ^= 1
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointDamaged, match=r"data\.pkl"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert sorted(os.listdir()) == ["a.ckpt"]


def test_the_old_torch_format_loads_only_on_the_callers_word(tmp_path: Path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointForeign, match=r"before 1\.6.*weights_only=False"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")
    assert TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)["w"].sum() == 2
    content = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer)
    with pytest.raises(DeviceUnavailable, match="map_location='cpu'"):
        bytes_verified(buffer.getvalue(), "a", "cuda", None)


def test_every_flipped_byte_is_found_or_does_no_harm(written: tuple[dict[str, Any], bytes]):
    checkpoint, content = written
    found = 0
    for offset in range(len(content)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            changed = bytearray(content)
            changed[offset] ^= flip
            try:
                loaded = load(bytes(changed))
            except CheckpointDamaged:
                found += 1
            else:
                assert same(loaded, checkpoint), f"byte {offset} ^ {flip} changed what was loaded"
    assert found > len(content)


def test_every_truncation_is_found(written: tuple[dict[str, Any], bytes]):
    _, content = written
    with pytest.raises(CheckpointDamaged, match=r"here\.ckpt' is empty"):
        load(b"")
    for length in range(1, len(content)):
        with pytest.raises(CheckpointDamaged, match=r"here\.ckpt' is (truncated|damaged)"):
            load(content[:length])


@pytest.mark.parametrize("content", [b"h", b"PKZIP", b"hello", b"a text that is longer than a zip's end"])
def test_what_never_was_a_checkpoint_is_not_called_truncated(content: bytes):
    with pytest.raises(CheckpointForeign, match=r"here\.ckpt' is no checkpoint: it was not written by torch\.save"):
        load(content)


def test_a_flipped_byte_in_a_large_file_names_its_record(tmp_path: Path):
    path = tmp_path / "a.ckpt"
    TorchCheckpointIO().save_checkpoint(
        {f"w{i}": torch.full((1 << 19,), float(i)) for i in range(4)}, path
    )  # 8 MB: a thread checks
    content = bytearray(path.read_bytes())
    for offset in range(5000, len(content) - 5000, len(content) // 12):
        content[offset] ^= 4
        path.write_bytes(content)
        with pytest.raises(CheckpointDamaged, match=r"a\.ckpt' is damaged: the checksum of its record 'archive/data/\d'"):
            TorchCheckpointIO().load_checkpoint(path)
        content[offset] ^= 4
    path.write_bytes(content)
    assert TorchCheckpointIO().load_checkpoint(path)["w3"].mean() == 3


def test_zeros_where_a_file_should_be_are_damage(tmp_path: Path):
    (tmp_path / "a.ckpt").write_bytes(bytes(1000))
    with pytest.raises(CheckpointDamaged, match="first bytes were changed"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


def test_a_zip_that_was_compressed_afterwards_loads_and_is_checked(tmp_path: Path, written: tuple[dict[str, Any], bytes]):
    checkpoint, content = written
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert same(load(packed.getvalue()), checkpoint)
    for offset in range(0, len(packed.getvalue()), 7):
        changed = bytearray(packed.getvalue())
        changed[offset] ^= 0x41
        try:
            assert same(load(bytes(changed)), checkpoint)
        except CheckpointDamaged:
            continue


def test_a_folder_that_vanishes_between_two_saves_is_said_loudly(tmp_path: Path):
    storage = TorchCheckpointIO()
    folder = tmp_path / "run"
    storage.save_checkpoint({}, folder / "a.ckpt")
    os.remove(folder / "a.ckpt")
    os.rmdir(folder)
    with pytest.warns(LeydenWarning, match=r"run' was deleted while the run went on"):
        storage.save_checkpoint({"epoch": 2}, folder / "b.ckpt")
    assert storage.load_checkpoint(folder / "b.ckpt") == {"epoch": 2}
