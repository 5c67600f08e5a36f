"""How several processes begin: who started them, what the Trainer is told, and what comes back from processes of its own."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
import torch.distributed as dist
from real_processes import outcomes_together, together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.distributed import watch
from leyden.distributed.environment import (
    ClusterEnvironment,
    InitializedGroup,
    LightningEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    detect_environment,
)
from leyden.distributed.group import Group, Started
from leyden.distributed.launchers import lifeline
from leyden.distributed.launchers.pickled import culprit, error_of, make_own, of_session
from leyden.distributed.launchers.threads import share_threads
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import ConflictingOptions, LeydenWarning, MissingPackage, Unsupported, warn_user
from leyden.strategies import DDPStrategy
from leyden.testing import BoringModel, Recorder

NUMBERED = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).pow(2).mean()
        self.log("loss", loss, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", batch[0][:, 0].mean())

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        out: Tensor = self.layer(batch[0])
        return out

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def samples(count: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(3.0 * count).view(count, 3) / count), 2)


# Who started them

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "{rank}", "OMPI_COMM_WORLD_LOCAL_RANK": "{rank}", "OMPI_COMM_WORLD_SIZE": "2"}
INTEL_MPI = {"PMI_RANK": "{rank}", "MPI_LOCALRANKID": "{rank}", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "mine",
    "SLURM_PROCID": "{rank}",
    "SLURM_LOCALID": "{rank}",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
}
RAY = {"RANK": "{rank}", "LOCAL_RANK": "{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0"}
STARTERS = {
    "torchrun": (None, "torchrun"),
    "Open MPI": (OPEN_MPI, "MPI"),
    "Intel MPI": (INTEL_MPI, "MPI"),
    "SLURM": (SRUN, "SLURM"),
    "Ray": (RAY, "a launcher that sets LOCAL_RANK"),
    "a group": ({}, "whoever initialised torch.distributed"),
}


def renumber(variables: dict[str, str] | None) -> int:
    """The rank of this process, numbered by ``variables`` from now on."""
    rank = int(os.environ["RANK"])
    if variables is not None:
        for name in NUMBERED:
            del os.environ[name]
        os.environ.update({name: value.format(rank=rank) for name, value in variables.items()})
    return rank


def fitted_under(starter: str, devices: int | None) -> Any:
    if starter in ("a group", "Ray"):
        dist.init_process_group("gloo")
    rank = renumber(STARTERS[starter][0])
    module = Net()
    run = kit.trainer(max_epochs=1, **({} if devices is None else {"devices": devices}))
    run.fit(module, samples())
    said = run.strategy.processes.started_by
    assert (run.global_rank, run.local_rank, run.node_rank, run.num_nodes) == (rank, rank, 0, 1)
    assert isinstance(run.strategy, DDPStrategy)
    return run.world_size, said, run.global_step, kit.weights(module)


@pytest.mark.parametrize("starter", list(STARTERS))
def test_processes_that_somebody_started_are_used(starter: str) -> None:
    first, second = together(2, fitted_under, starter, None if starter != "Open MPI" else 2)
    assert first[:3] == (2, STARTERS[starter][1], 2)
    assert kit.same(first[3], second[3])


def told(options: dict[str, Any]) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        kit.trainer(max_epochs=1, **{"enable_model_summary": True, **options}).fit(Net(), samples())
    return out.getvalue()


def test_one_line_says_who_started_them() -> None:
    first, second = together(2, told, {})
    assert "2 processes, started by torchrun." in first
    assert second == ""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI", "MPI_")) or name in (*NUMBERED, "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)

    def put(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_mpi(bare: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not MPIEnvironment.detect()
    bare({"OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "2"})
    bare({"OMPI_COMM_WORLD_LOCAL_SIZE": "3", "PMIX_NAMESPACE": "job 7"})
    environment = detect_environment()
    assert isinstance(environment, MPIEnvironment)
    numbers = environment.world_size(), environment.global_rank(), environment.local_rank(), environment.node_rank()
    assert (*numbers, environment.leyden_nodes()) == (6, 5, 2, 1, 2)
    assert environment.creates_processes_externally
    assert 15000 <= environment.main_port == MPIEnvironment().main_port < 25000
    with pytest.raises(MissingPackage, match="pip install mpi4py"):
        environment.main_address  # noqa: B018  # it is read, and raises
    bare({"MASTER_ADDR": "node7", "MASTER_PORT": "1234"})
    assert (environment.main_address, environment.main_port) == ("node7", 1234)
    assert leyden.plugins.MPIEnvironment is MPIEnvironment


def test_slurm_has_started_fewer_than_it_promised(bare: Callable[[dict[str, str]], None]) -> None:
    bare({name: value.format(rank=0) for name, value in SRUN.items()} | {"SLURM_NTASKS_PER_NODE": "4"})
    with pytest.raises(ConflictingOptions, match=r"SLURM was asked for 4 tasks .* and srun has started 2 .*--ntasks=4"):
        kit.trainer(devices=4)


def test_several_nodes_have_to_find_each_other(bare: Callable[[dict[str, str]], None]) -> None:
    with pytest.raises(ConflictingOptions, match=r"num_nodes=2 .*MASTER_ADDR, MASTER_PORT, NODE_RANK not set"):
        kit.trainer(devices=2, num_nodes=2)
    bare({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4321", "NODE_RANK": "2"})
    with pytest.raises(ConflictingOptions, match=r"NODE_RANK=2 was set, and num_nodes=2 .* nodes count from 0 to 1"):
        kit.trainer(devices=2, num_nodes=2)
    bare({"NODE_RANK": "1"})
    run = kit.trainer(devices=2, num_nodes=2)
    assert (run.world_size, run.global_rank, run.node_rank, run.num_nodes) == (4, 2, 1, 2)


def test_a_port_in_use(bare: Callable[[dict[str, str]], None]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bare({"MASTER_PORT": str(port), "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"})
        group = Group(LightningEnvironment(), Started(), nodes=1, per_node=2)
        with pytest.raises(ConflictingOptions, match=f"Port {port} of 127.0.0.1, .* is in use by another program"):
            group.begin()
    assert not dist.is_initialized()
    rank_zero_only.rank = None  # as it was before


class WithoutClone(dist.PrefixStore):  # type: ignore[name-defined,misc]  # torch does not declare it
    """As torch 2.6 has stores."""

    @property
    def clone(self) -> Any:
        raise AttributeError("clone")


def test_a_client_of_its_own_where_a_store_knows_no_clones() -> None:
    served = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]  # as above
    mine, theirs = (watch._cloned(WithoutClone("group", WithoutClone("attempt", served))) for _ in range(2))
    others = watch._cloned(WithoutClone("another group", served))
    mine.set("said", "1")
    assert theirs.check(["said"])
    assert theirs.get("said") == b"1"
    assert not others.check(["said"])
    with pytest.raises(NotImplementedError):
        watch._cloned(WithoutClone("threads", dist.HashStore()))  # type: ignore[attr-defined]  # as above


class MyCluster(ClusterEnvironment):
    """Of the user's own: it numbers by variables of its own, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @staticmethod
    def detect() -> bool:
        return True

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return int(os.environ["MY_PORT"])

    def world_size(self) -> int:
        return 2

    def global_rank(self) -> int:
        return int(os.environ["MY_RANK"])

    def local_rank(self) -> int:
        return int(os.environ["MY_RANK"])

    def node_rank(self) -> int:
        return 0

    def set_world_size(self, size: int) -> None:
        self.told.append(("world", size))

    def set_global_rank(self, rank: int) -> None:
        self.told.append(("rank", rank))

    def teardown(self) -> None:
        self.told.append("teardown")


