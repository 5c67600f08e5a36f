"""Profilers: what they measure, where their reports go, and what is said of mistakes."""

from __future__ import annotations

import cProfile
import json
import pickle
import pstats
import threading
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import fsspec
import kit
import pytest
import torch
from kit import Clock

from leyden import notices
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, LeydenWarning, Unsupported
from leyden.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from leyden.profilers.choose import choose_profiler
from leyden.testing import BoringModel


def timed(extended: bool = True, **options: Any) -> tuple[SimpleProfiler, Clock]:
    profiler, clock = SimpleProfiler(extended=extended, **options), Clock()
    profiler.leyden_clock = clock
    profiler.setup("fit")
    return profiler, clock


def table_of(report: str, number: int = 0) -> list[list[str]]:
    """The cells of a report's first table, or a later one."""
    text = report.split("\nWhere ")[number]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


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
    with pytest.raises(InvalidType, match=r"profiler=<class .* Pass SimpleProfiler\(\)\."):
        choose_profiler(SimpleProfiler)  # type: ignore[arg-type]  # the mistake under test
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
    assert profiler.summary().startswith("FIT Profiler Report\n")
    assert table_of(profiler.summary()) == [
        ["Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"],
        ["Total", "-", "3", "10.0", "100 %"],
        ["optimizer_step", "5.0", "1", "5.0", "50.0"],
        ["backward", "1.5", "2", "3.0", "30.0"],
    ]


def test_the_short_table() -> None:
    profiler, clock = timed(extended=False)
    for _ in range(2):
        with profiler.profile("backward"):
            clock.now += 1.5
    with profiler.profile("optimizer_step"):
        clock.now += 2.0
    assert table_of(profiler.summary()) == [
        ["Action", "Mean duration (s)", "Total time (s)"],
        ["optimizer_step", "2.0", "2.0"],  # by their means
        ["backward", "1.5", "3.0"],
    ]


def test_actions_may_lie_in_each_other() -> None:
    profiler, clock = timed()
    with profiler.profile("run_training_batch"):
        clock.now += 1.0
        with profiler.profile("backward"):
            clock.now += 2.0
    assert profiler.recorded_durations == {"backward": [2.0], "run_training_batch": [3.0]}


def test_an_empty_table() -> None:
    assert table_of(SimpleProfiler().summary())[0][0] == "Action"
    assert table_of(SimpleProfiler(extended=False).summary()) == [["Action", "Mean duration (s)", "Total time (s)"]]


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


@pytest.mark.parametrize(("rank", "name"), [(None, "fit-times.txt"), (0, "fit-times-0.txt"), (2, "fit-times-2.txt")])
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
    assert (tmp_path / "mine" / "test-times-0.txt").exists()
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
    stats: Any = pstats.Stats(str(tmp_path / "fit-[LightningModule]Net.training_step.prof"))
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
    (trace,) = tmp_path.glob("fit-0-run_training_batch.*.pt.trace.json")
    assert "traceEvents" in json.loads(trace.read_text())
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
    assert "[pl][profile]an a..." in tables[0]
    assert "[pl][profile]an action with a name that is longer th..." in tables[1]


