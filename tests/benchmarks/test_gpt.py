"""The benchmark of the GPT: both of its sides train the same model to the same bits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import kit
import pytest
from gpt import RUNS, Clock, by_hand, run_here, with_leyden


def task(**changed: Any) -> argparse.Namespace:
    shape = {"layers": 1, "heads": 2, "width": 16, "context": 16, "batch_size": 4, "most": 20000}
    return argparse.Namespace(**{"steps": 3, "warm": 1, "device": "cpu", "read": "seconds", **shape, **changed})


def test_both_sides_train_the_same_model(capsys: pytest.CaptureFixture[str]) -> None:
    for bf16 in (False, True):
        clocks = Clock(task()), Clock(task(steps=4))  # a fit takes the step that it is in to its end
        leyden = with_leyden(clocks[0], task(), compiled=False, bf16=bf16)
        hand = by_hand(clocks[1], task(), compiled=False, bf16=bf16)
        assert kit.same(kit.weights(hand), kit.weights(leyden))
        assert clocks[0].seen["seconds"] > 0


def test_a_run_leaves_what_was_read(tmp_path: Path) -> None:
    assert len(RUNS) == 8
    run_here(task(run="bare-eager-fp32", result=tmp_path / "result.json"))
    assert json.loads((tmp_path / "result.json").read_text())["seconds"] > 0