def fitted_under_mine(way: str) -> Any:
    os.environ["MY_PORT"] = os.environ.pop("MASTER_PORT")
    rank = renumber({"MY_RANK": "{rank}"})
    mine = MyCluster()
    if way == "plugins":
        run = kit.trainer(devices=2, max_epochs=1, plugins=[mine])
    else:
        run = kit.trainer(devices=2, max_epochs=1, strategy=DDPStrategy(cluster_environment=mine))
    run.fit(Net(), samples())
    assert mine.told[0] == ("rank", rank)
    assert mine.told[1] == ("world", 2)
    assert mine.told.count("teardown") == 1
    return run.world_size, run.global_step, run.strategy.processes.started_by


@pytest.mark.parametrize("way", ["plugins", "strategy"])
def test_an_environment_of_the_users_own(way: str) -> None:
    assert together(2, fitted_under_mine, way) == [(2, 2, "what MyCluster says")] * 2


# One process beside others


def alone_after_all(fails: bool, mixes: bool) -> Any:
    if mixes:
        renumber(RAY)  # a launcher that leaves it to the Trainer how many work together
    else:
        with pytest.raises(ConflictingOptions, match="devices=1"):  # as yet it may be a mistake
            kit.trainer(devices=1)
    both = kit.trainer(devices=2, max_epochs=1)
    module = Net()
    both.fit(module, samples())
    one = kit.trainer(
        devices=1, max_epochs=1, limit_train_batches=1, logger=True, enable_checkpointing=True, enable_progress_bar=False
    )
    if fails:
        with pytest.raises(ZeroDivisionError, match="here"):
            one.fit(Failing(), samples())
    one.fit(module, samples(), samples())
    results = one.test(module, samples(5), ckpt_path="best", verbose=False)
    return (
        one.world_size,
        one.is_global_zero,
        results,
        one.global_step,
        str(one.checkpoint_callback.best_model_path),
        kit.weights(module),
    )


