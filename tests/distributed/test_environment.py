"""Who started this process is read from the environment; more than one process is refused for now."""

from __future__ import annotations

import os
from typing import Any

import pytest

from leyden.distributed.environment import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
    detect_environment,
    first_host,
    require_one_process,
)
from leyden.errors import InvalidOption, Unsupported

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
    assert figures(environment) == (1, 0, 0, 0, "127.0.0.1", 29500, False)


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


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("alpha", "alpha"), ("alpha,beta", "alpha"), ("n[12-14]", "n12"), ("n[3,5]", "n3"), ("n[7]", "n7"), ("a b", "a")],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, TORCHRUN)
    with pytest.raises(Unsupported, match=r"one of 6 \(TorchElasticEnvironment\(\)\).*Start one process only, with devices=1"):
        require_one_process(detect_environment())


def test_several_nodes_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"num_nodes=2 .* Use num_nodes=1"):
        require_one_process(LightningEnvironment(), num_nodes=2)


@pytest.mark.parametrize("nodes", [0, -1, 1.5, True, "2"])
def test_a_number_of_nodes_is_a_whole_number(nodes: Any) -> None:
    with pytest.raises(InvalidOption, match="expected a number of nodes >= 1"):
        require_one_process(LightningEnvironment(), num_nodes=nodes)


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InvalidOption, match="the environment's WORLD_SIZE='two' cannot be used: expected a whole number"):
        detect_environment().world_size()
