"""Profilers: what they measure, where their reports go, and what is said of mistakes."""

from __future__ import annotations

import json
import pstats
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Clock

from leyden.errors import InvalidOption, InvalidType, Unsupported
from leyden.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from leyden.profilers.choose import choose_profiler


def timed(extended: bool = True, **options: Any) -> tuple[SimpleProfiler, Clock]:
    profiler, clock = SimpleProfiler(extended=extended, **options), Clock()
    profiler.clock = clock
    profiler.setup("fit")
    return profiler, clock


def slow_sum(count: int) -> int:
    return sum(range(count))


def quick_sum() -> int:
    return slow_sum(3)


@pytest.mark.parametrize(
    ("given", "kind"),
    [("simple", SimpleProfiler), ("Advanced", AdvancedProfiler), ("pytorch", PyTorchProfiler), (None, PassThroughProfiler)],
)
def test_a_profiler_by_name(given: str | None, kind: type[Profiler]) -> None:
    profiler = choose_profiler(given)
    assert type(profiler) is kind
    assert profiler.leyden_active == (given is not None)
    assert repr(profiler) == f"{kind.__name__}()"


def test_a_profiler_object_is_taken_as_it_is() -> None:
    mine = SimpleProfiler()
    assert choose_profiler(mine) is mine


def test_mistaken_names() -> None:
    with pytest.raises(InvalidOption, match=r"profiler='simpel' .*'simple', 'advanced', 'pytorch'.*Did you mean 'simple'\?"):
        choose_profiler("simpel")
    with pytest.raises(InvalidType, match="profiler=True"):
        choose_profiler(True)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(Unsupported, match="Use profiler='pytorch'"):
        choose_profiler("xla")


def test_the_one_that_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    profiler = PassThroughProfiler()
    profiler.setup("fit")
    with profiler.profile("backward") as name:
        assert name == "backward"
    profiler.describe()
    profiler.teardown("fit")
    assert (profiler.summary(), capsys.readouterr().out) == ("", "")


def test_the_table_of_times() -> None:
    profiler, clock = timed()
    for seconds in (1.0, 2.0):
        with profiler.profile("backward"):
            clock.now += seconds
    with profiler.profile("optimizer_step"):
        clock.now += 5.0
    clock.now += 2.0
    lines = [line.split() for line in profiler.summary().splitlines()]
    assert lines[1] == ["Action", "Mean", "(s)", "Longest", "(s)", "Calls", "Total", "(s)", "Share"]
    assert lines[3] == ["Total", "-", "-", "3", "10", "100.0", "%"]
    assert lines[4] == ["optimizer_step", "5", "5", "1", "5", "50.0", "%"]
    assert lines[5] == ["backward", "1.5", "2", "2", "3", "30.0", "%"]


def test_the_short_table() -> None:
    profiler, clock = timed(extended=False)
    with profiler.profile("backward"):
        clock.now += 1.5
    lines = [line.split() for line in profiler.summary().splitlines()]
    assert lines[1:] == [["Action", "Mean", "(s)", "Total", "(s)"], lines[2], ["backward", "1.5", "1.5"]]


def test_actions_may_lie_in_each_other() -> None:
    profiler, clock = timed()
    with profiler.profile("run_training_batch"):
        clock.now += 1.0
        with profiler.profile("backward"):
            clock.now += 2.0
    assert (profiler.durations["run_training_batch"].total, profiler.durations["backward"].total) == (3.0, 2.0)


def test_an_empty_table() -> None:
    assert SimpleProfiler().summary().startswith("Profiler report\nAction")


def test_memory_does_not_grow_with_the_calls() -> None:
    profiler, _ = timed()
    for _ in range(1000):
        with profiler.profile("backward"):
            pass
    assert profiler.durations["backward"].calls == 1000
    assert len(profiler.durations) == 1


@pytest.mark.parametrize("make", [SimpleProfiler, AdvancedProfiler, PyTorchProfiler])
def test_stopping_what_never_started(make: type[Profiler]) -> None:
    with pytest.raises(InvalidOption, match=r"action_name='backward' .*it was never started"):
        make().stop("backward")


@pytest.mark.parametrize("make", [SimpleProfiler, AdvancedProfiler])
def test_starting_twice(make: type[Profiler]) -> None:
    profiler = make()
    profiler.start("backward")
    with pytest.raises(InvalidOption, match=r"action_name='backward' .*started and not stopped"):
        profiler.start("backward")
    profiler.teardown("fit")
    profiler.start("backward")  # a verb that failed leaves nothing behind
    profiler.stop("backward")


def test_an_action_that_raises_is_ended() -> None:
    profiler, _ = timed()
    with pytest.raises(ZeroDivisionError), profiler.profile("backward"):
        raise ZeroDivisionError
    assert profiler.current_actions == {}


def test_the_report_goes_to_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    profiler, _ = timed()
    with profiler.profile("backward"):
        pass
    profiler.describe()
    assert "backward" in capsys.readouterr().out


@pytest.mark.parametrize(("rank", "name"), [(None, "fit-times.txt"), (0, "fit-times.txt"), (2, "fit-times-2.txt")])
def test_the_report_goes_to_a_file_of_the_runs_folder(tmp_path: Path, rank: int | None, name: str) -> None:
    profiler = SimpleProfiler(filename="times")
    profiler.setup("fit", rank, tmp_path / "logs")
    with profiler.profile("backward"):
        pass
    profiler.describe()
    assert "backward" in (tmp_path / "logs" / name).read_text()


