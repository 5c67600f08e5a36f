"""The examples run as they stand, each in a process of its own, and reach what they promise."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import kit
import pytest
from warm_python import python

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def shown_by(example: str, *words: str, options: tuple[str, ...] = (), fresh: bool = False) -> str:
    """What an example prints. It fails the test if it fails. ``fresh``: everything is imported anew."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # beside other tests, more threads than cores wait for each other
    command = [*words, str(EXAMPLES / example), *options]
    if fresh:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)
    else:
        done = python(*command, environment=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def told(shown: str, label: str) -> str:
    """The word that an example prints after a label."""
    found = re.search(rf"^{label}\s+(\S+)", shown, re.MULTILINE)
    assert found, f"{label!r} is not in:\n{shown}"
    return found[1]


def test_digits_reaches_its_accuracy_and_says_where_the_files_lie(own_folder: Path) -> None:
    shown = shown_by("digits.py", "-W", "error", options=("--max_epochs", "8"), fresh=True)
    assert float(told(shown, "Test accuracy")) >= 0.97
    for label in ("Best checkpoint", "Last checkpoint", "Metrics"):
        assert (own_folder / told(shown, label)).is_file(), label
    assert "tensorboard" in shown
    assert [entry.name for entry in own_folder.iterdir()] == ["leyden_logs"]


def test_the_gpt_trains_in_two_processes_with_sharded_checkpoints(own_folder: Path) -> None:
    short = "--max_steps 2 --layers 1 --width 16 --context 16 --val_every 2 --most 60000 --count 3 --batch_size 4"
    shown = shown_by("gpt.py", options=(*short.split(), "--devices", "2", "--strategy", "ddp", "--sharded"))
    assert told(shown, "Steps") == "2"
    assert len(re.findall("^Best checkpoint", shown, re.MULTILINE)) == 1
    assert (own_folder / told(shown, "Best checkpoint") / "__1_0.distcp").is_file()


def test_layers_lie_on_two_processes(own_folder: Path) -> None:
    shown = shown_by("tensor_parallel.py", "-W", "error", options=("--max_epochs", "1", "--samples", "1024"))
    assert float(told(shown, "Accuracy")) > 0.9
    assert shown.count("Rows of up here  32 of 64") == 1
    assert (own_folder / told(shown, "Checkpoint") / "__1_0.distcp").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="sends SIGKILL")
def test_a_job_that_dies_is_started_again_and_goes_on(own_folder: Path) -> None:
    torchrun = "-m torch.distributed.run --nproc-per-node=2 --max-restarts=1 --rdzv-backend=c10d --rdzv-endpoint=localhost:0"
    shown = shown_by("cluster/elastic.py", *torchrun.split(), options=("--max_steps", "30", "--die_at", "20"))
    assert told(shown, "Steps") == "30"


def test_the_tutorial_of_2020_runs_in_two_processes(own_folder: Path) -> None:
    text = (EXAMPLES / "tutorial_2020.py").read_text()
    (own_folder / "tutorial.py").write_text(text.replace("gpus=0", "gpus=0, distributed_backend='ddp', num_processes=2"))
    shown = shown_by(str(own_folder / "tutorial.py"))
    assert "2 processes" in shown
    scores = [float(score) for score in re.findall(r"test_acc\W+([\d.]+)", shown)]
    assert len(scores) >= 3
    assert all(score > 0.9 for score in scores[-3:])


def test_finetuning_beats_the_same_network_from_nothing(own_folder: Path) -> None:
    options = ("--pretrain_epochs", "5", "--max_epochs", "20", "--unfreeze_at", "8")
    shown = shown_by("finetune.py", "-W", "error", options=options)
    assert float(told(shown, "Finetuned")) > float(told(shown, "From nothing")) > 0.5
    rates = re.search(r"^Learning rates +(.*) \(", shown, re.MULTILINE)
    assert rates is not None
    head, backbone = map(float, rates[1].split(", "))
    assert 0.0003 < backbone < head == 0.003
    assert "lr-AdamW/pg2" in (own_folder / told(shown, "Metrics")).read_text()


def test_predictions_of_a_loaded_model_are_written_and_the_model_leaves(own_folder: Path) -> None:
    shown = shown_by("predict.py", "-W", "error", options=("--max_epochs", "8"))
    rows = (own_folder / told(shown, "Predictions")).read_text().splitlines()
    assert rows[0] == "picture,digit,sure"
    assert sorted(int(row.split(",")[0]) for row in rows[1:]) == list(range(597))
    assert float(told(shown, "Right")) > 0.8
    assert shown.count("(the same answers)") == 2
    for label in ("Weights", "Program"):
        assert (own_folder / told(shown, label)).is_file()