class Failing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise ZeroDivisionError("here")


@pytest.mark.parametrize("mixes", [True, False])
def test_a_trainer_of_one_process_works_once_and_all_know_the_outcome(mixes: bool) -> None:
    first, second = together(2, alone_after_all, True, mixes)
    assert first[:2] == (1, True)
    assert second[:2] == (1, False)
    assert first[2:5] == second[2:5]
    assert Path(first[4]).exists()
    assert kit.same(first[5], second[5])


def signal_to_one_that_waits(name: str, began: str) -> Any:
    renumber(RAY)
    kit.trainer(devices=2, max_epochs=1).fit(Net(), samples())
    one = kit.trainer(devices=1, max_epochs=-1)

    class Endless(Net):
        def on_train_batch_start(self, *_: Any) -> None:
            Path(began).touch()

    def send() -> None:
        while not Path(began).exists():
            time.sleep(0.01)
        os.kill(os.getpid(), getattr(signal, name))

    if dist.get_rank() == 1:
        threading.Thread(target=send, daemon=True).start()
    try:
        one.fit(Endless(), samples())
    except SystemExit as error:
        return error.code, one.interrupted
    return 0, one.interrupted


@pytest.mark.parametrize(("name", "outcome"), [("SIGINT", (0, True)), ("SIGTERM", (143, True))])
def test_a_signal_to_one_that_waits_reaches_the_one_that_works(name: str, outcome: Any, tmp_path: Path) -> None:
    assert together(2, signal_to_one_that_waits, name, str(tmp_path / "began")) == [outcome, outcome]


def test_another_number_of_processes_than_the_script_runs_in(
    bare: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare({"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"})
    monkeypatch.setattr(lifeline, "RUN_AGAIN", True)
    with pytest.raises(ConflictingOptions, match=r"devices=4 .* asks for 4 processes, and this script runs in 2: .*or devices=1"):
        kit.trainer(devices=4)
    run = kit.trainer()  # what the first process took it for, before it started the others
    assert (run.world_size, run.is_global_zero) == (1, False)


# Processes that a verb starts


def several_verbs(strategy: str) -> Any:
    for name in (*NUMBERED, "MASTER_PORT", "MASTER_ADDR"):
        del os.environ[name]
    torch.manual_seed(0)
    module = Net()
    module.my_lambda = lambda: None  # a fork has it, and nothing is pickled
    stopper = EarlyStopping("value", patience=1, mode="max")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    callbacks = [stopper, ModelCheckpoint(monitor="value", mode="max")]
    run = leyden.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=5, callbacks=callbacks, **quiet)
    before = kit.weights(module)
    result = run.fit(module, samples(), samples(5))
    assert not kit.same(before, kit.weights(module))
    assert (result.status, result.steps, result.epochs) == ("stopped", 4, 2), result
    assert run.should_stop
    assert run.leyden_stop_reason == result.reason
    assert (run.current_epoch, run.global_step, stopper.stopped_epoch) == (2, 4, 1)
    assert run.callback_metrics["value"] == pytest.approx(1.2)
    assert {"loss_step", "loss_epoch"} <= run.progress_bar_metrics.keys()
    folder = Path(str(run.log_dir))
    assert (folder / "checkpoints" / Path(run.checkpoint_callback.best_model_path).name).exists()
    assert run.checkpoint_callback.best_model_path == result.best_checkpoint
    tested = run.test(module, samples(5), ckpt_path="best", verbose=False)
    assert tested == [{"value": pytest.approx(1.2)}]
    predicted = run.predict(module, samples())
    assert predicted is not None
    assert len(predicted) in (2, 4)
    assert Path(str(run.log_dir)) == folder
    again = kit.trainer(devices=3, strategy=strategy, max_epochs=1)
    again.fit(module, samples(6))
    assert "MASTER_PORT" not in os.environ
    return again.global_step