def test_a_folder_of_its_own_goes_first(tmp_path: Path) -> None:
    profiler = SimpleProfiler(dirpath=tmp_path / "mine", filename="times")
    profiler.setup("test", 0, tmp_path / "logs")
    profiler.describe()
    assert (tmp_path / "mine" / "test-times.txt").exists()
    assert not (tmp_path / "logs").exists()


def test_functions_are_listed_under_the_innermost_action() -> None:
    profiler = AdvancedProfiler()
    profiler.setup("fit")
    with profiler.profile("outer"):
        slow_sum(10)
        with profiler.profile("inner"):
            quick_sum()
        slow_sum(10)
    outer, inner = profiler.summary().split("Profile stats for: ")[1:]
    assert outer.startswith("outer")
    assert "slow_sum" in outer
    assert "quick_sum" not in outer
    assert "quick_sum" in inner


def test_actions_that_cross_each_other() -> None:
    profiler = AdvancedProfiler()
    profiler.start("first")
    profiler.start("second")
    profiler.stop("first")
    slow_sum(10)
    profiler.stop("second")
    first, second = profiler.summary().split("Profile stats for: ")[1:]
    assert "slow_sum" not in first
    assert "slow_sum" in second


def test_as_many_lines_as_asked() -> None:
    reports = []
    for restriction in (1.0, 1):
        profiler = AdvancedProfiler(line_count_restriction=restriction)
        with profiler.profile("backward"):
            quick_sum()
        reports.append(profiler.summary())
    assert len(reports[1].splitlines()) < len(reports[0].splitlines())


def test_raw_figures_for_pstats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiler = AdvancedProfiler(dirpath=tmp_path, dump_stats=True)
    profiler.setup("fit")
    with profiler.profile("[LightningModule]Net.training_step"):
        quick_sum()
    profiler.describe()
    stats: Any = pstats.Stats(str(tmp_path / "fit-LightningModule_Net.training_step.prof"))
    assert any(function == "quick_sum" for _, _, function in stats.stats)
    assert "training_step" in capsys.readouterr().out
    profiler.teardown("fit")
    assert profiler.profiled_actions == {}


def train_with(profiler: Profiler, batches: int) -> None:
    weight = torch.ones(8, 8, requires_grad=True)
    for _ in range(batches):
        with profiler.profile("run_training_batch"), profiler.profile("backward"):
            (weight @ weight).sum().backward()


def test_pytorchs_table_names_operators_and_actions(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(row_limit=-1)
    profiler.setup("fit", 0, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its profiler
        train_with(profiler, 7)
        report = profiler.summary()
    assert "aten::mm" in report
    assert "backward" in report
    assert "traceEvents" in json.loads((tmp_path / "fit.pt.trace.json").read_text())
    profiler.teardown("fit")
    assert profiler.summary() == ""


def test_pytorchs_profiler_without_a_schedule_records_all_of_an_evaluation(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(group_by_input_shapes=True, export_to_chrome=False, sort_by_key="self_cpu_time_total")
    profiler.setup("validate", 0, tmp_path)
    with profiler.profile("validation_step"):
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert "[2, 2]" in profiler.summary()
    assert list(tmp_path.iterdir()) == []


def test_a_verb_that_fails_leaves_pytorchs_profiler_stopped() -> None:
    profiler = PyTorchProfiler(export_to_chrome=False)
    profiler.setup("validate")
    profiler.start("validation_step")
    profiler.teardown("validate")
    assert profiler.profiler is None
    with profiler.profile("validation_step"):
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert "aten::" in profiler.summary()


def test_a_profiler_of_the_users_own() -> None:
    class Counting(Profiler):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[str] = []

        def start(self, action_name: str) -> None:
            self.events.append(f"start {action_name}")

        def stop(self, action_name: str) -> None:
            self.events.append(f"stop {action_name}")

    profiler = Counting()
    with profiler.profile("backward"):
        pass
    profiler.describe()
    assert profiler.events == ["start backward", "stop backward"]


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler, PyTorchProfiler])
def test_without_a_folder_it_has_the_run_s(kind: Any, tmp_path: Path) -> None:
    profiler = kind(filename="report")
    profiler.setup("fit", 0, tmp_path / "one")
    assert profiler.dirpath == tmp_path / "one"
    profiler.setup("fit", 0, tmp_path / "two")
    assert profiler.dirpath == tmp_path / "two"
    own = kind(tmp_path / "own", filename="report")
    own.setup("fit", 0, tmp_path / "one")
    assert own.dirpath == tmp_path / "own"


def test_a_table_s_shape_may_be_chosen() -> None:
    narrow, usual = (PyTorchProfiler(table_kwargs=table, schedule=None) for table in ({"max_name_column_width": 20}, None))
    tables = []
    for profiler in (narrow, usual):
        with profiler.profile("an action with a name that is longer than any column would ever like to have it"):
            torch.ones(2) + 1
        tables.append(profiler.summary())
    assert "an action with a ..." in tables[0]
    assert "an action with a name that is longer than any column..." in tables[1]


@pytest.mark.parametrize("key", ["self", "row_limit", "sort_by", "max_name_colum_width"])
def test_unknown_keys_of_the_table_are_refused_at_once(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        PyTorchProfiler(table_kwargs={key: 1})
