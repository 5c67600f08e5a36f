"""A file that says what cannot be true is refused by an error that names it, without the memory that it asks for."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.format import decode_file
from leyden.errors import CheckpointDamaged, CheckpointForeign, LeydenError
from leyden.testing import BoringModel, Recorder

# -- crafted


def marked(**more: Any) -> dict[str, Any]:
    return {"__leyden__": "array", "dtype": "<f8", "shape": [1], "data": torch.zeros(8, dtype=torch.uint8), **more}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"__leyden__": "set", "items": [value]}
    return value


VALUES = {
    "a shape without data": marked(shape=[10**13], data=torch.empty(0, dtype=torch.uint8)),
    "a shape of more than the data": marked(shape=[2]),
    "a negative shape": marked(shape=[-1]),
    "many elements of no size": marked(dtype="<U0", shape=[10**13]),
    "many marks": nested(3000),
    "many lists": None,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "whole.ckpt"
    kit.trainer(Recorder(on_train_end=lambda run, *_: run.save_checkpoint(path))).fit(kit.Tiny(), kit.ones(3))
    return path


def refused(path: Path) -> None:
    """By every way in which a file is read, by name, and for little memory."""
    tracemalloc.start()
    try:
        for read in (
            lambda: kit.trainer(max_epochs=2).fit(kit.Tiny(), kit.ones(3), ckpt_path=path),
            lambda: kit.trainer().validate(kit.Tiny(), kit.ones(3), ckpt_path=path),
            lambda: kit.Tiny.load_from_checkpoint(path),
        ):
            with pytest.raises(LeydenError, match=path.name):
                read()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_cannot_be(kind: str, whole: Path, tmp_path: Path) -> None:
    content = torch.load(whole, weights_only=True)
    value = VALUES[kind]
    if value is None:
        for _ in range(3000):
            value = [value]
    content["hyper_parameters"] = {"x": value}
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)  # writing it needs it, reading may not
    torch.save(content, tmp_path / "bad.ckpt")
    sys.setrecursionlimit(limit)
    kit.Tiny.validation_step = lambda self, batch, batch_idx: None  # type: ignore[method-assign]  # it never comes to it
    try:
        refused(tmp_path / "bad.ckpt")
    finally:
        del kit.Tiny.validation_step  # type: ignore[method-assign]


def records(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        return [(info.filename, file.read(info)) for info in file.infolist()]


def write(path: Path, content: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in content:
            file.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("extra", ["whole/data.pkl", "/etc/passwd", "whole/../../x", "C:\\x", "\\\\host\\x"])
def test_names_that_no_writer_gives(extra: str, whole: Path, tmp_path: Path) -> None:
    content = [(name.replace("archive/", "whole/"), data) for name, data in records(whole)]
    TorchCheckpointIO().load_checkpoint(write(tmp_path / "good.ckpt", content))
    with pytest.raises(CheckpointDamaged, match=r"bad\.ckpt"):
        TorchCheckpointIO().load_checkpoint(write(tmp_path / "bad.ckpt", [*content, (extra, b"x")]))


def test_a_bomb(whole: Path, tmp_path: Path) -> None:
    content = [*records(whole), ("archive/data/99", bytes(200 << 20))]
    path = write(tmp_path / "bad.ckpt", content, zipfile.ZIP_DEFLATED)
    del content
    tracemalloc.start()
    with pytest.raises(CheckpointDamaged, match=r"bad\.ckpt.*would be unpacked"):
        TorchCheckpointIO().load_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    TorchCheckpointIO().load_checkpoint(write(tmp_path / "small.ckpt", records(whole), zipfile.ZIP_DEFLATED))


class Claims:
    """A tensor that says it has more than its storage holds."""

    def __init__(self, size: Any, stride: Any, kind: Any = torch._utils._rebuild_tensor_v2) -> None:
        self.size, self.stride, self.kind = size, stride, kind

    def __reduce__(self) -> Any:
        return self.kind, (torch.zeros(4).storage(), 0, self.size, self.stride, False, {})


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("size", "stride"), [((10**13,), (1,)), ((-1,), (1,)), ((2, 2), (1, 10**9)), ((5,), (1,)), ((2,), (1, 1))]
)
def test_tensors_that_their_storage_cannot_hold(size: Any, stride: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "x": Claims(size, stride)}, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointDamaged, match=r"bad\.ckpt.*shape"):
        TorchCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt")


def test_a_storage_larger_than_its_record(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "x": torch.zeros(77)}, buffer)
    (tmp_path / "whole").write_bytes(buffer.getvalue())
    content = [(name, data[:40] if name.endswith("data/0") else data) for name, data in records(tmp_path / "whole")]
    with pytest.raises(CheckpointDamaged, match=r"bad\.ckpt.*holds 40 bytes, and a storage of 308 is asked for"):
        TorchCheckpointIO().load_checkpoint(write(tmp_path / "bad.ckpt", content))


def test_a_fraction_is_not_multiplied_out() -> None:
    assert isinstance(decode_file({"__leyden__": "fraction", "text": "1e999999999"}, "f"), object)


# -- sound, and of wrong types


class Stepping(kit.Net):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.own = torch.Generator()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


def loader() -> DataLoader[Any]:
    return DataLoader(torch.arange(40.0).reshape(10, 4), batch_size=2, shuffle=True)  # type: ignore[arg-type]  # any sequence


def trainer(*callbacks: Any) -> leyden.Trainer:
    mine = [ModelCheckpoint("kept", monitor="val_loss", save_last=True, save_top_k=2), EarlyStopping("val_loss", patience=100)]
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "num_sanity_val_steps": 0, "val_check_interval": 2}
    return kit.trainer(*mine, Timer("01:00:00:00"), *callbacks, enable_checkpointing=None, **options)


MOMENTS = ("on_train_batch_end", "on_before_optimizer_step", "on_validation_batch_end")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Checkpoints of different moments."""
    folder = tmp_path_factory.mktemp("moments")
    before = os.getcwd()
    os.chdir(folder)

    def saves(moment: str) -> Recorder:
        def save(run: Any, *_: Any) -> None:
            if run.leyden_fit.progress.batches >= 6 and not os.path.exists(moment):
                run.save_checkpoint(moment)

        return Recorder(**{moment: save})

    trainer(*map(saves, MOMENTS)).fit(Stepping(), loader(), loader())
    os.chdir(before)
    return [torch.load(folder / moment, weights_only=True) for moment in MOMENTS]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path and path[0] != "loops":  # Lightning's, which nobody reads in ours
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list | tuple) and len(value) < 30:
        for index, item in enumerate(value):
            yield from paths(item, (*path, index))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return type(value)((key, put(item, path[1:], new) if key == path[0] else item) for key, item in value.items())
    return type(value)(put(item, path[1:], new) if index == path[0] else item for index, item in enumerate(value))


