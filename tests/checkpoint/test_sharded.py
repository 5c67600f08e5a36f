"""Sharded checkpoints: folders that many processes write, verified when read, and kept as files are."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING
from warm_python import python

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.checkpoint import replacing, sharded, shards
from leyden.checkpoint.durable import Disk, beside_of, clean_leftovers
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.folders import duplicate_folder, read_manifest
from leyden.checkpoint.store import FileStore
from leyden.cli.console import main
from leyden.errors import (
    CheckpointDamaged,
    CheckpointForeign,
    CheckpointMissing,
    CheckpointWriteFailed,
    InvalidOption,
    InvalidType,
    LeydenError,
    Unsupported,
)
from leyden.plugins import AsyncCheckpointIO, ShardedCheckpointIO
from leyden.testing import random_batches


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.again = self.layers[2]  # tied: the same tensors by another name

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.layers(batch).pow(2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


def of(io: str | None) -> Any:
    return {None: None, "sharded": ShardedCheckpointIO(), "async": AsyncCheckpointIO(ShardedCheckpointIO())}[io]


def trained(world: int, io: str | None, steps: int, ckpt_path: str | None, *callbacks: Any, **options: Any) -> leyden.Trainer:
    torch.manual_seed(1)
    run = kit.trainer(
        *callbacks,
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        plugins=of(io),
        **{"max_steps": steps, "max_epochs": -1, "enable_checkpointing": bool(callbacks), **options},
    )
    run.fit(Net(), random_batches(4, 4), ckpt_path=ckpt_path)
    return run


def state_of(run: leyden.Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return kit.weights(run.lightning_module), run.optimizers[0].state_dict()


def hop(world: int, io: str | None, steps: int, ckpt_path: str | None, path: str) -> Any:
    """The state that was loaded, before a step was made, and the state after; the latter is in ``path``."""
    loaded: list[Any] = []
    note = leyden.testing.Recorder(on_train_start=lambda run, _: loaded.append(pickle.loads(pickle.dumps(state_of(run)))))
    run = trained(world, io, steps, ckpt_path, note)
    run.save_checkpoint(path)
    run.strategy.checkpoint_io.teardown()
    return loaded[0], state_of(run)


def run_of(world: int, *arguments: Any) -> Any:
    return together(world, hop, world, *arguments)[0] if world > 1 else hop(world, *arguments)


def test_it_resumes_on_any_number_of_processes_from_folders_and_files(tmp_path: Path) -> None:
    before, source = None, None
    steps = ((1, "sharded"), (2, "async"), (4, "sharded"), (2, None), (2, "sharded"), (1, None), (1, "async"))
    for number, (world, io) in enumerate(steps):
        path = str(tmp_path / f"{number}.ckpt")
        loaded, after = run_of(world, io, 2 * number + 2, source, path)
        assert os.path.isdir(path) is (io is not None)
        assert before is None or kit.same(loaded, before), f"{world} processes read what was saved"
        before, source = after, path
    assert read_manifest(str(tmp_path / "2.ckpt")).world == 4


def kept(folder: str, io: str) -> Any:
    def saves() -> ModelCheckpoint:
        return ModelCheckpoint(folder, "{step}", monitor="loss", save_top_k=2, every_n_train_steps=1, save_last="link")

    first = saves()
    run = trained(2, io, 6, None, first)
    there, best = sorted(os.listdir(folder)), os.path.basename(first.best_model_path)
    run.strategy.barrier()
    if run.is_global_zero:
        Path(folder, "last.ckpt", ".metadata").write_bytes(b"no table")
    run.strategy.barrier()
    again = trained(2, io, 8, "last", saves())
    return there, best, state_of(again), str(again.ckpt_path), state_of(trained(2, io, 8, None))


@pytest.mark.parametrize("io", ["sharded", "async"])
def test_model_checkpoint_keeps_removes_and_finds_folders(io: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    names, best, again, found, whole = together(2, kept, str(folder), io)[0]
    assert names == ["last.ckpt", "step=5.ckpt", "step=6.ckpt"], "two of the best, and nothing is left over"
    assert best == "step=6.ckpt"
    assert found == str(folder / "step=6.ckpt"), "the last is damaged"
    now = sorted(os.listdir(folder))
    assert now[:2] == ["last.ckpt", "last.ckpt.damaged"]
    assert len(now) == 4
    assert kit.same(again, whole)
    assert trained(1, io, 9, str(folder / "last.ckpt")).global_step == 9


def differing(path: str) -> None:
    rank, processes = int(os.environ["RANK"]), 2
    strategy = kit.trainer(devices=processes, strategy="ddp", plugins=ShardedCheckpointIO()).strategy
    strategy.processes.launched(lambda: None)()
    own = torch.zeros(2, 40000)
    own[rank, 5] = 1.0  # the same numbers in other places
    alike = torch.arange(80000.0)
    strategy.save_checkpoint({"state_dict": {"own": own, "alike": alike, "small": torch.tensor(rank)}}, path)


def test_of_what_differs_the_first_process_counts_and_what_is_alike_is_shared_out(tmp_path: Path) -> None:
    together(2, differing, str(tmp_path / "a.ckpt"))
    state = TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert state["own"][0, 5] == 1.0
    assert state["own"][1, 5] == 0.0
    assert state["small"] == 0
    assert torch.equal(state["alike"], torch.arange(80000.0))
    assert (tmp_path / "a.ckpt" / "__1_0.distcp").stat().st_size > 300000


def sharded_module(path: str) -> dict[str, Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    strategy = kit.trainer(devices=2, strategy="ddp", plugins=of("async")).strategy
    strategy.processes.launched(lambda: None)()
    torch.manual_seed(1)
    module = nn.Linear(5, 3)
    plain = {name: value.detach().clone() for name, value in module.state_dict().items()}
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 5)).sum().backward()
    optimizer.zero_grad()
    strategy.save_checkpoint({"state_dict": module.state_dict(), "averaged": [module.weight]}, path)
    with torch.no_grad():
        module.weight.mul_(2)  # after the copy was taken
    strategy.checkpoint_io.teardown()
    return plain


def test_shards_are_put_together_wherever_they_stand(tmp_path: Path) -> None:
    plain = together(2, sharded_module, str(tmp_path / "a.ckpt"))[0]
    found = TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")
    assert kit.same(found["state_dict"], plain)
    assert torch.equal(found["averaged"][0], plain["weight"])


class Full(Disk):
    """Fails when the named file is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, path: str) -> Any:
        if self.name in path:
            raise OSError(28, "No space left on device", path)
        return super().open(path)


