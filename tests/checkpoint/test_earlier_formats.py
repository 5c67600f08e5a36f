"""Files of leyden 0.1.0 go on here; one of a format that is not known yet is refused by name."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

import leyden
from leyden.checkpoint.layout import FORMAT
from leyden.errors import CheckpointForeign
from leyden.testing import BoringModel, Recorder, random_batches

DATA = Path(__file__).parent / "data"
RUNS = DATA / "leyden-0.1.0-runs"  # made by the program beside it
FILES = sorted(path.name for path in RUNS.glob("*.ckpt"))
QUIET = {**kit.QUIET, "max_epochs": 1}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return runpy.run_path(str(DATA / "make_leyden_runs.py"))


@pytest.fixture(scope="module")
def draws_as_then() -> None:
    torch.manual_seed(5)
    if torch.nn.functional.dropout(torch.ones(8)).tolist() != [0, 2, 2, 2, 2, 0, 0, 0]:
        pytest.skip(f"torch {torch.__version__} drops out other numbers than torch 2.13, with which these runs were made")


@pytest.mark.usefixtures("draws_as_then")
@pytest.mark.parametrize("name", FILES)
def test_a_run_of_0_1_0_ends_here_as_there(name: str, job: dict[str, Any]) -> None:
    leyden.seed_everything(99)
    net, recorder = job["Net"](), Recorder()
    trainer = leyden.Trainer(**{**job["OPTIONS"], "enable_checkpointing": False}, callbacks=[recorder])
    trainer.fit(net, *job["loaders"](), ckpt_path=RUNS / name)
    ended = torch.load(RUNS / "end.pt", weights_only=True)
    mine = net.state_dict()
    assert all(torch.allclose(mine[key], ended[key], rtol=1e-5, atol=1e-6) for key in ended), "but for another processor's digits"
    assert (trainer.current_epoch, trainer.global_step) == (2, 8)
    batches, place = name.removesuffix(".ckpt").split("-", 1)
    done = int(batches)
    assert recorder.names.count("on_train_batch_start") == 14 - done
    due = [2, 4, 6, 9, 11, 13]
    left = [count for count in due if count > done or (count == done and place in ("batch-end", "in-validation"))]
    assert recorder.names.count("on_validation_start") == len(left)
    assert recorder.names.count("on_train_epoch_start") == (1 if done <= 7 else 0)


def test_there_are_files_of_every_place() -> None:
    assert {name.removesuffix(".ckpt").split("-", 1)[1] for name in FILES} == {
        *("batch-end", "validation-end", "epoch-end", "in-validation"),
    }


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_later_format_is_refused_by_name(verb: str, tmp_path: Path) -> None:
    trainer = leyden.Trainer(**QUIET)
    trainer.fit(BoringModel(), random_batches(2), random_batches(2))
    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert content["leyden"]["format"] == FORMAT
    content["leyden"].update(format=FORMAT + 1, version="9.9.0")
    torch.save(content, path)
    refused = rf"written by leyden 9.9.0 in format {FORMAT + 1}.*reads formats up to {FORMAT}"
    run, loaders = getattr(leyden.Trainer(**QUIET), verb), [random_batches(2)] * (2 if verb == "fit" else 1)
    with pytest.raises(CheckpointForeign, match=refused):
        run(BoringModel(), *loaders, ckpt_path=path)
    BoringModel.load_from_checkpoint(path)  # weights stand where they always have