WRONG = ["x", -1, 1.5, [], {}, [1], {"a": 1}, float("nan"), torch.zeros(2)]
VERBS = ("fit", "validate", "load")


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_was_changed_is_read_or_refused_by_name(verb: str, files: list[dict[str, Any]], data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(files))
    # numbers that are of the right kind and mean something else are another matter
    where = [path for path in paths(content) if not {"param_groups", "lr_schedulers", "asked"} & set(path)]
    path, wrong = data.draw(st.sampled_from(where)), data.draw(st.sampled_from(WRONG))
    torch.save(put(content, path, wrong), "changed.ckpt")
    assert "changed.ckpt" in refusal(verb)


def refusal(verb: str) -> str:
    """What the error says; where there is none, the name of the file."""
    try:
        if verb == "fit":
            trainer().fit(Stepping(), loader(), loader(), ckpt_path="changed.ckpt")
        elif verb == "validate":
            trainer().validate(Stepping(), loader(), ckpt_path="changed.ckpt")
        else:
            Stepping.load_from_checkpoint("changed.ckpt")
    except LeydenError as error:
        return str(error)
    return "changed.ckpt"


@pytest.mark.parametrize("path", [("progress", "batch"), ("history",), ("processes", 0, "random", "torch")])
def test_last_goes_on_from_the_next_good_one(path: tuple[Any, ...]) -> None:
    def run(*more: Any) -> leyden.Trainer:
        return kit.trainer(ModelCheckpoint("kept", "{step}", save_top_k=-1), *more, enable_checkpointing=None, max_epochs=3)

    run().fit(kit.Tiny(), kit.ones(4))
    content = torch.load("kept/step=12.ckpt", weights_only=True)
    torch.save(put(content, ("leyden", *path), "x"), "kept/step=12.ckpt")
    again = run()
    with pytest.warns(leyden.errors.LeydenWarning, match=r"step=12\.ckpt' is damaged: its leyden.*It was moved to"):
        again.fit(kit.Tiny(), kit.ones(4), ckpt_path="last")
    assert str(again.ckpt_path).endswith("step=8.ckpt")


def test_nothing_is_a_checkpoint_that_is_not_there() -> None:
    with pytest.raises(leyden.errors.CheckpointMissing) as raised:
        kit.Tiny.load_from_checkpoint("nowhere")
    assert raised.value.__suppress_context__


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "pipe.ckpt", "/dev/null"):
        with pytest.raises(CheckpointForeign, match="is a pipe or a device"):
            kit.trainer().fit(BoringModel(), ckpt_path=path)
