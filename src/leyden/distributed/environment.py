"""Who started this process, and where it stands among the others."""

import os
import re
import signal
import socket
import subprocess
import zlib
from abc import ABC, abstractmethod
from typing import Any

import torch.distributed as dist

from leyden.checked import check_bool
from leyden.errors import ConflictingOptions, InvalidOption, MissingPackage, Unsupported
from leyden.spelling import exact_arguments


class ClusterEnvironment(ABC):
    """What starts the processes of a run and numbers them. Subclass it for a launcher of your own."""

    leyden_mixes: bool = False
    """Whether a Trainer of one process may run in each of several that were started."""

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

    def set_world_size(self, size: int) -> None:  # noqa: B027  # most are told by who started them
        """Note how many processes there are, where nobody else does."""

    def set_global_rank(self, rank: int) -> None:  # noqa: B027  # as above
        """Note this process's number among all, where nobody else does."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:  # noqa: B027  # most have nothing to compare
        """Raise where what the Trainer was asked for and what was started do not fit. Called when the Trainer is made."""

    def teardown(self) -> None:  # noqa: B027  # most leave nothing behind
        """Put back what was set. Called when a verb of several processes has ended."""

    @property
    def leyden_starter(self) -> str:
        """Who started the processes, as the end of "2 processes, started by ..."."""
        return f"what {type(self).__name__} says"

    def leyden_nodes(self) -> int:
        """How many machines there are, where processes were started on all of them already."""
        return max(1, self.world_size() // max(1, _number("LOCAL_WORLD_SIZE", self.world_size())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LightningEnvironment(ClusterEnvironment):
    """No launcher: this process, or processes that we start from it. On several nodes the same command is given on each, with
    ``MASTER_ADDR``, ``MASTER_PORT`` and ``NODE_RANK`` in its environment.
    """

    leyden_mixes = True
    _size: int | None = None
    _rank: int | None = None
    _port: int | None = None

    def set_world_size(self, size: int) -> None:
        """Note how many processes there are."""
        self._size = size

    def set_global_rank(self, rank: int) -> None:
        """Note this process's number among all."""
        self._rank = rank

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
        given = _port(0)
        if given or self.creates_processes_externally:
            return given or 29500
        if self._port is None:
            self._port = free_port()
        return self._port

    @property
    def leyden_starter(self) -> str:
        return "a launcher that sets LOCAL_RANK"

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise :class:`ConflictingOptions` where there are several nodes, and they cannot find each other."""
        if num_devices * num_nodes == 1 or self.creates_processes_externally:
            return
        needed = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
        missing = [
            name for name in needed if not os.environ.get(name) and not (name == "NODE_RANK" and "GROUP_RANK" in os.environ)
        ]
        if missing and num_nodes > 1:
            raise ConflictingOptions(
                f"num_nodes={num_nodes} was passed to the Trainer, and nothing has started the processes of several nodes: "
                f"{', '.join(missing)} not set. Start the script by torchrun or srun, or on each node with MASTER_ADDR and "
                f"MASTER_PORT (of the first node) and NODE_RANK (0 to {num_nodes - 1}) in the environment."
            )
        if not 0 <= self.node_rank() < num_nodes:
            raise ConflictingOptions(
                f"NODE_RANK={self.node_rank()} was set, and num_nodes={num_nodes} was passed to the Trainer: nodes count from 0 "
                f"to {num_nodes - 1}. Let both fit{', or unset NODE_RANK' if num_nodes == 1 else ''}."
            )

    def world_size(self) -> int:
        return _number("WORLD_SIZE", 1) if self._size is None else self._size

    def global_rank(self) -> int:
        return _number("RANK", self.local_rank()) if self._rank is None else self._rank

    def local_rank(self) -> int:
        return _number("LOCAL_RANK", 0)

    def node_rank(self) -> int:
        return _number("NODE_RANK", _number("GROUP_RANK", 0))


class InitializedGroup(LightningEnvironment):
    """:mod:`torch.distributed` is initialised already, by the user or by who started this process: that group is used."""

    @staticmethod
    def detect() -> bool:
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def leyden_starter(self) -> str:
        return "whoever initialised torch.distributed"

    def world_size(self) -> int:
        return dist.get_world_size()

    def global_rank(self) -> int:
        return dist.get_rank()

    def local_rank(self) -> int:
        return _number("LOCAL_RANK", dist.get_rank() % _number("LOCAL_WORLD_SIZE", dist.get_world_size()))

    def node_rank(self) -> int:
        number = dist.get_rank() // _number("LOCAL_WORLD_SIZE", dist.get_world_size())
        return _number("NODE_RANK", _number("GROUP_RANK", number))


class TorchElasticEnvironment(ClusterEnvironment):
    """Started by ``torchrun``."""

    @property
    def leyden_starter(self) -> str:
        return "torchrun"

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise :class:`ConflictingOptions` where ``torchrun`` has started another number of processes."""
        if not 0 <= self.global_rank() < self.world_size():
            raise ConflictingOptions(
                f"RANK={self.global_rank()} was set, and WORLD_SIZE={self.world_size()}: processes count from 0 to "
                f"{self.world_size() - 1}. Let both fit, or leave both to torchrun."
            )
        if num_devices * num_nodes != self.world_size():
            raise ConflictingOptions(
                f"devices={num_devices} on num_nodes={num_nodes} asks for {num_devices * num_nodes} processes, and torchrun has "
                f"started {self.world_size()}. Pass --nproc-per-node={num_devices} and --nnodes={num_nodes} to it."
            )

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
        return _port(29500)

    def world_size(self) -> int:
        return _number("WORLD_SIZE", 1)

    def global_rank(self) -> int:
        return _number("RANK", 0)

    def local_rank(self) -> int:
        return _number("LOCAL_RANK", 0)

    def node_rank(self) -> int:
        return _number("GROUP_RANK", 0)


