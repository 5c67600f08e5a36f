"""Who started this process is read from the environment; more than one process is refused for now."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

import leyden
from leyden.callbacks.requeue import requeued
from leyden.distributed.environment import (
    ClusterEnvironment,
    LightningEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
    detect_environment,
    first_host,
    require_one_process,
)
from leyden.errors import CheckpointMissing, ConflictingOptions, InvalidOption, InvalidType, UnknownName, Unsupported
from leyden.testing import BoringModel, Recorder

TORCHRUN = {
    "RANK": "5",
    "GROUP_RANK": "1",
    "LOCAL_RANK": "2",
    "WORLD_SIZE": "6",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "4321",
}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[017-019,031]",
    "SLURM_JOB_ID": "123456",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in (*TORCHRUN, "NODE_RANK"):
            monkeypatch.delenv(name)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def figures(environment: ClusterEnvironment) -> tuple[Any, ...]:
    return (
        environment.world_size(),
        environment.global_rank(),
        environment.local_rank(),
        environment.node_rank(),
        environment.main_address,
        environment.main_port,
        environment.creates_processes_externally,
    )


def test_without_a_launcher_there_is_one_process() -> None:
    environment = detect_environment()
    assert isinstance(environment, LightningEnvironment)
    assert figures(environment)[:5] == (1, 0, 0, 0, "127.0.0.1")
    assert 0 < environment.main_port == environment.main_port < 2**16, "a free one, the same each time"
    assert not environment.creates_processes_externally


def test_processes_that_we_started_are_numbered_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "1", "RANK": "3"})
    assert figures(LightningEnvironment()) == (4, 3, 1, 1, "127.0.0.1", 29500, True)


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, TORCHRUN)
    environment = detect_environment()
    assert isinstance(environment, TorchElasticEnvironment)
    assert figures(environment) == (6, 5, 2, 1, "node7", 4321, True)


def test_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, SRUN)
    environment = detect_environment()
    assert isinstance(environment, SLURMEnvironment)
    assert figures(environment) == (4, 3, 1, 1, "gpu017", 15000 + 3456, True)


def test_a_shell_in_an_allocation_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**SRUN, "SLURM_JOB_NAME": "bash"})
    assert isinstance(detect_environment(), LightningEnvironment)


def test_a_batch_script_without_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"})
    require_one_process(detect_environment())
    assert isinstance(detect_environment(), LightningEnvironment)


def test_tasks_that_are_numbered_by_hand_are_slurms(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"})
    found = detect_environment()
    assert isinstance(found, SLURMEnvironment)
    assert (found.world_size(), found.global_rank(), found.local_rank()) == (2, 1, 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("alpha", "alpha"), ("alpha,beta", "alpha"), ("n[12-14]", "n12"), ("n[3,5]", "n3"), ("n[7]", "n7"), ("a b", "a")],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, TORCHRUN)
    with pytest.raises(Unsupported, match=r"one of 6 \(TorchElasticEnvironment\(\)\).*a strategy of one device was asked for"):
        require_one_process(detect_environment())


def test_several_nodes_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"num_nodes=2 .* or use num_nodes=1"):
        require_one_process(LightningEnvironment(), num_nodes=2)


@pytest.mark.parametrize("nodes", [0, -1, 1.5, True, "2"])
def test_a_number_of_nodes_is_a_whole_number(nodes: Any) -> None:
    with pytest.raises(InvalidOption, match="expected a number of nodes >= 1"):
        require_one_process(LightningEnvironment(), num_nodes=nodes)


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InvalidOption, match="the environment's WORLD_SIZE='two' cannot be used: expected a whole number"):
        detect_environment().world_size()


def test_one_task_of_a_batch_script_is_slurms(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "mine"})
    environment = detect_environment()
    assert isinstance(environment, SLURMEnvironment)
    assert (environment.job_id(), environment.job_name()) == (17, "mine")
    assert environment.resolve_root_node_address("n[3-5]") == "n3"
    require_one_process(environment)
    put(monkeypatch, {"SLURM_JOB_NAME": "interactive"})
    assert environment.job_id() is None


def test_the_signal_that_requeues() -> None:
    assert (SLURMEnvironment().auto_requeue, SLURMEnvironment().requeue_signal) == (True, signal.SIGUSR1)
    assert SLURMEnvironment(False, signal.SIGHUP).requeue_signal is signal.SIGHUP
    for given in (signal.SIGKILL, signal.SIGINT, 0, "SIGHUP"):
        with pytest.raises(InvalidOption, match=r"requeue_signal=.* expected a signal such as signal.SIGUSR1"):
            SLURMEnvironment(requeue_signal=given)  # type: ignore[arg-type]  # the mistakes under test
    with pytest.raises(InvalidType, match="auto_requeue='yes'"):
        SLURMEnvironment("yes")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(UnknownName, match="Did you mean 'auto_requeue'"):
        SLURMEnvironment(autorequeue=True)  # type: ignore[call-arg]  # the mistake under test


def test_what_was_started_and_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    SLURMEnvironment().validate_settings(num_devices=1, num_nodes=1)
    put(monkeypatch, {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "3"})
    with pytest.raises(ConflictingOptions, match=r"devices=1 was passed .*--ntasks-per-node=2 .*Set devices=2"):
        SLURMEnvironment().validate_settings(num_devices=1, num_nodes=3)
    with pytest.raises(ConflictingOptions, match=r"num_nodes=1 was passed .*--nodes=3"):
        SLURMEnvironment().validate_settings(num_devices=2, num_nodes=1)
    put(monkeypatch, {"SLURM_JOB_NAME": "bash"})
    SLURMEnvironment().validate_settings(num_devices=8, num_nodes=1)
    put(monkeypatch, TORCHRUN)
    TorchElasticEnvironment().validate_settings(num_devices=2, num_nodes=3)
    with pytest.raises(ConflictingOptions, match="asks for 2 processes, and torchrun has started 6"):
        TorchElasticEnvironment().validate_settings(num_devices=1, num_nodes=2)


def test_a_number_beyond_the_others_is_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, TORCHRUN | {"RANK": "6"})
    with pytest.raises(ConflictingOptions, match="RANK=6 was set, and WORLD_SIZE=6: processes count from 0 to 5"):
        TorchElasticEnvironment().validate_settings(num_devices=2, num_nodes=3)
    put(monkeypatch, {"NODE_RANK": "1"})
    monkeypatch.delenv("LOCAL_RANK")
    LightningEnvironment().validate_settings(num_devices=1, num_nodes=1)
    with pytest.raises(ConflictingOptions, match=r"NODE_RANK=1 was set, and num_nodes=1 .*Let both fit, or unset NODE_RANK"):
        LightningEnvironment().validate_settings(num_devices=2, num_nodes=1)


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    put(monkeypatch, {"MASTER_PORT": port})
    for environment in (LightningEnvironment(), TorchElasticEnvironment(), SLURMEnvironment(), MPIEnvironment()):
        with pytest.raises(InvalidOption, match=f"the environment's MASTER_PORT=.*{port}.* cannot be used"):
            _ = environment.main_port


def test_numbers_that_a_strategy_sets() -> None:
    environment = LightningEnvironment()
    environment.set_world_size(4)
    environment.set_global_rank(2)
    environment.teardown()
    assert (environment.world_size(), environment.global_rank()) == (4, 2)
    SLURMEnvironment().set_world_size(4)
    SLURMEnvironment().set_global_rank(2)
    assert SLURMEnvironment().world_size() == 1


class MyCluster(LightningEnvironment):
    """Of the user's own: what the Trainer asks it when it is made."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        raise ValueError(f"{num_devices} x {num_nodes} is not what I have started")