def test_a_forked_run_brings_everything_back() -> None:
    assert together(1, several_verbs, "ddp_fork") == [1]


class Drawing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        drawn = torch.randn(3) + random.random() + float(np.random.rand())  # as augmentations draw
        return super().training_step([batch[0] + drawn], batch_idx)


def trained_by(starts: list[str]) -> list[Tensor]:
    sys.path.insert(0, str(Path(__file__).parent))  # new processes look for this file there
    for name in (*NUMBERED, "MASTER_PORT", "MASTER_ADDR"):
        os.environ.pop(name, None)
    found = []
    for start in starts:
        leyden.seed_everything(3, verbose=False)
        module = Drawing()
        strategy = DDPStrategy(start_method=start)  # type: ignore[arg-type]  # one of those that it takes
        kit.trainer(devices=2, strategy=strategy, max_epochs=2).fit(module, samples(16))
        found.append(torch.cat([value.detach().flatten() for value in module.parameters()]))
    return found


def test_new_processes_train_weights_of_their_own_from_the_seed_as_a_fork_does() -> None:
    [(forked, sent)] = together(1, trained_by, ["fork", "forkserver"])
    assert torch.equal(forked, sent)


def test_what_is_sent_gets_memory_of_its_own_and_data_stays_where_it_is() -> None:
    module, data = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.ones(4, 2)
    module.append(nn.Linear(2, 2)).get_submodule("2").weight = module[0].weight
    kept = {"halves": torch.arange(4.0).split(2), "loader": DataLoader(TensorDataset(data))}
    for tensor in (*module.parameters(), *module.buffers(), *kept["halves"], data):
        tensor.share_memory_()
    before = kit.weights(module)
    make_own((module, kept))
    assert not any(tensor.is_shared() for tensor in (*module.parameters(), *module.buffers(), *kept["halves"]))
    assert data.is_shared()
    assert module[0].weight is module[2].weight
    first, second = kept["halves"]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert second.tolist() == [2.0, 3.0]
    assert kit.same(before, kit.weights(module))


@pytest.mark.parametrize("start", ["", "_spawn", "_fork", "_notebook"])
@pytest.mark.parametrize("found", [True, False])
def test_names_that_say_whether_parameters_are_looked_for(start: str, found: bool) -> None:
    run = kit.trainer(devices=2, strategy=f"ddp{start}_find_unused_parameters_{str(found).lower()}")
    launcher = run.strategy.leyden_launcher()
    assert getattr(launcher, "start_method", "popen") == {"": "popen", "_spawn": "spawn"}.get(start, "fork")
    assert run.strategy.configure_ddp is not None
    assert run.strategy._ddp_kwargs == {"find_unused_parameters": found}


def test_what_cannot_be_sent_is_named() -> None:
    module, loader = BoringModel(), samples()
    module.my_lambda = lambda: None
    run = kit.trainer(devices=2, strategy="ddp_spawn")
    with pytest.raises(Unsupported, match=r"and model\.my_lambda cannot be pickled: .*Define it at the top of a file"):
        run.fit(module, loader)
    del module.my_lambda
    module.layers = nn.ModuleList([nn.Linear(1, 1), Activation()])
    with pytest.raises(Unsupported, match=r"and model\.layers\[1\]\.function cannot be pickled"):
        run.fit(module, loader)
    del module.layers
    loader.dataset.transform = {"train": [abs, lambda x: x]}  # type: ignore[attr-defined]  # as a dataset of the user's has one
    with pytest.raises(Unsupported, match=r"and train_dataloaders\.dataset\.transform\['train'\]\[1\] cannot be pickled"):
        run.fit(module, loader)


def test_a_warning_in_a_copy_of_this_process_points_at_the_users_line() -> None:
    with pytest.warns(LeydenWarning) as caught:
        multiprocessing.Process(target=warn_user, args=("said",)).run()  # as the copy does
    assert caught[0].filename == __file__


