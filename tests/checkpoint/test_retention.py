"""Retention: which checkpoints are kept, compared with sorting; nothing here touches a disk."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leyden.checkpoint.retention import Recorded, Retention, moved, within
from leyden.errors import InvalidOption

NAN = float("nan")


def score(value: float) -> Tensor:
    return torch.tensor(value)


def offer(kept: Retention, path: str, value: float) -> list[str]:
    """What a save does: the paths that are outdated by it."""
    kept.offer(path, score(value))
    gone, kept.outdated = kept.outdated, []
    return gone


def test_the_best_are_kept() -> None:
    kept = Retention(2)
    assert offer(kept, "a", 3) == []
    assert (kept.best, kept.kth) == ("a", "")
    assert offer(kept, "b", 1) == []
    assert (kept.best, kept.best_score, kept.kth, kept.kth_score) == ("b", 1, "a", 3)
    assert offer(kept, "c", 2) == ["a"]
    assert offer(kept, "d", 5) == ["d"]
    assert kept.scores == {"b": 1, "c": 2}
    assert (kept.best, kept.kth) == ("b", "c")


@pytest.mark.parametrize(("k", "mode"), [(-2, "min"), (1, "best")])
def test_bad_options(k: int, mode: str) -> None:
    with pytest.raises(InvalidOption, match="expected"):
        Retention(k, mode)


def test_none_and_all() -> None:
    none, everything = Retention(0), Retention(-1)
    assert not none.wants()
    assert not none.wants(score(1))
    assert offer(none, "a", 1) == ["a"]
    assert [offer(everything, str(i), i) for i in range(5)] == [[]] * 5
    assert (everything.best, everything.kth) == ("0", "4")
    assert everything.replaced(score(9)) == []


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_the_worst(mode: str) -> None:
    kept = Retention(1, mode)
    assert offer(kept, "nan", NAN) == []
    assert kept.wants(kept.worst)
    assert offer(kept, "a", 5) == ["nan"]
    assert not kept.wants(score(NAN))
    assert kept.judge(score(NAN)) == kept.worst == (math.inf if mode == "min" else -math.inf)
    assert kept.current == 5  # of what was kept last


def test_a_judged_value_is_a_number_of_its_own() -> None:
    kept = Retention(1)
    value = torch.tensor([2.0], requires_grad=True)
    judged = kept.judge(value)
    assert (judged.shape, judged.requires_grad, float(judged)) == ((), False, 2.0)
    assert kept.current is None
    kept.offer("a", judged)
    assert kept.current is judged


def test_of_equals_the_older_stays() -> None:
    kept = Retention(1)
    offer(kept, "old", 1)
    assert not kept.wants(score(1))
    assert offer(kept, "new", 1) == ["new"]
    assert kept.best == "old"


def test_a_path_that_is_offered_again_has_its_new_score() -> None:
    kept = Retention(2)
    offer(kept, "a", 1)
    offer(kept, "b", 2)
    assert kept.replaced(score(0)) == ["b"]
    assert offer(kept, "a", 3) == []
    assert (kept.best, kept.kth) == ("b", "a")


def test_without_scores_the_newest_is_the_best() -> None:
    kept, everything = Retention(1), Retention(-1)
    for path in ("a", "b", "b"):
        kept.offer(path)
        everything.offer(path)
    assert (kept.best, kept.best_score, kept.outdated, kept.replaced()) == ("b", None, ["a"], ["b"])
    assert (everything.best, everything.outdated, everything.replaced()) == ("b", [], [])


def test_scores_that_come_later_replace_the_newest() -> None:
    kept = Retention(1)
    kept.start_ranking()
    assert kept.outdated == []
    kept.offer("a")
    kept.start_ranking()
    assert (kept.best, kept.outdated) == ("", ["a"])
    kept.offer("b", score(1))
    assert kept.best == "b"


def test_a_lower_k_lets_go_of_the_worst() -> None:
    kept = Retention(-1)
    for path, value in (("a", 3), ("b", 1), ("c", 2)):
        offer(kept, path, value)
    kept.k = 1
    kept.trim()
    assert (list(kept.scores), kept.outdated, kept.kth) == (["b"], ["a", "c"], "b")


def test_the_last_moves_and_what_it_was_goes() -> None:
    kept = Retention(1)
    for path in ("last", "last", "last-v1"):
        kept.renew_last(path)
    assert (kept.last, kept.outdated) == ("last-v1", ["last"])


def test_what_is_unwanted() -> None:
    kept = Retention(1)
    kept.offer("/here/best", score(1))
    kept.renew_last("/here/last")
    kept.outdated = ["/here/a", "/here/b", "/here/a", "/here/best", "/here/last", "/there/c", "/here-too/d", "/here/resumed"]
    assert kept.unwanted("/here", spare="/here/resumed") == ["/here/a", "/here/b"]
    assert kept.unwanted(None) == []
    kept.removed(spare="/here/resumed")
    assert kept.outdated == ["/here/resumed"]
    kept.claim(["/here/resumed", None])
    assert kept.outdated == []


def test_what_is_of_this_fit() -> None:
    kept = Retention(1)
    kept.offer("best", score(1))
    kept.written.add("extra")
    assert [kept.holds(path) for path in ("best", "extra", "other")] == [True, True, False]
    kept.forget()
    assert (kept.holds("best"), kept.holds("extra"), kept.best) == (False, False, "")


def test_a_failed_save_is_taken_back() -> None:
    kept = Retention(1)
    kept.offer("a", score(2))
    kept.renew_last("last")
    before = kept.state_dict()
    kept.offer("b", score(1))
    kept.renew_last("last-v1")
    kept.load_state_dict(before)
    assert (kept.best, kept.last, kept.outdated, kept.scores) == ("a", "last", [], {"a": 2})


def test_a_state_of_lightnings_is_read() -> None:
    kept = Retention(1)
    kept.load_state_dict({"best_model_score": score(1), "best_model_path": "a", "best_k_models": {"a": score(1)}})
    assert (kept.best, kept.scores, kept.last, kept.outdated, kept.interim) == ("a", {"a": 1}, "", [], "")
    assert kept.kth_score == math.inf
    assert {"kth_best_model_path", "kth_value", "last_model_path", "current_score"} <= set(kept.state_dict())


def test_a_folder_that_was_moved() -> None:
    state = {"best_model_path": "/old/x/a", "best_k_models": {"/old/x/a": 1}, "outdated": ["/old/b"], "interim": "", "more": 1}
    assert moved(state, "/old", "/new") == {
        "best_model_path": "/new/x/a",
        "kth_best_model_path": "",
        "last_model_path": "",
        "best_k_models": {"/new/x/a": 1},
        "outdated": ["/new/b"],
        "interim": "",
        "more": 1,
    }


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [("/a/b", "/a", True), ("/a/b/c", "/a/", True), ("/ab", "/a", False), ("s3://a/b", "s3://a", True), ("/a", "/a", False)],
)
def test_within(path: str, folder: str, expected: bool) -> None:
    assert within(path, folder) is expected


def test_as_yaml() -> None:
    kept = Retention(-1)
    assert kept.as_yaml() == "{}\n"
    kept.offer('a "b" \\ ü', score(1.5))
    kept.offer("c", score(math.inf))
    assert kept.as_yaml() == '"a \\"b\\" \\\\ ü": 1.5\n"c": inf\n'


def test_an_attribute_of_the_records_is_an_attribute_of_their_owner() -> None:
    class Owner:
        best_model_path = Recorded[str]("best")

        def __init__(self) -> None:
            self.retention = Retention(1)

    owner = Owner()
    owner.best_model_path = "mine"
    assert (owner.retention.best, owner.best_model_path) == ("mine", "mine")
    assert isinstance(Owner.best_model_path, Recorded)


# -- compared with sorting

values = st.one_of(st.sampled_from([0.0, 1.0, -1.0, NAN, math.inf, -math.inf]), st.floats(width=16))


def cost(value: float, mode: str) -> tuple[bool, float]:
    return (True, 0.0) if value != value else (False, value if mode == "min" else -value)


@given(st.lists(values, max_size=12), st.integers(-1, 5), st.sampled_from(["min", "max"]), st.integers(0, 12))
def test_it_keeps_what_sorting_would(given_scores: list[float], k: int, mode: str, cut: int) -> None:
    kept, there = Retention(k, mode), set()
    for index, value in enumerate(given_scores):
        if index == cut:  # as a resume does
            state: dict[str, Any] = kept.state_dict()
            kept = Retention(k, mode)
            kept.load_state_dict(state)
            kept.trim()
        wants, leaves = kept.wants(score(value)), kept.replaced(score(value))
        gone = offer(kept, str(index), value)
        assert wants == (str(index) not in gone)
        assert (gone == leaves) if wants else (gone == [str(index)])
        there = {*there, str(index)} - set(gone)
    ranked = [str(index) for index, _ in sorted(enumerate(given_scores), key=lambda item: (cost(item[1], mode), item[0]))]
    expected = ranked if k < 0 else ranked[:k]
    assert there == set(kept.scores) == set(expected)
    assert kept.best == (expected[0] if expected else "")
    assert kept.kth == (expected[-1] if expected and len(expected) >= k else "")


names = st.sampled_from("abcdef")
steps = st.lists(st.tuples(names, values, st.sampled_from(["offer", "resume", "lower", "fail"])), max_size=20)


@given(steps, st.integers(-1, 4), st.sampled_from(["min", "max"]))
def test_names_may_repeat_saves_fail_and_k_change(given_steps: list[tuple[str, float, str]], k: int, mode: str) -> None:
    """A model that is a list of pairs, sorted anew each time, goes through the same."""
    kept = Retention(k, mode)
    model: list[tuple[str, float]] = []  # the oldest first
    disk: set[str] = set()
    for path, value, deed in given_steps:
        if deed == "resume":
            state, kept = kept.state_dict(), Retention(k, mode)
            kept.load_state_dict(state)
            continue
        if deed == "lower":
            k = kept.k = max(k - 1, 0) if k > 0 else k
            kept.trim()
        elif deed == "fail":
            before = kept.state_dict()
            kept.offer(path, score(value))
            kept.load_state_dict(before)
        else:
            model = [*((old, at) for old, at in model if old != path), (path, value)]
            kept.claim([path])
            kept.offer(path, score(value))
            disk.add(path)
        ranked = sorted(model, key=lambda item: cost(item[1], mode))
        model = [item for item in model if k < 0 or item in ranked[:k]]
        assert list(kept.scores) == [old for old, _ in model]
        if model:
            assert kept.best == min(model, key=lambda item: cost(item[1], mode))[0]
        disk -= {old for old in kept.outdated if old not in kept.scores}
        kept.outdated = []
        assert disk == set(kept.scores)