def test_an_environment_of_the_users_own() -> None:
    with pytest.raises(ValueError, match="1 x 1 is not what I have started"):
        leyden.Trainer(accelerator="cpu", plugins=[MyCluster()])


def scontrol(folder: Path, answer: int = 0) -> None:
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\n/bin/echo "$@" >> {folder}/asked\n/bin/echo no such job >&2\nexit {answer}\n')
    program.chmod(0o755)


def test_asking_to_be_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = SLURMEnvironment()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.requeue() == "The job was not requeued: SLURM_JOB_ID is not set."
    put(monkeypatch, {"SLURM_JOB_ID": "17"})
    assert "scontrol cannot be run" in environment.requeue()
    scontrol(tmp_path)
    assert environment.requeue() == "SLURM runs job 17 again."
    put(monkeypatch, {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"})
    assert environment.requeue() == "SLURM runs job 12_3 again."
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 17", "requeue 12_3"]
    scontrol(tmp_path, answer=1)
    assert environment.requeue() == "The job was not requeued: scontrol requeue 12_3 answered 1. no such job"


ONE_TASK = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "mine"}


def job(folder: Path, number: signal.Signals = signal.SIGUSR1, at: int = -1) -> leyden.Trainer:
    """The command of a job: it sends itself a signal before the step ``at``."""
    torch.manual_seed(0)
    run = kit.trainer(
        Recorder(on_train_batch_start=lambda run, *_: os.kill(os.getpid(), number) if run.global_step == at else None),
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=0,
        default_root_dir=folder,
        plugins=[] if number == signal.SIGUSR1 else [SLURMEnvironment(requeue_signal=number)],
    )
    run.fit(BoringModel())
    return run


def test_a_requeued_job_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin").mkdir()
    scontrol(tmp_path / "bin")
    put(monkeypatch, {**ONE_TASK, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"})
    with pytest.raises(SystemExit) as ended:
        job(tmp_path, signal.SIGUSR1, 5)
    assert ended.value.code == 143
    assert "SLURM runs job 17 again." in capsys.readouterr().out
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 17\n"
    with pytest.raises(SystemExit):
        job(tmp_path, signal.SIGUSR2, 6)
    assert "SLURM runs this job again: training goes on from " in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt"]
    newest, run = str(tmp_path / "hpc_ckpt_2.ckpt"), leyden.Trainer(**kit.QUIET, default_root_dir=tmp_path)
    assert requeued(run, None, fitting=True) == newest
    assert requeued(run, "my.ckpt", fitting=True) == newest  # what the same command was given at first
    assert requeued(run, "my.ckpt", fitting=False) == "my.ckpt"
    put(monkeypatch, {"SLURM_JOB_ID": "18"})  # another job's files are not its own
    assert requeued(run, None, fitting=True) is None
    put(monkeypatch, ONE_TASK)
    run = job(tmp_path)
    assert (run.global_step, run.ckpt_path) == (8, newest)
    assert not list(tmp_path.glob("*.ckpt"))  # the fit has ended: nothing is left to go on with
    whole = job(tmp_path)
    assert whole.ckpt_path is None
    assert not kit.differences(kit.weights(whole.lightning_module), kit.weights(run.lightning_module))


def test_a_job_that_shall_not_be_requeued_is_saved_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(monkeypatch, ONE_TASK)
    monkeypatch.setattr(SLURMEnvironment, "requeue", None)
    send = Recorder(on_train_batch_start=lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    run = kit.trainer(send, default_root_dir=tmp_path, plugins=SLURMEnvironment(auto_requeue=False))
    with pytest.raises(SystemExit):
        run.fit(BoringModel())
    assert not list(tmp_path.glob("hpc*"))


def test_no_requeued_job_has_left_anything(tmp_path: Path) -> None:
    run = leyden.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(CheckpointMissing, match="ckpt_path='hpc' was asked for, and no requeued job"):
        run.validate(BoringModel(), ckpt_path="hpc")


def test_a_file_of_a_requeued_job_by_its_word(tmp_path: Path) -> None:
    options: dict[str, Any] = {**kit.QUIET, "default_root_dir": tmp_path, "limit_train_batches": 1, "limit_val_batches": 1}
    run = leyden.Trainer(**options, max_epochs=1)
    run.fit(BoringModel())
    for number in (2, 10):
        run.save_checkpoint(tmp_path / f"hpc_ckpt_{number}.ckpt")
    again = leyden.Trainer(**options, max_epochs=2)
    again.fit(BoringModel(), ckpt_path="hpc")
    assert (again.ckpt_path, again.global_step) == (str(tmp_path / "hpc_ckpt_10.ckpt"), 2)
