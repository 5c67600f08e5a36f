"""Guarantees 2 and 13: a signal ends a run between two batches, its state on the disk; the same command goes on with it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Net, at_batch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from warm_python import python

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.distributed.signals import EXIT_CODE, in_notebook, say_at_once
from leyden.distributed.signals import noted as noting
from leyden.testing import Recorder

# The job as a user would write it. The place in its arguments is where it sends itself the signal.
JOB = """
import hashlib, os, signal, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
import leyden
from leyden.callbacks import ModelCheckpoint

torch.set_num_threads(1)
folder, place, name, workers = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


class Samples(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.full((4,), index / 10) + 0.1 * torch.randn(4)


class Net(leyden.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        loss = self.model(batch).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Sends(leyden.Callback):
    def send(self, here):
        if here == place:
            os.kill(os.getpid(), getattr(signal, name))

    def on_sanity_check_start(self, trainer, pl_module):
        self.send("sanity check")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1:
            self.send("training")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 0 and not trainer.sanity_checking:
            self.send("validation")

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.send("between epochs")

    def on_train_end(self, trainer, pl_module):
        self.send("the end")

    def teardown(self, trainer, pl_module, stage):
        print("teardown", flush=True)


leyden.seed_everything(3)
trainer = leyden.Trainer(
    max_epochs=3, accelerator="cpu", log_every_n_steps=1, default_root_dir=folder, callbacks=[Sends()],
    logger=leyden.loggers.CSVLogger(folder, name="lightning_logs"),
    enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=2,
)
net = Net()
train = DataLoader(Samples(), batch_size=3, shuffle=True, num_workers=workers)
result = trainer.fit(net, train, DataLoader(Samples(), batch_size=4), ckpt_path="last")
weights = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
rows = open(os.path.join(trainer.logger.log_dir, "metrics.csv"), "rb").read()
print(result.status, "weights", hashlib.sha256(weights.numpy().tobytes() + rows).hexdigest(), flush=True)
"""


def start(folder: Path, place: str = "nowhere", name: str = "SIGTERM", workers: int = 0) -> subprocess.CompletedProcess[str]:
    script = folder.parent / "job.py"
    script.write_text(JOB)
    return python(script, folder, place, name, str(workers))


def digest(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.split("weights ")[1].split()[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What the job ends with when nobody disturbs it, by its number of workers."""
    return {workers: digest(start(tmp_path_factory.mktemp("once") / "run", workers=workers)) for workers in (0, 2)}


@pytest.mark.parametrize(
    ("place", "name", "workers"),
    [
        ("training", "SIGTERM", 0),
        ("training", "SIGUSR1", 2),
        ("validation", "SIGTERM", 2),
        ("sanity check", "SIGTERM", 0),
        ("between epochs", "SIGUSR1", 0),
        ("the end", "SIGTERM", 0),
    ],
)
def test_a_termination_saves_and_exits_with_143(
    place: str, name: str, workers: int, uninterrupted: dict[int, str], tmp_path: Path
) -> None:
    first = start(tmp_path / "run", place, name, workers)
    assert first.returncode == EXIT_CODE == 143, first.stderr
    assert "teardown" in first.stdout
    assert "weights" not in first.stdout
    again = start(tmp_path / "run", workers=workers)
    expected = "there is no checkpoint yet" if place == "sanity check" else "training goes on from"
    assert expected in again.stdout
    assert digest(again) == uninterrupted[workers]


def test_ctrl_c_returns_and_the_same_command_goes_on(uninterrupted: dict[int, str], tmp_path: Path) -> None:
    first = start(tmp_path / "run", "training", "SIGINT")
    assert first.returncode == 0, first.stderr
    assert "interrupted weights" in first.stdout
    assert digest(start(tmp_path / "run")) == uninterrupted[0]


def test_a_second_termination_exits_at_once(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    twice = "os.kill(os.getpid(), getattr(signal, name)); os.kill(os.getpid(), getattr(signal, name))"
    script.write_text(JOB.replace("os.kill(os.getpid(), getattr(signal, name))", twice))
    done = python(script, tmp_path / "run", "training", "SIGTERM", "0")
    assert done.returncode == 143
    assert "teardown" not in done.stdout
    assert "SIGTERM arrived again: this process ends now, without a save." in done.stderr


# -- in this process


class Samples(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((4,), index / 8)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> leyden.Trainer:
    keeping = {"max_epochs": 2, "logger": None, "enable_checkpointing": None}
    return kit.trainer(*callbacks, default_root_dir=folder, **{**keeping, **options})


def loader() -> DataLoader[Any]:
    return DataLoader(Samples(), batch_size=2, shuffle=True)


def weights(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in module.parameters())).hexdigest()


def sends(number: int, at: int) -> Recorder:
    """A recorder that sends a signal in the training batch ``at``, counted over epochs."""
    return at_batch(at, lambda: signal.raise_signal(number))


def test_ctrl_c_keeps_the_model_and_tells_how_it_ended(tmp_path: Path) -> None:
    net, recorder = Net(), sends(signal.SIGINT, 5)
    run = trainer(tmp_path, recorder)
    result = run.fit(net, loader(), loader())
    assert (result.status, result.reason, result.steps) == ("interrupted", "Ctrl-C", 6)
    assert run.interrupted
    assert recorder.names.count("on_train_batch_end") == 6
    assert "on_train_end" not in recorder.names
    assert recorder.names[-1] == "teardown"
    assert result.last_checkpoint is not None
    assert Path(result.last_checkpoint).exists()


def test_after_ctrl_c_last_ends_the_very_run(tmp_path: Path) -> None:
    leyden.seed_everything(1)
    once = Net()
    trainer(tmp_path / "once").fit(once, loader(), loader())
    leyden.seed_everything(1)
    net = Net()
    run = trainer(tmp_path / "cut", sends(signal.SIGINT, 5))
    run.fit(net, loader(), loader())
    result = run.fit(net, loader(), loader(), ckpt_path="last")
    assert (result.status, result.steps, result.epochs) == ("finished", 8, 2)
    assert weights(net) == weights(once)
    assert not run.interrupted


def test_after_ctrl_c_a_second_fit_trains_on_with_counts_of_its_own(tmp_path: Path) -> None:
    net = Net()
    run = trainer(tmp_path, sends(signal.SIGINT, 2))
    run.fit(net, loader(), loader())
    kept = weights(net)
    begun = []
    run.callbacks.append(Recorder(on_train_start=lambda *_: begun.append(weights(net))))
    run.callbacks = [each for each in run.callbacks if not isinstance(each, Recorder)] + run.callbacks[-1:]
    result = run.fit(net, loader(), loader())
    assert begun == [kept]
    assert (result.status, result.steps, result.epochs) == ("finished", 8, 2)


def test_the_first_ctrl_c_says_at_once_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []

    def press(*_: Any) -> None:
        capsys.readouterr()
        signal.raise_signal(signal.SIGINT)
        shown.append(capsys.readouterr().out)

    trainer(tmp_path, at_batch(2, press)).fit(Net(), loader(), loader())
    assert shown == ["finishing this batch; press Ctrl-C again to stop now\n"]
    trainer(tmp_path, Recorder(on_validation_start=press), num_sanity_val_steps=0).fit(Net(), loader(), loader())
    assert shown[1] == "finishing this validation; press Ctrl-C again to stop now\n"


PRESSES_AGAIN = {
    "the same batch": lambda press: {"on_train_batch_start": press},
    "on_exception": lambda press: {"on_exception": press},
    "teardown": lambda press: {"teardown": press},
    "the save": lambda press: {"on_save_checkpoint": press},
}


@pytest.mark.parametrize("where", PRESSES_AGAIN)
def test_a_second_ctrl_c_ends_a_sweep(where: str, tmp_path: Path) -> None:
    """Wherever it comes: everything is torn down, and KeyboardInterrupt leaves fit, with Python's exit code for it."""
    pressed = []

    def press_again(run: Any, *_: Any, **__: Any) -> None:
        if pressed:
            signal.raise_signal(signal.SIGINT)

    def press(*_: Any) -> None:
        pressed.append(True)
        signal.raise_signal(signal.SIGINT)

    last = Recorder()
    run = trainer(tmp_path, at_batch(5, press), Recorder(**PRESSES_AGAIN[where](press_again)), last)
    with pytest.raises(KeyboardInterrupt) as raised:
        run.fit(Net(), loader(), loader())
    assert type(raised.value) is KeyboardInterrupt
    assert last.names[-1] == "teardown"
    assert run.state.status == "interrupted"


def test_a_termination_has_the_last_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trainer(tmp_path, sends(signal.SIGUSR1, 1)).fit(Net(), loader(), loader())
    shown = capsys.readouterr().out
    assert "SIGUSR1 arrived: finishing this batch, then the run is saved and ended." in shown
    assert "SIGUSR1 arrived: the run was ended after batch 2." in shown


@pytest.mark.parametrize("where", ["on_train_end", "on_fit_end"])
def test_ctrl_c_when_no_batch_follows_returns_too(where: str, tmp_path: Path) -> None:
    result = trainer(tmp_path, Recorder(**{where: lambda *_: signal.raise_signal(signal.SIGINT)})).fit(Net(), loader(), loader())
    assert (result.status, result.epochs) == ("interrupted", 2)
    assert result.last_checkpoint is not None


@pytest.mark.parametrize(("where", "said"), [("setup", "before its first batch"), ("on_train_batch_end", "after batch 1")])
def test_a_termination_says_how_far_the_run_was(
    where: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(leyden.errors.TrainingTerminated, match=f"SIGTERM arrived: the run was ended {said}") as raised:
        trainer(tmp_path, Recorder(**{where: lambda *_, **__: signal.raise_signal(signal.SIGTERM)})).fit(
            Net(), loader(), loader()
        )
    assert raised.value.code == 143
    assert "then the run is saved and ended" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["on_exception", "teardown", "finalize"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_termination_while_a_run_is_being_ended(where: str, fails: bool, tmp_path: Path) -> None:
    """The rest is still torn down, the exit code is 143, and an error that had ended the run is shown."""
    if where == "on_exception" and not fails:
        pytest.skip("nobody is told of an exception that did not happen")

    class Logger(leyden.loggers.CSVLogger):
        def finalize(self, status: str) -> None:
            if where == "finalize":
                signal.raise_signal(signal.SIGTERM)
            super().finalize(status)

    def fail(*_: Any) -> None:
        if fails:
            raise ArithmeticError("mine")

    sending = Recorder(**{where: lambda *_, **__: signal.raise_signal(signal.SIGTERM)} if where != "finalize" else {})
    last = Recorder()
    run = trainer(tmp_path, at_batch(1, fail), sending, last, logger=Logger(tmp_path))
    with pytest.raises(leyden.errors.TrainingTerminated) as raised:
        run.fit(Net(), loader(), loader())
    assert raised.value.code == 143
    assert last.names[-1] == "teardown"
    assert isinstance(raised.value.__cause__, ArithmeticError if fails else type(None))


def test_a_line_is_said_in_the_middle_of_another(capfd: pytest.CaptureFixture[str]) -> None:
    def refuses(text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    say_at_once(refuses, "said")
    assert capfd.readouterr().out == "\nsaid\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_termination_finishes_the_batch_and_raises(number: int, tmp_path: Path) -> None:
    recorder = sends(number, 5)
    run = trainer(tmp_path, recorder)
    with pytest.raises(leyden.errors.TrainingTerminated, match="arrived: the run was ended after batch 6") as raised:
        run.fit(Net(), loader(), loader())
    assert raised.value.code == 143
    assert recorder.names.count("on_train_batch_end") == 6
    assert recorder.names[-1] == "teardown"
    assert run.received_sigterm


def test_a_termination_in_a_notebook_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    fake = types.ModuleType("IPython")
    fake.get_ipython = object  # type: ignore[attr-defined]  # what a notebook has
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert in_notebook()
    result = trainer(tmp_path, sends(signal.SIGTERM, 3)).fit(Net(), loader(), loader())
    assert result.status == "interrupted"
    assert result.last_checkpoint is not None


def test_without_a_checkpoint_callback_nothing_is_saved(tmp_path: Path) -> None:
    run = trainer(tmp_path, sends(signal.SIGTERM, 3), enable_checkpointing=False)
    with pytest.raises(SystemExit):
        run.fit(Net(), loader(), loader())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_a_signal_made_us_write_goes_with_the_next_save(tmp_path: Path) -> None:
    def run(*callbacks: Any) -> leyden.Trainer:
        return trainer(tmp_path, ModelCheckpoint(tmp_path / "kept", every_n_epochs=1, filename="{epoch}"), *callbacks)

    with pytest.raises(SystemExit):
        run(sends(signal.SIGTERM, 5)).fit(Net(), loader(), loader(), ckpt_path="last")
    assert sorted(os.listdir(tmp_path / "kept")) == ["epoch=0.ckpt", "interrupted.ckpt"]
    run().fit(Net(), loader(), loader(), ckpt_path="last")
    assert os.listdir(tmp_path / "kept") == ["epoch=1.ckpt"]


@pytest.fixture
def handlers() -> Iterator[dict[int, Any]]:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_are_put_back(handlers: dict[int, Any], tmp_path: Path) -> None:
    inside = []

    def look(*_: Any) -> None:
        inside.append(signal.getsignal(signal.SIGTERM))

    trainer(tmp_path, Recorder(on_train_start=look)).fit(Net(), loader(), loader())
    assert inside[0] is not signal.SIG_DFL
    with pytest.raises(SystemExit):
        trainer(tmp_path, sends(signal.SIGTERM, 1)).fit(Net(), loader(), loader())
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_the_user_s_own_handler_stays(handlers: dict[int, Any], tmp_path: Path) -> None:
    heard: list[int] = []

    def own(number: int, frame: Any) -> None:
        heard.append(number)

    signal.signal(signal.SIGTERM, own)
    result = trainer(tmp_path, sends(signal.SIGTERM, 3)).fit(Net(), loader(), loader())
    assert heard == [signal.SIGTERM]
    assert result.status == "finished"
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_handler_that_the_user_sets_inside_a_run_stays(handlers: dict[int, Any], tmp_path: Path) -> None:
    def own(number: int, frame: Any) -> None:
        pass

    trainer(tmp_path, Recorder(on_train_start=lambda *_: signal.signal(signal.SIGUSR1, own))).fit(Net(), loader(), loader())
    assert signal.getsignal(signal.SIGUSR1) is own


def test_in_a_thread_nothing_is_set(tmp_path: Path) -> None:
    results: list[Any] = []
    inside: list[Any] = []
    look = Recorder(on_train_start=lambda *_: inside.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=lambda: results.append(trainer(tmp_path, look).fit(Net(), loader(), loader())))
    thread.start()
    thread.join()
    assert results[0].status == "finished"
    assert inside == [signal.SIG_DFL]


def test_signals_in_other_verbs(tmp_path: Path) -> None:
    net = Net()
    for verb in ("validate", "predict"):
        recorder = Recorder(on_validation_batch_end=lambda *_: signal.raise_signal(signal.SIGTERM))
        recorder.on_predict_batch_end = recorder.on_validation_batch_end  # type: ignore[method-assign]  # the same for both
        net.predict_step = lambda batch, batch_idx: batch  # type: ignore[method-assign, assignment]  # no more is needed
        with pytest.raises(SystemExit, match=f"SIGTERM arrived: {verb} was ended"):
            getattr(trainer(tmp_path, recorder, logger=False), verb)(net, loader())
        assert recorder.names.count("on_validation_batch_end") == 1
        assert recorder.names[-1] == "teardown"


def test_ctrl_c_in_validate_is_raised(tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    recorder = Recorder(on_validation_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, recorder, logger=False).validate(Net(), loader())
    assert recorder.names[-1] == "teardown"


def test_a_second_ctrl_c_raises_where_it_is() -> None:
    noted: list[int] = []
    with noting(noted.append, interrupts=True):
        signal.raise_signal(signal.SIGINT)
        assert noted == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_cell_that_awaits_is_heard() -> None:
    def handle_sigint(*_: Any) -> None:
        raise AssertionError("it cancels what is awaited")

    handle_sigint.__module__ = "ipykernel.ipkernel"
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, handle_sigint)
    try:
        with noting(noted.append, interrupts=True):
            signal.raise_signal(signal.SIGINT)
        assert noted == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handle_sigint
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_loaders_worker_works_on_and_says_nothing() -> None:
    noted: list[int] = []
    with noting(noted.append, interrupts=True):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(len(noted))
        assert os.waitpid(child, 0)[1] == 0


def test_a_second_signal_that_ends_the_process_does_so_inside_a_batch(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import signal
        from leyden.distributed.signals import noted
        with noted(print, interrupts=False):
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            print("never")
        """
    )
    done = python("-c", script, timeout=60)
    assert done.returncode == 143
    assert "teardown" not in done.stdout
    assert "SIGUSR1 arrived again: this process ends now, without a save." in done.stderr
