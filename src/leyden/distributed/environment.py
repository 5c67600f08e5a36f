"""Who started this process, and where it stands among the others."""

import os
import re
import signal
import subprocess
from abc import ABC, abstractmethod
from typing import Any

from leyden.checked import check_bool
from leyden.errors import ConflictingOptions, InvalidOption, Unsupported
from leyden.spelling import exact_arguments


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

    def set_world_size(self, size: int) -> None:  # noqa: B027  # most are told by who started them
        """Note how many processes there are, where nobody else does."""

    def set_global_rank(self, rank: int) -> None:  # noqa: B027  # as above
        """Note this process's number among all, where nobody else does."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:  # noqa: B027  # most have nothing to compare
        """Raise where what the Trainer was asked for and what was started do not fit. Called when the Trainer is made."""

    def teardown(self) -> None:  # noqa: B027  # most leave nothing behind
        """Put back what was set. Called when several processes have ended."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LightningEnvironment(ClusterEnvironment):
    """No launcher: this process, or processes that we start from it."""

    _size: int | None = None
    _rank: int | None = None

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
        return _number("MASTER_PORT", 29500)

    def world_size(self) -> int:
        return _number("WORLD_SIZE", 1) if self._size is None else self._size

    def global_rank(self) -> int:
        return _number("RANK", self.local_rank()) if self._rank is None else self._rank

    def local_rank(self) -> int:
        return _number("LOCAL_RANK", 0)

    def node_rank(self) -> int:
        return _number("NODE_RANK", _number("GROUP_RANK", 0))


class TorchElasticEnvironment(ClusterEnvironment):
    """Started by ``torchrun``."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise :class:`ConflictingOptions` where ``torchrun`` has started another number of processes."""
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
        return _number("MASTER_PORT", 29500)

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