@pytest.mark.parametrize("key", ["self", "row_limit", "sort_by", "max_name_colum_width"])
def test_unknown_keys_of_the_table_are_refused_at_once(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        PyTorchProfiler(table_kwargs={key: 1})


# -- parts that add up


def in_an_epoch(profiler: SimpleProfiler, clock: Clock, *deeds: str | tuple[str, ...]) -> None:
    """An epoch of one batch: each deed, alone or in those before it, takes a second of its own."""

    def run(names: tuple[str, ...]) -> None:
        with profiler.profile(names[0]):
            clock.now += 1.0
            if names[1:]:
                run(names[1:])

    with profiler.profile("run_training_epoch"), profiler.profile("run_training_batch"):
        for each in deeds:
            run((each,) if isinstance(each, str) else each)


@pytest.mark.parametrize(
    ("deeds", "expected"),
    [
        (["[_TrainingEpochLoop].train_dataloader_next"], {"data": 1.0}),
        (["[Strategy]DDPStrategy.batch_to_device", "[LightningDataModule]D.on_after_batch_transfer"], {"transfer": 2.0}),
        ([("[LightningModule]N.optimizer_step", "[Strategy]S.training_step")], {"optimizer": 1.0, "forward": 1.0}),
        ([("[Strategy]S.training_step", "my part", "log")], {"forward": 1.0, "my part": 1.0, "logging": 1.0}),
        ([("[Strategy]S.backward", "my part")], {"backward": 2.0}),
        ([("run_validation", "[Callback]C.on_validation_start"), "run_validation"], {"validation": 3.0}),
        ([("[Callback]C{'monitor': 'x.y'}.on_train_epoch_end", "save_checkpoint")], {"hooks of C": 2.0}),
        (["[Callback]C.on_before_zero_grad", "[LightningModule]N.on_after_backward"], {"hooks of C": 1.0, "hooks of N": 1.0}),
        (["save_checkpoint", "write_step_row", "write_epoch_row"], {"checkpoints": 1.0, "logging": 2.0}),
        (["[LightningModule]N.optimizer_zero_grad", "[LightningModule]N.lr_scheduler_step"], {"optimizer": 2.0}),
    ],
)
def test_each_second_of_an_epoch_belongs_to_one_part(deeds: Any, expected: dict[str, float]) -> None:
    profiler, clock = timed()
    in_an_epoch(profiler, clock, *deeds)
    parts = profiler.leyden_parts()
    assert {name: seconds for name, seconds in parts.items() if seconds} == expected
    assert sum(parts.values()) == sum(profiler.recorded_durations["run_training_epoch"])


def test_what_runs_outside_of_the_epochs_or_in_another_thread_is_in_no_part() -> None:
    profiler, clock = timed()

    def elsewhere() -> None:
        with profiler.profile("run_training_batch"):  # the same name: each thread has its own actions
            assert list(profiler.current_actions) == ["run_training_batch"]

    with profiler.profile("[Strategy]S.training_step"):
        clock.now += 1.0
    with profiler.profile("run_training_epoch"), profiler.profile("run_training_batch"):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert list(profiler.current_actions) == ["run_training_epoch", "run_training_batch"]
    assert sum(profiler.leyden_parts().values()) == 0.0
    assert len(profiler.recorded_durations["run_training_batch"]) == 2


def test_actions_that_cross_each_other_are_counted_once() -> None:
    profiler, clock = timed()
    profiler.start("run_training_epoch")
    for deed, name in [(profiler.start, "a"), (profiler.start, "b"), (profiler.stop, "a"), (profiler.stop, "b")]:
        deed(name)
        clock.now += 1.0
    profiler.stop("run_training_epoch")
    parts = profiler.leyden_parts()
    assert (parts["a"], parts["b"], parts["loop"]) == (1.0, 2.0, 1.0)
    assert profiler.recorded_durations == {"a": [2.0], "b": [2.0], "run_training_epoch": [4.0]}


def test_the_table_of_parts() -> None:
    profiler, clock = timed()
    in_an_epoch(profiler, clock, "[Strategy]S.training_step", "[Strategy]S.backward")
    clock.now = 0.0
    rows = table_of(profiler.summary(), 1)
    assert rows[:4] == [
        ["Part", "Per batch (s)", "Total time (s)", "Percentage %"],
        ["Sum", "2.0", "2.0", "100 %"],
        ["forward", "1.0", "1.0", "50.0"],
        ["backward", "1.0", "1.0", "50.0"],
    ]
    assert {row[0] for row in rows[4:]} == {"data", "transfer", "optimizer", "logging", "loop"}
    assert "Where" not in SimpleProfiler().summary()


# -- files


def test_reports_of_the_same_name_are_added_to(tmp_path: Path) -> None:
    for _ in range(2):
        profiler = SimpleProfiler(tmp_path, "times")
        profiler.setup("fit")
        profiler.describe()
    assert (tmp_path / "fit-times.txt").read_text().count("FIT Profiler Report") == 2


def test_what_no_file_may_be_called_is_replaced(tmp_path: Path) -> None:
    profiler = AdvancedProfiler(tmp_path, "a/b", dump_stats=True)
    profiler.setup("fit")
    with profiler.profile('x?<y>:"z"'):
        pass
    profiler.describe()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit-a_b-x_y_z_.prof", "fit-a_b.txt"]


def test_a_report_into_a_remote_folder() -> None:
    profiler = SimpleProfiler("memory://reports", "times")
    profiler.setup("test")
    profiler.describe()
    assert "TEST Profiler Report" in fsspec.filesystem("memory").cat("/reports/test-times.txt").decode()


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler, PyTorchProfiler])
def test_a_folder_that_cannot_be_written_to_is_an_error_before_anything_runs(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    profiler = kind(tmp_path / "file", "times")
    with pytest.raises(InvalidOption, match=r"dirpath='.*file' .*a folder to write to"):
        profiler.setup("fit")


def test_figures_need_a_folder() -> None:
    profiler = AdvancedProfiler(dump_stats=True)
    with profiler.profile("backward"):
        pass
    with pytest.raises(ConflictingOptions, match=r"has no folder for 'backward\.prof'\. Pass dirpath="):
        profiler.describe()


@pytest.mark.parametrize("given", [-1, 1.5, "10", True, None])
def test_lists_of_no_length(given: Any) -> None:
    with pytest.raises(InvalidOption, match=r"line_count_restriction=.*a number of lines"):
        AdvancedProfiler(line_count_restriction=given)


def test_a_summary_in_the_middle_loses_nothing() -> None:
    profiler = AdvancedProfiler()
    with profiler.profile("outer"):
        assert "slow_sum" not in profiler.summary()
        slow_sum(10)
    assert "slow_sum" in profiler.summary()


def test_a_second_profiler_of_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(cProfile.Profile):
        def enable(self, *_: Any, **__: Any) -> None:
            raise ValueError("Another profiling tool is already active")  # as Python says since 3.12

    monkeypatch.setattr(cProfile, "Profile", Refusing)
    with pytest.raises(ConflictingOptions, match="Another profiler of Python runs already"):
        AdvancedProfiler().start("backward")


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler, PyTorchProfiler, PassThroughProfiler])
def test_profilers_can_be_copied_and_pickled(kind: Any) -> None:
    profiler = kind(filename="times")
    with profiler.profile("backward"):
        pass
    profiler.summary()
    if kind is PyTorchProfiler:
        profiler.function_events = None  # PyTorch's own, which know no copy
    for copy in (deepcopy(profiler), pickle.loads(pickle.dumps(profiler))):
        with copy.profile("backward"):
            pass
        copy.summary()
        copy.teardown(None)