@exact_arguments
class SLURMEnvironment(ClusterEnvironment):
    """Started by SLURM's ``srun``.

    Where SLURM ends a job with ``requeue_signal`` (``#SBATCH --signal=SIGUSR1@90``), the running batch is finished, the state
    of training is saved as ``hpc_ckpt_1.ckpt`` (``_2`` ...) under ``default_root_dir``, and SLURM is asked to run the job again.
    There the same command goes on from that file. Found by itself, or passed in ``Trainer(plugins=...)``.

    Args:
        auto_requeue: whether to do so; else the signal saves and ends the run, and that is all.
        requeue_signal: which signal means that. Default: SIGUSR1, where there is one.

    Raises :class:`InvalidOption` for a signal that cannot be caught, or is Ctrl-C's.
    """

    def __init__(self, auto_requeue: bool = True, requeue_signal: signal.Signals | None = None) -> None:
        super().__init__()
        self.auto_requeue = check_bool("auto_requeue", auto_requeue)
        if requeue_signal is None:
            self.requeue_signal: signal.Signals | None = getattr(signal, "SIGUSR1", None)  # Windows has none
            return
        expected = "a signal such as signal.SIGUSR1 that a process may catch, and that is not Ctrl-C's"
        try:
            self.requeue_signal = signal.Signals(requeue_signal)
        except ValueError as error:
            raise InvalidOption("requeue_signal", requeue_signal, expected) from error
        if self.requeue_signal.name in ("SIGKILL", "SIGSTOP", "SIGINT"):
            raise InvalidOption("requeue_signal", requeue_signal, expected)

    @staticmethod
    def job_id() -> int | None:
        """The job's number; ``None`` outside of a job, and in an interactive one."""
        return None if _is_interactive() else _number("SLURM_JOB_ID", 0) or None

    @staticmethod
    def job_name() -> str | None:
        """The job's name, or ``None``."""
        return os.environ.get("SLURM_JOB_NAME")

    @staticmethod
    def resolve_root_node_address(nodes: str) -> str:
        """The first host of a node list, such as ``node[017-019,031]`` or ``alpha,beta``."""
        return first_host(nodes)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise :class:`ConflictingOptions` where SLURM was asked for another number of nodes, or of tasks a node."""
        if _is_interactive():
            return
        promised, started = _number("SLURM_NTASKS_PER_NODE", 0) * _number("SLURM_NNODES", num_nodes), self.world_size()
        if promised > started and "SLURM_STEP_NUM_TASKS" in os.environ:
            raise ConflictingOptions(
                f"SLURM was asked for {promised} tasks (SLURM_NTASKS_PER_NODE x SLURM_NNODES), and srun has started {started} "
                f"(SLURM_STEP_NUM_TASKS): the others would be waited for. Start the script by srun without --ntasks, or with "
                f"--ntasks={promised}."
            )
        for name, option, given in (
            ("SLURM_NTASKS_PER_NODE", "devices", num_devices),
            ("SLURM_NNODES", "num_nodes", num_nodes),
        ):
            asked = _number(name, given)
            if asked != given:
                word = "--ntasks-per-node" if option == "devices" else "--nodes"
                raise ConflictingOptions(
                    f"{option}={given} was passed to the Trainer, and SLURM was asked for {word}={asked} ({name}). Set "
                    f"{option}={asked}, or change {word}."
                )

    @property
    def leyden_starter(self) -> str:
        return "SLURM"

    def leyden_nodes(self) -> int:
        return _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 1))

    def requeue(self) -> str:
        """Ask SLURM to run the job again; returns what happened, in a sentence."""
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
        if not job:
            return "The job was not requeued: SLURM_JOB_ID is not set."
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        except OSError as error:
            return f"The job was not requeued: scontrol cannot be run ({error})."
        if done.returncode:
            return f"The job was not requeued: scontrol requeue {job} answered {done.returncode}. {done.stderr.strip()}"
        return f"SLURM runs job {job} again."

    @staticmethod
    def detect() -> bool:
        # A batch script without srun, or a shell in an allocation, is one process, however many tasks were reserved.
        if _is_interactive():
            return False
        if os.environ.get("SLURM_NTASKS") == "1" and "SLURM_PROCID" in os.environ:
            return True
        if {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"} <= os.environ.keys() and "SLURM_JOB_ID" not in os.environ:
            return True  # set by hand: a batch script always has the job's number
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
        return _port(15000 + _number("SLURM_JOB_ID", 0) % 10000)

    def world_size(self) -> int:
        return _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))

    def global_rank(self) -> int:
        return _number("SLURM_PROCID", 0)

    def local_rank(self) -> int:
        return _number("SLURM_LOCALID", 0)

    def node_rank(self) -> int:
        return _number("SLURM_NODEID", 0)


class MPIEnvironment(ClusterEnvironment):
    """Started by ``mpirun`` or ``mpiexec``: of Open MPI, MPICH, Intel MPI or MVAPICH, by the variables that they set.

    On one machine nothing else is needed. On several, set ``MASTER_ADDR``, or install ``mpi4py``, which is asked for the host
    of rank 0.
    """

    _address: str | None = None

    @staticmethod
    def detect() -> bool:
        return _mpi("SIZE", 1) > 1

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def leyden_starter(self) -> str:
        return "MPI"

    @property
    def main_address(self) -> str:
        given = os.environ.get("MASTER_ADDR")
        if given or self.leyden_nodes() == 1:
            return given or "127.0.0.1"
        if self._address is None:
            try:
                from mpi4py import MPI  # type: ignore[import-not-found,unused-ignore]  # optional
            except ModuleNotFoundError as error:
                raise MissingPackage("mpi4py", "finding the first of several machines under MPI (or set MASTER_ADDR)") from error
            self._address = MPI.COMM_WORLD.bcast(socket.gethostname(), root=0)
        return self._address or ""

    @property
    def main_port(self) -> int:
        # All processes of a job find the same number, and jobs that share a machine most likely different ones.
        for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID", "PMI_ID"):
            if os.environ.get(name):
                return _port(15000 + zlib.crc32(os.environ[name].encode()) % 10000)
        return _port(29500)

    def world_size(self) -> int:
        return _mpi("SIZE", 1)

    def global_rank(self) -> int:
        return _mpi("RANK", 0)

    def local_rank(self) -> int:
        return _mpi("LOCAL_RANK", 0)

    def node_rank(self) -> int:
        return self.global_rank() // max(1, _mpi("LOCAL_SIZE", self.world_size()))

    def leyden_nodes(self) -> int:
        return max(1, self.world_size() // max(1, _mpi("LOCAL_SIZE", self.world_size())))


MPI_VARIABLES = {
    "SIZE": ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE"),
    "RANK": ("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_RANK"),
    "LOCAL_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}
"""By which variables Open MPI, MVAPICH, and MPICH and Intel MPI number their processes."""


def _mpi(what: str, otherwise: int) -> int:
    for name in MPI_VARIABLES[what]:
        if os.environ.get(name):
            return _number(name, otherwise)
    return otherwise


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as found:
        found.bind(("", 0))
        number: int = found.getsockname()[1]
        return number


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list, such as ``node[017-019,031]`` or ``alpha,beta``."""
    bare = re.sub(r"\[(.*?)[,-].*?\]", r"\1", nodes)
    bare = re.sub(r"\[(.*?)\]", r"\1", bare)
    return re.split(r"[,\s]", bare.strip())[0]


