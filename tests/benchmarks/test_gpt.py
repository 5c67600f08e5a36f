"""The benchmark of the GPT: both of its sides train the same model to the same bits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from gpt import RUNS, Clock, by_hand, run_here, with_leyden


def task(**changed: Any) -> argparse.Namespace:
    shape = {"layers": 1, "heads": 2, "width": 16, "context": 16, "batch_size": 4, "most": 20000}
    return argparse.Namespace(**{"steps": 3, "warm": 1, "device": "cpu", "read": "seconds", **shape, **changed})


def test_both_sides_train_the_same_model(capsys: pytest.CaptureFixture[str]) -> None:
    for bf16 in (False, True):
        clock, later = Clock(task()), Clock(task(steps=4))  # a fit takes the step that it is in to its end
        leyden = with_leyden(clock.tick, task(), compiled=False, bf16=bf16)
        hand = next(model for model in by_hand(task(), compiled=False, bf16=bf16) if later.tick())
        assert kit.same(kit.weights(hand), kit.weights(leyden))
        assert clock.seen["seconds"] > 0


def test_both_sides_in_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # those of the process stay
    run_here(task(run="leyden-eager-fp32", steps=16, warm=4, read="pairs", result=tmp_path / "result.json"))
    pairs = json.loads((tmp_path / "result.json").read_text())["pairs"]
    assert len(pairs) >= 3
    assert all(ours > 0 and by_hand > 0 for ours, by_hand in pairs)


def test_a_run_leaves_what_was_read(tmp_path: Path) -> None:
    assert len(RUNS) == 8
    run_here(task(run="bare-eager-fp32", result=tmp_path / "result.json"))
    assert json.loads((tmp_path / "result.json").read_text())["seconds"] > 0