def test_a_simple_profiler_with_more_to_do() -> None:
    told: list[float] = []

    class Telling(SimpleProfiler):
        def stop(self, action_name: str) -> None:
            super().stop(action_name)
            told.append(self.recorded_durations[action_name][-1])

    profiler = Telling()
    with profiler.profile("backward"):
        pass
    assert told == profiler.recorded_durations["backward"]
    assert profiler.local_rank == 0
    profiler.setup("fit", 3)
    assert profiler.local_rank == 3


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler, PyTorchProfiler])
def test_the_file_of_the_report_may_be_said_as_before_1_4(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "noticed", set())
    monkeypatch.setattr(notices, "waiting", {})
    profiler = kind(output_filename=tmp_path / "mine.txt")
    with profiler.profile("a"):
        torch.ones(2).sum()
    profiler.describe()
    assert (tmp_path / "mine.txt").read_text() != ""
    with pytest.raises(InvalidType, match="output_filename=3 cannot be used: expected the path of a file"):
        kind(output_filename=3)
    with pytest.raises(ConflictingOptions, match="Leave output_filename out"):
        kind(".", output_filename="mine.txt")
    assert list(notices.waiting) == [f"{kind.__name__}(output_filename=...)"]


@pytest.mark.parametrize("kind", [SimpleProfiler, PyTorchProfiler])
def test_a_disk_that_is_full_at_the_end_costs_no_run(kind: Any, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(kind):  # type: ignore[misc]  # a class that is an argument
        def leyden_open(self, name: str, mode: str) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.warns(LeydenWarning, match=r"could not be written \(\[Errno 28\] No space left on device\)"):
        kit.fit(BoringModel(), limit_train_batches=6, limit_val_batches=0, profiler=Full(".", "times"))
    assert "Profiler Report" in capsys.readouterr().out
