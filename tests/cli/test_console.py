"""The command ``leyden``: what it prints of checkpoints and machines, and the code it ends with."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from warm_python import python

import leyden
from leyden.callbacks import EarlyStopping
from leyden.cli.console import main
from leyden.testing import BoringDataModule, BoringModel


class Named(BoringModel):
    def __init__(self, width: int = 3, name: str = "net", where: Path = Path("x")) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("numbers", torch.arange(width))


@pytest.fixture
def checkpoint(own_folder: Path) -> str:
    run = kit.trainer(EarlyStopping("x", patience=3), max_steps=2, limit_val_batches=1)
    run.fit(Named(width=5), datamodule=BoringDataModule())
    run.save_checkpoint("a.ckpt")
    return "a.ckpt"


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(words) == code
    said = capsys.readouterr()
    if code:
        assert len(said.err.strip().splitlines()) == 1, said.err
    return said.out + said.err


def test_what_stands_in_a_checkpoint(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "inspect", checkpoint)
    assert "a.ckpt, " in told.splitlines()[0]
    assert "undamaged: every checksum is right" in told
    assert f"written by        leyden {leyden.__version__}" in told
    assert "step 2, epoch 0 (counted from 0), of which 2 batches are done" in told
    assert "3 tensors, 71 numbers (float32, int64), 304 bytes" in told
    assert "EarlyStopping{'monitor': 'x'" in told
    assert "fit_loop, validate_loop" in told
    assert "hyper-parameters  width = 5" in told
    assert "where = PosixPath('x')" in told
    assert "exact resume" in told
    assert "layer.weight" not in told
    weights = shown(capsys, "inspect", "--weights", checkpoint)
    assert "(2, 32) float32" in weights


def test_what_foreign_files_hold(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"epoch": 3, "global_step": 40, "pytorch-lightning_version": "1.9.5", "state_dict": {"w": torch.ones(4)}}
    torch.save(content, "foreign.ckpt")
    told = shown(capsys, "inspect", "foreign.ckpt")
    assert "Lightning 1.9.5 (foreign to leyden, which reads it)" in told
    assert "step 40, epoch 3 (counted from 0)" in told
    assert "none: it holds weights only" in told
    torch.save({**content, "hyper_parameters": {"thing": Evil()}}, "code.ckpt")
    told = shown(capsys, "inspect", "code.ckpt", code=1)
    assert "Lightning 1.9.5" in told
    assert "reading them would run code" in told
    assert not Path("made").exists()


class Evil:
    def __reduce__(self) -> Any:
        return (open, ("made", "w"))


def test_what_is_wrong_with_a_file(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(checkpoint).read_bytes()
    at = data.index(torch.load(checkpoint)["state_dict"]["layer.weight"].numpy().tobytes()[:16])
    Path("flipped.ckpt").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert "'flipped.ckpt' is damaged: the checksum of its record" in shown(capsys, "inspect", "flipped.ckpt", code=1)
    Path("cut.ckpt").write_bytes(data[: len(data) // 2])
    assert "is truncated or damaged" in shown(capsys, "inspect", "cut.ckpt", code=1)
    Path("text.ckpt").write_text("no checkpoint at all, but a text")
    assert "is no checkpoint: it was not written by torch.save" in shown(capsys, "inspect", "text.ckpt", code=1)
    Path("short.ckpt").write_text("hello")
    assert "is no checkpoint: it was not written by torch.save" in shown(capsys, "inspect", "short.ckpt", code=1)
    Path("empty.ckpt").touch()
    assert "'empty.ckpt' is empty: if it is a checkpoint, its writing failed" in shown(capsys, "inspect", "empty.ckpt", code=1)
    Path("pickle.ckpt").write_bytes(pickle.dumps(list(range(99))))
    assert "is no checkpoint" in shown(capsys, "inspect", "pickle.ckpt", code=1)
    torch.save({"weight": torch.ones(2)}, "weights.pt")
    assert "it has no 'state_dict'. It holds 'weight'" in shown(capsys, "inspect", "weights.pt", code=1)
    torch.save([1, 2], "list.pt")
    assert "list" in shown(capsys, "inspect", "list.pt", code=1)
    assert "There is no checkpoint at" in shown(capsys, "inspect", "nowhere.ckpt", code=1)
    assert "is a folder" in shown(capsys, "inspect", ".", code=1)
    both = main(["inspect", "nowhere.ckpt", checkpoint])
    assert both == 1
    assert "hyper-parameters" in capsys.readouterr().out


def test_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    told = shown(capsys, "env")
    for name, value in (("leyden", leyden.__version__), ("torch", torch.__version__), ("OMP_NUM_THREADS", "7")):
        assert f"{name:<18}{value}" in told
    for name in ("python", "system", "processor", "cuda"):
        assert f"\n{name} " in told
    assert "secret" not in told


def test_the_demonstration(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--max_epochs=2", "--folder=seen"]) == 1  # two epochs are not enough
    told = capsys.readouterr().out
    assert "Test accuracy" in told
    assert "(wanted: 0.95)" in told
    best = next(line for line in told.splitlines() if line.startswith("What is in it")).rpartition(" ")[2]
    assert main(["inspect", best]) == 0
    assert [path.name for path in own_folder.iterdir()] == ["seen"]


def test_as_a_program(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = python("-m", "leyden", "inspect", "none.ckpt")
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no checkpoint at 'none.ckpt'" in done.stderr
    with pytest.raises(SystemExit) as end:
        main(["inspekt"])
    assert end.value.code == 2
    assert "inspect" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"leyden {leyden.__version__}\n"