def detect_environment() -> ClusterEnvironment:
    """The environment that started this process."""
    kinds: tuple[type[ClusterEnvironment], ...] = (SLURMEnvironment, TorchElasticEnvironment, MPIEnvironment)
    found = next((kind() for kind in kinds if kind.detect()), LightningEnvironment())
    if InitializedGroup.detect():
        stands = InitializedGroup()
        if (found.world_size(), found.global_rank()) != (stands.world_size(), stands.global_rank()):
            return stands  # such as Ray's workers in a job of SLURM's, whose variables number something else
    return found


def require_one_process(environment: ClusterEnvironment, num_nodes: Any = 1) -> None:
    """Raise :class:`Unsupported` where several processes train together: the strategy is one for a single process."""
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 1:
        raise InvalidOption("num_nodes", num_nodes, "a number of nodes >= 1")
    if num_nodes > 1:
        raise Unsupported(
            f"num_nodes={num_nodes} asks for several processes, and a strategy of one device was asked for. Leave it out (or use "
            f"strategy='ddp'), or use num_nodes=1."
        )
    size = environment.world_size()
    if size > 1:
        raise Unsupported(
            f"This process is one of {size} ({environment!r}), and a strategy of one device was asked for. Leave it out (or use "
            f"strategy='ddp'), or start one process only."
        )


def _is_interactive() -> bool:
    return os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name)
    if value is None or value == "":
        return otherwise
    try:
        return int(value)
    except ValueError as error:
        raise InvalidOption(f"the environment's {name}", value, "a whole number") from error


def _port(otherwise: int) -> int:
    port = _number("MASTER_PORT", otherwise)
    if not 0 <= port < 65536:
        raise InvalidOption("the environment's MASTER_PORT", port, "a port from 1 to 65535")
    return port