def failing(path: str, name: str) -> str:
    strategy = kit.trainer(devices=2, strategy="ddp").strategy
    strategy.processes.launched(lambda: None)()
    content = {"state_dict": {"a": torch.ones(1000), "b": torch.zeros(1000)}}
    with pytest.raises(CheckpointWriteFailed) as raised:
        shards.write_folder(content, path, shards.group_of_all(), Full(name))
    return str(raised.value)


@pytest.mark.parametrize("name", ["__1_0.distcp", "meta.pt"])
def test_a_full_disk_on_one_process_is_told_on_all_and_the_old_stays(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    shards.write_folder({"state_dict": {"a": torch.tensor([7.0])}}, path)
    texts = together(2, failing, path, name)
    assert all("a.ckpt' could not be written: No space left on device" in text for text in texts)
    assert ("(process 1)" in texts[0]) is (name == "__1_0.distcp")
    assert TorchCheckpointIO().load_checkpoint(path)["state_dict"] == {"a": torch.tensor([7.0])}
    assert os.listdir(tmp_path) == ["a.ckpt"]


class Noting(Disk):
    """Notes what is synced and renamed, and fails when the named file is synced."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.synced, self.before = fails, set(), set()

    def sync_file(self, file: Any) -> None:
        if os.path.basename(file.name) == self.fails:
            raise OSError(5, "Input/output error", file.name)
        super().sync_file(file)
        self.synced.add(os.path.basename(file.name))

    def sync_folder(self, folder: str) -> None:
        super().sync_folder(folder)
        self.synced.add("the folder")

    def replace(self, source: str, target: str) -> None:
        self.before = set(self.synced)
        super().replace(source, target)


def test_all_of_a_folder_is_on_the_disk_before_it_gets_its_name(tmp_path: Path) -> None:
    path, small = str(tmp_path / "a.ckpt"), {".metadata", "meta.pt", "manifest.json"}
    disk = Noting()
    shards.write_folder({"state_dict": {"a": torch.ones(3)}}, path, None, disk)
    assert disk.before == {*small, "the folder"}  # PyTorch syncs the tensors' file itself
    for name in small:
        with pytest.raises(CheckpointWriteFailed, match="Input/output error"):
            shards.write_folder({"state_dict": {"a": torch.zeros(3)}}, path, None, Noting(name))
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert torch.equal(shards.read_folder(path)["state_dict"]["a"], torch.ones(3))


# -- one process
CONTENT: dict[str, Any] = {
    "state_dict": {
        "weight": torch.arange(600.0).view(20, 30),
        "count": torch.tensor(3),
        "half": torch.ones(4, dtype=torch.bfloat16),
    },
    "optimizer_states": [
        {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(20, 30)}}, "param_groups": [{"lr": 0.1}]}
    ],
    "epoch": 3,
    "leyden": {"rows": (1, [torch.zeros(2)])},
}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    path = str(tmp_path / "a.ckpt")
    ShardedCheckpointIO().save_checkpoint(CONTENT, path)
    return path


def test_what_was_written_comes_back(folder: str) -> None:
    assert kit.same(ShardedCheckpointIO().load_checkpoint(folder), CONTENT)
    assert TorchCheckpointIO().load_checkpoint(folder, "meta")["state_dict"]["weight"].is_meta
    moved = TorchCheckpointIO().load_checkpoint(folder, lambda storage, place: storage)
    assert kit.same(moved, CONTENT)
    ShardedCheckpointIO().remove_checkpoint(folder)
    ShardedCheckpointIO().remove_checkpoint(folder)
    assert os.listdir(os.path.dirname(folder)) == []


def test_every_bit_is_checked(folder: str) -> None:
    for name in sorted(os.listdir(folder)):
        path = Path(folder, name)
        content = path.read_bytes()
        for place in range(0, len(content), len(content) // 20 + 1):
            changed = bytearray(content)
            changed[place] ^= 4
            path.write_bytes(changed)
            with pytest.raises(CheckpointDamaged, match=rf"{name.replace('.', '[.]')}"):
                TorchCheckpointIO().load_checkpoint(folder)
        path.write_bytes(content[:-1])
        with pytest.raises(CheckpointDamaged, match=r"bytes and was written with|was changed"):
            TorchCheckpointIO().load_checkpoint(folder)
        path.unlink()
        with pytest.raises(CheckpointDamaged, match=f"{name}.*is missing|{name} is missing"):
            TorchCheckpointIO().load_checkpoint(folder)
        path.write_bytes(content)
    TorchCheckpointIO().load_checkpoint(folder)


def rewrite(folder: str, change: Callable[[dict[str, Any]], None]) -> None:
    """A manifest as an attacker would write it: of sizes and checksums that are right."""
    content = json.loads(Path(folder, "manifest.json").read_text())
    del content["checksum"]
    for name in content["files"]:
        there = Path(folder, name).read_bytes()
        content["files"][name] = {"size": len(there), "crc32": zlib.crc32(there)}
    change(content)
    content["checksum"] = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    Path(folder, "manifest.json").write_text(json.dumps(content))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("code_was_run",)


def test_no_code_runs_when_the_table_of_tensors_is_read(folder: str) -> None:
    Path(folder, ".metadata").write_bytes(pickle.dumps(Evil()))
    rewrite(folder, lambda content: None)
    with pytest.raises(CheckpointForeign, match=r"reading it would run code: it names \w+\.mkdir"):
        TorchCheckpointIO().load_checkpoint(folder)
    assert not os.path.exists("code_was_run")


class Member:
    """What Python 3.11.2, which is Debian's, writes of a member of an enum; torch has one for the layout of a tensor."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> Any:
        return getattr, (self.owner, self.name)


def test_a_table_of_tensors_that_the_first_pythons_3_11_wrote(folder: str) -> None:
    whole = TorchCheckpointIO().load_checkpoint(folder)
    table = Path(folder, ".metadata")

    def written_with(owner: Any, name: str) -> None:
        with table.open("rb") as file:
            metadata = pickle.load(file)
        metadata.planner_data = {"a layout": Member(owner, name)}
        table.write_bytes(pickle.dumps(metadata))
        rewrite(folder, lambda content: None)

    written_with(_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")
    assert kit.same(TorchCheckpointIO().load_checkpoint(folder), whole)
    written_with(torch.Size, "numel")  # that enum's members are all that it may ask for
    with pytest.raises(CheckpointForeign, match="reading it would run code: it names 'numel' of"):
        TorchCheckpointIO().load_checkpoint(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "C:\\x", ".."])
def test_a_path_that_leaves_the_folder_is_refused(folder: str, name: str) -> None:
    rewrite(folder, lambda content: content["files"].update({name: {"size": 1, "crc32": 1}}))
    with pytest.raises(CheckpointDamaged, match="which is not in the folder"):
        TorchCheckpointIO().load_checkpoint(folder)


def changed_table(folder: str, change: Callable[[Any], None]) -> None:
    with open(os.path.join(folder, ".metadata"), "rb") as file:
        table = pickle.load(file)
    change(table)
    with open(os.path.join(folder, ".metadata"), "wb") as file:
        pickle.dump(table, file)
    rewrite(folder, lambda content: None)


def test_a_table_that_reads_elsewhere_or_asks_for_too_much_is_refused(folder: str, tmp_path: Path) -> None:
    def leave(table: Any) -> None:
        for place in table.storage_data.values():
            place.relative_path = "../x"

    def swell(table: Any) -> None:
        for described in table.state_dict_metadata.values():
            described.size = torch.Size([1 << 40])

    whole = Path(folder, ".metadata").read_bytes()
    for change, said in ((leave, "reads from '../x'"), (swell, "has the shape")):
        changed_table(folder, change)
        with pytest.raises(CheckpointDamaged, match=said):
            TorchCheckpointIO().load_checkpoint(folder)
        Path(folder, ".metadata").write_bytes(whole)
    rewrite(folder, lambda content: None)
    os.rename(os.path.join(folder, "meta.pt"), tmp_path / "meta.pt")
    os.symlink(tmp_path / "meta.pt", os.path.join(folder, "meta.pt"))
    with pytest.raises(CheckpointDamaged, match="no file of its own"):
        TorchCheckpointIO().load_checkpoint(folder)


def test_folders_that_are_none(folder: str, tmp_path: Path) -> None:
    os.mkdir(tmp_path / "other")
    with pytest.raises(CheckpointForeign, match=r"is a folder\. Expected"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "other")
    with pytest.raises(CheckpointMissing):
        read_manifest(str(tmp_path / "nothing"))
    rewrite(folder, lambda content: content["files"].pop("meta.pt"))
    with pytest.raises(CheckpointDamaged, match=r"does not name meta\.pt"):
        read_manifest(folder)
    rewrite(folder, lambda content: content.update(format=9))
    with pytest.raises(CheckpointForeign, match="in folder format 9, and this version"):
        TorchCheckpointIO().load_checkpoint(folder)


@pytest.mark.parametrize("exchange", [True, False])
def test_folders_take_the_place_of_files_and_files_of_folders(
    exchange: bool, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not exchange:
        monkeypatch.setattr(replacing, "_exchanged", lambda source, target: False)
    for number, io in enumerate((TorchCheckpointIO(), ShardedCheckpointIO(), ShardedCheckpointIO(), TorchCheckpointIO())):
        io.save_checkpoint({**CONTENT, "epoch": number}, folder)
        assert TorchCheckpointIO().load_checkpoint(folder)["epoch"] == number
    other = str(tmp_path / "b.ckpt")
    ShardedCheckpointIO().save_checkpoint(CONTENT, other)
    store = FileStore()
    assert store.duplicate(folder, other)
    assert os.path.isfile(other)
    ShardedCheckpointIO().save_checkpoint(CONTENT, folder)
    assert store.duplicate(folder, other)
    assert kit.same(TorchCheckpointIO().load_checkpoint(other), CONTENT)
    assert os.stat(os.path.join(other, "meta.pt")).st_ino == os.stat(os.path.join(folder, "meta.pt")).st_ino
    store.remove(other)
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert store.quarantine(folder) == folder + ".damaged"


def test_what_a_crash_leaves_is_cleaned_or_given_back(folder: str, tmp_path: Path) -> None:
    left = beside_of(str(tmp_path / "c.ckpt"))
    shutil.copytree(folder, left)
    os.rename(folder, replacing.replaced_name(folder))  # between the two renames of a system that cannot exchange names
    assert clean_leftovers(tmp_path) == [left]
    assert kit.same(TorchCheckpointIO().load_checkpoint(folder), CONTENT)
    shutil.copytree(folder, replacing.replaced_name(folder))
    clean_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_failed_copy_leaves_what_was_there(folder: str, tmp_path: Path) -> None:
    class Broken(Disk):
        def sync_folder(self, path: str) -> None:
            raise OSError(5, "Input/output error")

    with pytest.raises(CheckpointWriteFailed, match="Input/output error"):
        duplicate_folder(folder, str(tmp_path / "b.ckpt"), Broken())
    assert os.listdir(tmp_path) == ["a.ckpt"]
    duplicate_folder(folder, folder)


def test_what_cannot_be_written_sharded_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="needs a folder that all processes see"):
        ShardedCheckpointIO().save_checkpoint(CONTENT, "memory://a.ckpt")
    run = trained(1, "sharded", 1, None)
    with pytest.raises(InvalidType, match="storage_options"):
        run.save_checkpoint(tmp_path / "a.ckpt", storage_options={})


def test_a_folder_becomes_one_file(folder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["consolidate", folder]) == 0
    assert kit.same(torch.load(folder + ".consolidated", weights_only=True), CONTENT)
    assert capsys.readouterr().out == folder + ".consolidated\n"
    assert main(["consolidate", folder, "--output", str(tmp_path / "one.ckpt")]) == 0
    assert main(["consolidate", folder]) == 1
    assert "at which there is nothing yet" in capsys.readouterr().err
    assert main(["consolidate", str(tmp_path / "one.ckpt")]) == 1
    assert "is a file" in capsys.readouterr().err
    assert main(["inspect", folder, str(tmp_path / "one.ckpt")]) == 0
    both = capsys.readouterr().out
    assert "in 3 files, sharded by 1 processes, undamaged" in both
    assert both.count("3 tensors, 605 numbers (bfloat16, float32, int64)") == 2
    assert sharded.main([folder, "--output_file", str(tmp_path / "two.ckpt")]) == 0
    assert sharded.main([folder, "--output_file", str(tmp_path / "two.ckpt")]) == 1
    with pytest.raises(InvalidOption):
        sharded.consolidate(folder)


def test_the_module_that_consolidates_can_be_run(folder: str) -> None:
    paths = os.pathsep.join([str(Path(leyden.__file__).parents[1])])
    done = python("-m", "leyden.utilities.consolidate_checkpoint", folder, environment={**os.environ, "PYTHONPATH": paths})
    assert done.stdout == folder + ".consolidated\n", done.stderr


def test_weights_alone_are_loaded_from_a_folder(tmp_path: Path) -> None:
    run = trained(1, "sharded", 2, None)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    loaded = Net.load_from_checkpoint(tmp_path / "a.ckpt")
    assert kit.same(kit.weights(loaded), kit.weights(run.lightning_module))
    with pytest.raises(LeydenError, match="holds weights only"):
        trained(1, None, 3, str(tmp_path / "a.ckpt"))