def test_what_a_session_defines_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    session = types.ModuleType("__main__")
    session.Net = type("Net", (BoringModel,), {"__module__": "__main__"})  # type: ignore[attr-defined]  # as in a cell
    monkeypatch.setitem(sys.modules, "__main__", session)
    run = kit.trainer(devices=2, strategy="ddp_spawn")
    with pytest.raises(Unsupported, match=r"cannot import Net: it is defined in this session .* use strategy='ddp_notebook'"):
        run.fit(session.Net(), samples())
    assert of_session(BoringModel()) is None
    session.__file__ = __file__
    assert of_session(session.Net()) is None


class Activation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x


def test_the_path_ends_where_the_parts_can_be_sent() -> None:
    class Local:
        """Defined in a function: it cannot be pickled, and all that is in it can."""

    assert error_of([1, "a"]) is None
    assert culprit({"a": [1, Local()]}, "model") == "model['a'][1]"


def test_a_fork_after_cuda_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(Unsupported, match="CUDA is in use in this process already, so it cannot be forked"):
        kit.trainer(devices=2, strategy="ddp_notebook").fit(BoringModel())


# Threads, and the end of a launcher


def test_processors_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert share_threads(2) == {"OMP_NUM_THREADS": "4"}
        assert torch.get_num_threads() == 3, "the user's choice is less"
        assert share_threads(4) == {"OMP_NUM_THREADS": "2"}
        assert torch.get_num_threads() == 2
        assert share_threads(99) == {"OMP_NUM_THREADS": "1"}
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert share_threads(4) == {}
    finally:
        torch.set_num_threads(before)


def orphan(watched: bool, file: str) -> None:
    launcher = os.fork()
    if launcher:
        os.waitpid(launcher, 0)
        return
    child = os.fork()
    if not child:
        lifeline.tie_to(os.getppid(), watched=watched)
        Path(file).write_text(str(os.getpid()))
        signal.pause()
    while not Path(file).exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("watched", [False, True])
def test_a_process_ends_with_the_one_that_started_it(watched: bool, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    together(1, orphan, watched, str(file))
    until = time.monotonic() + 10
    while is_running(int(file.read_text())) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_running(int(file.read_text()))


# SLURM's signal


def requeued_by(folder: str, whom: int) -> Any:
    rank = renumber(SRUN)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def send(trainer: Any, *_: Any) -> None:
        if rank == whom and trainer.global_step == 3 and not Path(folder, "sent").exists():
            Path(folder, "sent").touch()
            os.kill(os.getpid(), signal.SIGUSR1)

    torch.manual_seed(0)
    module = Net()
    run = kit.trainer(Recorder(on_train_batch_start=send), devices=2, max_epochs=4, default_root_dir=folder)
    run.fit(module, samples())
    return run.global_step, run.ckpt_path, kit.weights(module)


@pytest.mark.parametrize("whom", [0, 1])
def test_a_job_of_two_processes_is_requeued(whom: int, tmp_path: Path) -> None:
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    program.chmod(0o755)
    ended = outcomes_together(2, requeued_by, str(tmp_path), whom)
    assert [getattr(outcome, "code", outcome) for outcome in ended] == [143, 143]
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["hpc_ckpt_1.ckpt"]
    first, second = together(2, requeued_by, str(tmp_path), whom)
    assert first[:2] == second[:2] == (8, str(tmp_path / "hpc_ckpt_1.ckpt"))
    whole = together(2, requeued_by, str(tmp_path), whom)
    assert kit.same(whole[0][2], first[2])
    assert not list(tmp_path.glob("*.ckpt"))


def test_an_initialised_group_is_detected_only_where_there_is_one() -> None:
    assert not InitializedGroup.detect()
    assert SLURMEnvironment().leyden_nodes() == 1


def test_a_group_of_one_gives_way_to_several_processes() -> None:
    """What a Trainer of one process has made for itself is no hindrance to the next, which asks for more."""
    module = BoringModel()
    kit.trainer(devices=1, strategy="ddp", limit_val_batches=0).fit(module)
    assert dist.get_world_size() == 1
    run = kit.trainer(devices=2, strategy="ddp_fork", limit_val_batches=0)
    assert not dist.is_initialized()
    run.fit(module)
    assert run.global_step == 32
    kit.trainer(devices=1, strategy="ddp", limit_val_batches=0).fit(module)
    dist.destroy_process_group()
