"""Only the first process prints, logs and warns; the rank is read when it is asked for."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator

import pytest

from leyden.distributed.rank_zero import (
    rank_zero_debug,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_print,
    rank_zero_warn,
)
from leyden.errors import LeydenWarning


@pytest.fixture(autouse=True)
def unset_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    rank_zero_only.rank = None  # back to what the environment says
    yield
    rank_zero_only.rank = None  # back to what the environment says


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"SLURM_PROCID": "2"}, 2),
        ({"LOCAL_RANK": "1"}, 1),
        ({"RANK": "", "LOCAL_RANK": "4"}, 4),
    ],
)
def test_the_rank_is_read_from_the_environment_when_asked(
    variables: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank_zero_only.rank == rank


def test_a_rank_that_was_set_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    rank_zero_only.rank = 0
    assert rank_zero_only.rank == 0


def test_the_decorator_runs_on_rank_zero_and_returns_the_default_elsewhere() -> None:
    @rank_zero_only
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    keep = rank_zero_only(lambda: "mine", default="default")
    assert (double(4), keep()) == (8, "mine")
    assert (double.__name__, double.__doc__) == ("double", "Twice the number.")
    rank_zero_only.rank = 1
    assert (double(4), keep()) == (None, "default")


def test_methods_can_be_decorated() -> None:
    class Logger:
        name = "csv"

        @rank_zero_only
        def describe(self) -> str:
            return self.name

    assert Logger().describe() == "csv"


def test_print_and_logs_come_from_rank_zero_only(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="leyden"):
        for rank in (0, 1):
            rank_zero_only.rank = rank
            rank_zero_print("hello", rank, sep="-")
            rank_zero_info("told by %s", rank)
            rank_zero_debug("whispered by %s", rank)
    assert capsys.readouterr().out == "hello-0\n"
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "told by 0"),
        ("DEBUG", "whispered by 0"),
    ]
    assert {record.funcName for record in caplog.records} == {inspect.currentframe().f_code.co_name}  # type: ignore[union-attr]  # CPython has frames


def test_what_is_told_is_seen_where_nobody_set_up_logging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("leyden")
    monkeypatch.setattr(log, "propagate", False)  # a process without a handler
    rank_zero_info("100% of it")
    rank_zero_info("%d is %s", 3, "odd")
    rank_zero_debug("whispered")
    monkeypatch.setattr(log, "level", logging.WARNING)
    rank_zero_info("not wanted")
    assert capsys.readouterr() == ("", "100% of it\n3 is odd\n")


def test_a_warning_points_at_the_callers_line() -> None:
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]  # CPython has frames
    with pytest.warns(LeydenWarning, match="careful") as caught:
        rank_zero_warn("careful")
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


def test_a_deprecation_points_at_the_caller_of_the_caller() -> None:
    def old_name() -> None:
        rank_zero_deprecation("old_name is going away")

    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]  # CPython has frames
    with pytest.warns(DeprecationWarning, match="going away") as caught:
        old_name()
    assert caught[0].lineno == line


def test_the_category_can_be_chosen() -> None:
    with pytest.warns(RuntimeWarning, match="careful"):
        rank_zero_warn("careful", category=RuntimeWarning)


def test_other_ranks_warn_of_nothing() -> None:
    rank_zero_only.rank = 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rank_zero_warn("careful")
        rank_zero_deprecation("going away")
    assert caught == []
