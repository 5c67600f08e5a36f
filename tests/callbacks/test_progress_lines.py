"""The words of a progress bar, and its pace."""

from __future__ import annotations

import pytest

from leyden.callbacks.progress.lines import Pace, count, duration, epoch_name, line, metrics_text, number, of_epoch, rate
from leyden.callbacks.progress.results import print_results, results_table


def test_durations_counts_and_rates() -> None:
    assert [duration(seconds) for seconds in (0, 59.9, 61, 36000)] == ["0:00:00", "0:00:59", "0:01:01", "10:00:00"]
    assert [count(3, 10), count(3, None)] == ["3/10", "3"]
    assert [rate(0), rate(12.34), rate(0.25)] == ["", "12.3 it/s", "4.0 s/it"]


def test_numbers_small_and_large_stay_readable() -> None:
    values = [0.41234567, 1e-05, 1234567.0, 3, True, "abc", float("nan"), float("inf")]
    assert [number(value) for value in values] == ["0.4123", "1e-05", "1.235e+06", "3", "True", "abc", "nan", "inf"]
    assert number(0.5, ".2f") == "0.50"
    assert number([1]) == "[1]"


def test_no_metric_is_dropped() -> None:
    assert (
        metrics_text({"v_num": "3", "loss": 0.5, "both": {"a": 1, "b": 2.0}}, ", ") == "v_num: 3, loss: 0.5, both/a: 1, both/b: 2"
    )
    assert metrics_text({}) == ""


def test_metrics_of_an_epoch_leave_out_the_last_steps() -> None:
    metrics = {"v_num": "1", "loss": 1, "acc_step": 2, "acc_epoch": 3, "last_step": 4}
    assert of_epoch(metrics) == {"loss": 1, "acc_epoch": 3, "last_step": 4}


def test_the_line_of_an_epoch() -> None:
    assert epoch_name(0, 10) == "Epoch 1/10"
    assert epoch_name(4, None) == epoch_name(4, -1) == "Epoch 5"
    assert line("Epoch 1/10", 200, 200, 12, {"loss": 0.41234}) == "Epoch 1/10: 200/200 in 0:00:12, 16.7 it/s, loss: 0.4123"
    assert line("Epoch 1", 3, None, 0, {}) == "Epoch 1: 3 in 0:00:00"


def test_pace_is_of_the_last_draws_and_leaves_pauses_out() -> None:
    pace = Pace()
    pace.start(100.0, 0)
    assert pace.per_second == 0
    assert pace.remaining(0, 10) is None
    pace.tell(102.0, 4)
    assert (pace.per_second, pace.remaining(4, 10), pace.remaining(4, None)) == (2.0, 3.0, None)
    pace.skip(200.0, 4)
    pace.tell(201.0, 5)
    assert (pace.per_second, pace.elapsed(201.0)) == (1.0, 101.0)
    assert pace.remaining(12, 10) == 0


def test_results_of_one_loader(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([{"test_loss": 0.25, "acc": 1.0}], "test")
    assert capsys.readouterr().out == (
        "--------------------------\n"
        " Test metric | DataLoader 0\n"
        "--------------------------\n"
        " acc         |          1.0\n"
        " test_loss   |         0.25\n"
        "--------------------------\n"
    ).replace("--------------------------", "-" * 28)


def test_results_of_several_loaders() -> None:
    results = [{"loss/dataloader_idx_0": 1.0, "only/dataloader_idx_0": 5}, {"loss/dataloader_idx_1": 22222222222222.0}]
    assert results_table(results, "Validate metric").split("\n")[3:5] == [
        " loss            |          1.0 | 22222222222222.0",
        " only            |            5 |",
    ]
    assert [row.split("|")[1:] for row in results_table(results, "Validate metric", width=40).split("\n") if "loss" in row] == [
        ["          1.0"],
        [" 22222222222222.0"],
    ]


def test_no_results_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([{}, {}], "validate")
    print_results([], "validate")
    assert capsys.readouterr().out == ""
