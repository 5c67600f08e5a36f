"""File names from metrics, and which files are worth keeping."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.checkpoint.naming import KeepBest, format_name, newest_checkpoint, next_free
from leyden.errors import InvalidOption

METRICS = {"epoch": torch.tensor(3), "step": 10, "val/loss": torch.tensor(0.123), "val_loss": 0.5, "n": torch.tensor(3)}


@pytest.mark.parametrize(
    ("template", "auto", "expected"),
    [  # as Lightning 2.6.6 names them, but for `{val/loss}`, which makes a folder there
        (None, True, "epoch=3-step=10"),
        ("{epoch}-{val_loss:.2f}", True, "epoch=3-val_loss=0.50"),
        ("{epoch}-{val_loss:.2f}", False, "3-0.50"),
        ("{val/loss:.2f}", True, "val_loss=0.12"),
        ("{val/loss:.2f}", False, "0.12"),
        ("x/{epoch}", True, "x/epoch=3"),
        ("{missing:.3f}-{epoch:02d}", True, "missing=0.000-epoch=03"),
        ("{missing}", False, "0"),
        ("{epoch:02d}{val_loss}", True, "epoch=03val_loss=0.5"),
        ("plain", True, "plain"),
        ("{n}", True, "n=3"),
        ("loss={val_loss:.1f}", True, "loss=val_loss=0.5"),
        ("loss={val/loss:.1f}", False, "loss=0.1"),
        ("{epoch:03d}-{epoch}", True, "epoch=003-epoch=3"),
        ("", True, ""),
    ],
)
def test_names(template: str | None, auto: bool, expected: str):
    assert format_name(template, METRICS, auto_insert_metric_name=auto) == f"{expected}.ckpt"
    assert format_name(template, METRICS, auto_insert_metric_name=auto, version=2) == f"{expected}-v2.ckpt"


def test_a_format_for_whole_numbers_takes_a_float_that_is_one():
    assert format_name("{x:03d}", {"x": 7.0}) == "x=007.ckpt"


def test_prefix_and_extension():
    assert format_name("{epoch}", METRICS, prefix="run", extension=".pt") == "run-epoch=3.pt"


def test_a_format_that_does_not_fit_says_so():
    with pytest.raises(InvalidOption, match=r"filename='\{epoch:zz\}' cannot be used: expected a format that fits epoch=3"):
        format_name("{epoch:zz}", METRICS)


def test_the_next_free_name(tmp_path: Path):
    assert next_free(str(tmp_path), "a.ckpt") == str(tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").touch()
    assert next_free(str(tmp_path), "a.ckpt") == str(tmp_path / "a-v1.ckpt")
    assert next_free(str(tmp_path), "a.ckpt", taken=[str(tmp_path / "a-v1.ckpt")]) == str(tmp_path / "a-v2.ckpt")


def test_the_order_in_which_last_is_tried(tmp_path: Path):
    for age, name in enumerate(["epoch=1.ckpt", "last.ckpt", "epoch=0.ckpt", "x.txt", ".a.ckpt.1.leyden-tmp"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    expected = ["epoch=1.ckpt", "last.ckpt", "epoch=0.ckpt"]
    assert [os.path.basename(path) for path in newest_checkpoint(tmp_path)] == expected
    assert newest_checkpoint(tmp_path / "nowhere") == []


def test_of_files_of_one_age_last_is_tried_first(tmp_path: Path):
    for name in ["epoch=1.ckpt", "last.ckpt", "lastly.ckpt", "last-v1.ckpt"]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000, 1000))
    expected = ["last.ckpt", "last-v1.ckpt", "lastly.ckpt", "epoch=1.ckpt"]
    assert [os.path.basename(path) for path in newest_checkpoint(tmp_path)] == expected


def test_the_best_are_kept():
    keep = KeepBest(2, "min")
    assert keep.offer("a", 3) == []
    assert keep.offer("b", 1) == []
    assert (keep.best, keep.kth) == ("b", "a")
    assert keep.offer("c", 2) == ["a"]
    assert keep.offer("d", 5) == ["d"]
    assert keep.scores == {"b": 1, "c": 2}


@pytest.mark.parametrize(("k", "mode"), [(-2, "min"), (1, "best")])
def test_bad_options(k: int, mode: str):
    with pytest.raises(InvalidOption, match="expected"):
        KeepBest(k, mode)


def test_none_and_all():
    none, everything = KeepBest(0), KeepBest(-1)
    assert none.offer("a", 1) == ["a"]
    assert (none.best, none.kth, none.would_keep(1)) == (None, None, False)
    assert [everything.offer(str(i), i) for i in range(5)] == [[]] * 5
    assert (everything.best, everything.kth) == ("0", "4")


def test_nan_is_the_worst_in_both_modes():
    for mode in ("min", "max"):
        keep = KeepBest(1, mode)
        assert keep.offer("nan", float("nan")) == []
        assert keep.would_keep(float("inf"))
        assert keep.offer("a", 5) == ["nan"]
        assert keep.offer("nan", float("nan")) == ["nan"]
        assert not keep.would_keep(float("nan"))


def test_of_equals_the_older_stays():
    keep = KeepBest(1)
    keep.offer("old", 1)
    assert not keep.would_keep(1)
    assert keep.offer("new", 1) == ["new"]
    assert keep.best == "old"


def test_offering_again_and_discarding():
    keep = KeepBest(2)
    keep.offer("a", 1)
    keep.offer("b", 2)
    assert keep.offer("a", 3) == []
    assert keep.best == "b"
    keep.discard("b")
    keep.discard("b")
    assert keep.scores == {"a": 3}


scores = st.lists(st.floats(allow_nan=True, width=16), max_size=12)


@given(scores, st.integers(-1, 5), st.sampled_from(["min", "max"]), st.integers(0, 12))
def test_it_keeps_what_sorting_would(given_scores: list[float], k: int, mode: str, cut: int):
    keep, held = KeepBest(k, mode), set()
    for index, score in enumerate(given_scores):
        if index == cut:  # as a resume does
            state: dict[str, Any] = keep.state_dict()
            keep = KeepBest(k, mode)
            keep.load_state_dict(state)
        would = keep.would_keep(score)
        outdated = keep.offer(str(index), score)
        assert would == (str(index) not in outdated)
        held |= {str(index)}
        held -= set(outdated)

    def cost(item: tuple[int, float]) -> tuple[bool, float, int]:
        index, score = item
        return (True, 0.0, index) if score != score else (False, score if mode == "min" else -score, index)

    ranked = [str(index) for index, _ in sorted(enumerate(given_scores), key=cost)]
    expected = ranked if k < 0 else ranked[:k]
    assert held == set(keep.scores) == set(expected)
    assert keep.best == (expected[0] if expected else None)
    assert keep.kth == (expected[-1] if expected else None)