def test_the_tutorial_of_2020_runs(own_folder: Path) -> None:
    shown = shown_by("tutorial_2020.py")
    scores = [float(score) for score in re.findall(r"test_acc\W+([\d.]+)", shown)]
    assert len(scores) >= 3, shown
    assert all(score > 0.9 for score in scores[-3:])


@pytest.mark.parametrize("example", sorted(file.name for file in EXAMPLES.glob("*.py")))
def test_an_example_says_what_it_does_and_trains_nothing(example: str, own_folder: Path) -> None:
    shown = shown_by(example, options=("--help",))
    assert shown.startswith("usage: ")
    assert len(shown.split()) > 30, shown
    assert list(own_folder.iterdir()) == []


@pytest.mark.parametrize("example", sorted(file.name for file in EXAMPLES.glob("*.py")))
def test_an_example_names_no_path_of_a_machine(example: str) -> None:
    assert not re.search(r"[\"'](/|~|[A-Z]:\\)", (EXAMPLES / example).read_text())


def test_the_gan_of_2020_runs_with_two_optimizers(own_folder: Path) -> None:
    shown = shown_by("gan_2020.py", options=("--max_epochs", "1", "--batches", "4"))
    assert told(shown, "Steps") == "4"
    assert "d_loss" in shown
    assert shown.count("LegacyNotice") == 1
    assert list((own_folder / told(shown, "Images")).glob("events.*"))


def test_the_template_of_2020_runs(own_folder: Path) -> None:
    shown = shown_by("template_2020.py", options=("--max_epochs", "1"))
    assert Path(told(shown, "Best checkpoint")).name.startswith("digits_epoch=0-val_loss=")
    assert told(shown, "Hidden units") == "128"
    assert (own_folder / "lightning_logs" / "template" / "version_0" / "meta_tags.csv").is_file()


def test_the_program_for_the_command_line_runs_from_its_file(own_folder: Path) -> None:
    words = ("fit", "--config", str(EXAMPLES / "cli" / "run.yaml"), "--trainer.max_epochs=2", "--model.encoder.width=32")
    shown = shown_by("cli/main.py", options=words)
    assert "test_acc" in shown
    folder = own_folder / "leyden_logs" / "cli" / "version_0"
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    saved = (folder / "config.yaml").read_text()
    assert "max_epochs: 2\n" in saved
    assert "width: 32\n" in saved


def test_the_gan_steps_by_hand_and_draws(own_folder: Path) -> None:
    shown = shown_by("gan.py", "-W", "error", options=("--max_epochs", "1", "--batches", "4"))
    assert told(shown, "Steps") == "4"
    assert (own_folder / told(shown, "Last checkpoint")).is_file()
    picture = (own_folder / told(shown, "Drawings")).read_bytes()
    head = b"P5 512 128 255\n"
    assert picture.startswith(head)
    assert len(picture) == len(head) + 512 * 128


SHAPE = ("--layers=1", "--heads=2", "--width=32", "--context=32")
SHORT_GPT = (*SHAPE, "--batch_size=8", "--most=60000", "--val_every=3", "--count=12")


def test_the_gpt_learns_goes_on_and_writes(own_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    shown = shown_by("gpt.py", "-W", "error", options=(*SHORT_GPT, "--max_steps", "6"))
    assert told(shown, "Steps") == "6"
    assert 7 < float(told(shown, "Validation")) < 8
    assert "\ndef " in shown

    def shown_here(*options: str) -> str:
        """The same without a process of its own, which would take longer than what it does."""
        monkeypatch.setattr(sys, "argv", ["gpt.py", *SHORT_GPT, *options])
        runpy.run_path(str(EXAMPLES / "gpt.py"), run_name="__main__")
        shown: str = capfd.readouterr().out
        return shown

    again = shown_here("--max_steps", "9")
    assert told(again, "Steps") == "9"
    assert Path(told(again, "Best checkpoint")).name == "epoch=0-step=9.ckpt"
    steps = [row["step"] for row in kit.rows(own_folder / "leyden_logs" / "gpt" / "logs") if "val_loss" in row]
    assert steps == ["2", "5", "8"], "the second run goes on where the first one ended"
    written = shown_here("--sample_only", "--prompt", "class ")
    assert written == shown_here("--sample_only", "--prompt", "class ")
    assert written.startswith("class ")
