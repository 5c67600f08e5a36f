"""Who started this process, and where it stands among the others."""

import os
import re
from abc import ABC, abstractmethod
from typing import Any

from leyden.errors import InvalidOption, Unsupported


class ClusterEnvironment(ABC):
    """What starts the processes of a run and numbers them. Subclass it for a launcher of your own."""

    @staticmethod
    @abstractmethod
    def detect() -> bool:
        """Whether this process was started by it."""

    @property
    @abstractmethod
    def creates_processes_externally(self) -> bool:
        """Whether it has started all processes already."""

    @property
    @abstractmethod
    def main_address(self) -> str:
        """The host on which rank 0 listens."""

    @property
    @abstractmethod
    def main_port(self) -> int:
        """The port on which rank 0 listens."""

    @abstractmethod
    def world_size(self) -> int:
        """How many processes there are."""

    @abstractmethod
    def global_rank(self) -> int:
        """This process among all, from 0."""

    @abstractmethod
    def local_rank(self) -> int:
        """This process among those of its node, from 0."""

    @abstractmethod
    def node_rank(self) -> int:
        """This node among all, from 0."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LightningEnvironment(ClusterEnvironment):
    """No launcher: this process, or processes that we start from it."""

    @staticmethod
    def detect() -> bool:
        return True

    @property
    def creates_processes_externally(self) -> bool:
        return "LOCAL_RANK" in os.environ

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return _number("MASTER_PORT", 29500)

    def world_size(self) -> int:
        return _number("WORLD_SIZE", 1)

    def global_rank(self) -> int:
        return _number("RANK", self.local_rank())

    def local_rank(self) -> int:
        return _number("LOCAL_RANK", 0)

    def node_rank(self) -> int:
        return _number("NODE_RANK", _number("GROUP_RANK", 0))


class TorchElasticEnvironment(ClusterEnvironment):
    """Started by ``torchrun``."""

    @staticmethod
    def detect() -> bool:
        return {"RANK", "GROUP_RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return _number("MASTER_PORT", 29500)

    def world_size(self) -> int:
        return _number("WORLD_SIZE", 1)

    def global_rank(self) -> int:
        return _number("RANK", 0)

    def local_rank(self) -> int:
        return _number("LOCAL_RANK", 0)

    def node_rank(self) -> int:
        return _number("GROUP_RANK", 0)


class SLURMEnvironment(ClusterEnvironment):
    """Started by SLURM's ``srun``."""

    @staticmethod
    def detect() -> bool:
        # A batch script without srun, or a shell in an allocation, is one process, however many tasks were reserved.
        if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
            return False
        return {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= os.environ.keys()

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        given = os.environ.get("MASTER_ADDR")
        return given or first_host(os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1"))

    @property
    def main_port(self) -> int:
        # Jobs that share a node must not meet: the last digits of the job's number tell them apart.
        return _number("MASTER_PORT", 15000 + _number("SLURM_JOB_ID", 0) % 10000)

    def world_size(self) -> int:
        return _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))

    def global_rank(self) -> int:
        return _number("SLURM_PROCID", 0)

    def local_rank(self) -> int:
        return _number("SLURM_LOCALID", 0)

    def node_rank(self) -> int:
        return _number("SLURM_NODEID", 0)


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list, such as ``node[017-019,031]`` or ``alpha,beta``."""
    bare = re.sub(r"\[(.*?)[,-].*?\]", r"\1", nodes)
    bare = re.sub(r"\[(.*?)\]", r"\1", bare)
    return re.split(r"[,\s]", bare.strip())[0]


def detect_environment() -> ClusterEnvironment:
    """The environment that started this process."""
    for kind in (SLURMEnvironment, TorchElasticEnvironment):
        if kind.detect():
            return kind()
    return LightningEnvironment()


def require_one_process(environment: ClusterEnvironment, num_nodes: Any = 1) -> None:
    """Raise :class:`Unsupported` where several processes train together: that is not offered yet."""
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 1:
        raise InvalidOption("num_nodes", num_nodes, "a number of nodes >= 1")
    if num_nodes > 1:
        raise Unsupported(f"num_nodes={num_nodes} asks for several processes, which are not offered yet. Use num_nodes=1.")
    size = environment.world_size()
    if size > 1:
        raise Unsupported(
            f"This process is one of {size} ({environment!r}), and training in several processes is not offered yet. "
            f"Start one process only, with devices=1."
        )


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name)
    if value is None or value == "":
        return otherwise
    try:
        return int(value)
    except ValueError as error:
        raise InvalidOption(f"the environment's {name}", value, "a whole number") from error
