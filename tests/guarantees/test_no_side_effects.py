"""Guarantee 14: importing and running leave the process as it was, and write nothing outside the run's folder."""

from __future__ import annotations

import json
import os
import random
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import Logging, in_a_fresh_process
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.testing import BoringDataModule, RandomDataset

SNAPSHOT = """
import gc, json, locale, logging, multiprocessing, os, random, signal, sys, threading, warnings
import numpy as np, torch


def snapshot():
    loggers = {"": logging.getLogger(), "leyden": logging.getLogger("leyden"), "py.warnings": logging.getLogger("py.warnings")}
    return {
        "warning filters": repr(warnings.filters),
        "showwarning": repr(warnings.showwarning),
        "logging": {name: [repr(each.handlers), each.level, each.disabled, each.propagate] for name, each in loggers.items()},
        "logging switched off": logging.root.manager.disable,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": [os.umask(18), os.umask(18)][0],
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": {str(each): repr(signal.getsignal(each)) for each in signal.valid_signals()},
        "hooks": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.displayhook), repr(sys.unraisablehook)],
        "streams": [repr(sys.stdout), repr(sys.stderr), repr(sys.stdin)],
        "recursion": sys.getrecursionlimit(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "garbage": [gc.isenabled(), gc.get_threshold()],
        "path": list(sys.path),
        "trace": [repr(sys.gettrace()), repr(sys.getprofile())],
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()],
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled],
        "tf32": torch.get_float32_matmul_precision(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "anomaly": [torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()],
        "autocast": [torch.is_autocast_enabled("cpu"), str(torch.get_autocast_dtype("cpu"))],
        "printing": repr(vars(torch._tensor_str.PRINT_OPTS)),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "distributed": torch.distributed.is_initialized(),
    }


def generators():
    return [repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().tolist()]
"""
space: dict[str, Any] = {}
exec(SNAPSHOT, space)
snapshot, generators = space["snapshot"], space["generators"]


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def test_an_import_changes_nothing(tmp_path: Path) -> None:
    source = f"""{SNAPSHOT}
before, drawn = snapshot(), generators()
files, threads = os.listdir("."), threading.active_count()
import leyden, leyden.callbacks, leyden.loggers, leyden.profilers, leyden.strategies, leyden.testing, leyden.plugins
after = snapshot()
changed = {{name: [before[name], after[name]] for name in before if before[name] != after[name]}}
print(json.dumps([changed, drawn == generators(), files == os.listdir("."), threads == threading.active_count()]))
"""
    assert json.loads(in_a_fresh_process(source, folder=tmp_path).splitlines()[-1]) == [{}, True, True, True]


# -- running


@pytest.fixture(scope="module", autouse=True)
def torch_has_settled() -> None:
    """The first step of an optimizer loads torch's compiler, which sets an environment variable and a warning filter."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()


def children() -> set[str]:
    """The processes that this one has started."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def open_files() -> list[str]:
    names = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(each)
        except OSError:
            continue  # the listing's own
        if target.startswith("/") and not target.startswith(("/proc", "/dev")):
            names.append(target)
    return sorted(names)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Model(Logging):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def everything_on(root: Path, **options: Any) -> leyden.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": root,
        "max_epochs": 2,
        "limit_train_batches": 3,
        "limit_val_batches": 2,
        "limit_test_batches": 2,
        "limit_predict_batches": 2,
        "log_every_n_steps": 1,
        "logger": [CSVLogger(root), TensorBoardLogger(root)],
        "callbacks": [EarlyStopping("val_loss", patience=9), ModelCheckpoint(monitor="val_loss", save_last=True)],
        "profiler": "simple",
        "deterministic": True,
        "benchmark": False,
        "detect_anomaly": True,
    }
    return leyden.Trainer(**{**defaults, **options})


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which nothing can be written, or at least nothing may."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield folder
    folder.chmod(stat.S_IRWXU)


def test_every_verb_leaves_the_process_as_it_was(read_only: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    trainer, module = everything_on(root), Model()
    before, threads, files, processes = snapshot(), set(threading.enumerate()), open_files(), children()
    trainer.fit(module)
    assert differences(before, snapshot()) == {}
    trainer.validate(module)
    trainer.test(module)
    trainer.predict(module)
    trainer.save_checkpoint(root / "mine.ckpt")
    Model.load_from_checkpoint(root / "mine.ckpt")
    assert differences(before, snapshot()) == {}
    assert {thread.name for thread in set(threading.enumerate()) - threads} == set()
    assert open_files() == files
    assert children() == processes
    assert tree(read_only) == []
    assert {path.split(os.sep)[0] for path in tree(tmp_path)} == {"here", "runs"}


def test_the_user_s_own_settings_are_kept(tmp_path: Path) -> None:
    """What differs from the defaults is put back to what it was, not to the default."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.backends.cudnn.benchmark = True
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    try:
        before = snapshot()
        everything_on(tmp_path, max_epochs=1).fit(Model())
        assert differences(before, snapshot()) == {}
    finally:
        torch.use_deterministic_algorithms(False)
        torch.autograd.set_detect_anomaly(False)
        torch.backends.cudnn.benchmark = False
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_precision_is_not_left_behind(precision: str, tmp_path: Path) -> None:
    before = snapshot()
    trainer = everything_on(tmp_path, precision=precision, max_epochs=1, detect_anomaly=False)
    module = Model()
    trainer.fit(module)
    trainer.predict(module)
    assert differences(before, snapshot()) == {}


def test_a_verb_called_without_gradients_works_and_leaves_them_off(tmp_path: Path) -> None:
    trainer, module = everything_on(tmp_path, max_epochs=1), Model()
    weight = module.layer.weight.detach().clone()
    with torch.no_grad():
        trainer.fit(module)
        assert not torch.is_grad_enabled()
    assert not torch.equal(module.layer.weight, weight)


def test_workers_are_gone(tmp_path: Path) -> None:
    def loader(count: int) -> Any:
        return DataLoader(RandomDataset(32, count), num_workers=1)

    trainer = everything_on(tmp_path, max_epochs=1, profiler=None, limit_train_batches=1.0)
    processes = children()
    module = Model()
    trainer.fit(module, loader(4), loader(2))
    trainer.test(module, loader(2))
    assert children() - processes <= {str(tracker())}


def tracker() -> int | None:
    """multiprocessing's own helper, which lives as long as the process."""
    from multiprocessing import resource_tracker

    return getattr(resource_tracker._resource_tracker, "_pid", None)


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_bars_give_the_streams_back(bar: Any, tmp_path: Path) -> None:
    before = snapshot()
    everything_on(tmp_path, max_epochs=1, callbacks=[bar()]).fit(Model())
    assert differences(before, snapshot()) == {}


# -- random numbers


def seed() -> None:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


def test_what_is_not_training_draws_nothing(tmp_path: Path) -> None:
    """A trainer that is made, a checkpoint that is written or loaded: the generators stand where they stood."""
    module, data = Model(), BoringDataModule()
    seed()
    before = generators()
    trainer = everything_on(tmp_path)
    assert generators() == before
    loader = DataLoader(torch.ones(2, 32))
    trainer.fit(module, loader, loader)
    seed()
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    Model.load_from_checkpoint(tmp_path / "mine.ckpt")
    data.state_dict()
    assert generators() == before


def test_seed_everything_is_what_it_says() -> None:
    names = {"PL_GLOBAL_SEED", "PL_SEED_WORKERS"}
    kept = {name: os.environ.pop(name, None) for name in names}
    before = dict(os.environ)
    try:
        leyden.seed_everything(1)
        assert {name for name in os.environ if os.environ[name] != before.get(name)} <= names
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


# -- files


def test_nothing_is_written_when_all_is_off(read_only: Path) -> None:
    trainer = leyden.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, limit_train_batches=2, limit_val_batches=1
    )
    module = Model()
    trainer.fit(module)
    trainer.test(module, DataLoader(torch.ones(2, 32)))
    assert tree(read_only) == []


def test_a_smoke_run_writes_nothing(read_only: Path) -> None:
    leyden.Trainer(accelerator="cpu", fast_dev_run=True).fit(Model())
    assert tree(read_only) == []


def test_a_trainer_that_never_runs_writes_nothing(read_only: Path) -> None:
    trainer = leyden.Trainer(logger=[CSVLogger("."), TensorBoardLogger(".")], callbacks=[ModelCheckpoint()])
    assert trainer.log_dir is not None
    assert tree(read_only) == []


def test_a_fit_that_is_refused_writes_nothing(read_only: Path) -> None:
    class Unfinished(leyden.LightningModule):
        pass

    with pytest.raises(leyden.errors.MissingMethod):
        leyden.Trainer().fit(Unfinished())
    assert tree(read_only) == []


def test_only_one_folder_is_written(tmp_path: Path) -> None:
    """The defaults: rows and checkpoints of a run lie in one folder of its own."""
    trainer = leyden.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=2, limit_val_batches=1, default_root_dir=tmp_path / "root"
    )
    trainer.fit(Model())
    assert {str(Path(path).parent) for path in tree(tmp_path) if (tmp_path / path).is_file()} == {
        "root/lightning_logs/version_0",
        "root/lightning_logs/version_0/checkpoints",
    }


def test_warnings_of_the_user_come_through(tmp_path: Path) -> None:
    class Warning_(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            warnings.warn("mine", DeprecationWarning, stacklevel=1)
            return super().training_step(batch, batch_idx)

    with pytest.warns(DeprecationWarning, match="mine"):
        everything_on(tmp_path, max_epochs=1).fit(Warning_())
