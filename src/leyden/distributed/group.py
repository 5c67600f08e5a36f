"""Processes that talk through :mod:`torch.distributed`."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.constants import default_pg_timeout

from leyden.distributed.backends import serves, with_cpu
from leyden.distributed.by_itself import Saves
from leyden.distributed.environment import ClusterEnvironment
from leyden.distributed.gloo_threads import rest_at_exit
from leyden.distributed.last_words import is_echo, of_silence, say
from leyden.distributed.launchers.lifeline import RUN_AGAIN, last_words, tie_to
from leyden.distributed.launchers.verb import verb_of
from leyden.distributed.meeting import meet
from leyden.distributed.processes import Body, Processes
from leyden.distributed.rank_zero import rank_zero_only
from leyden.distributed.restarts import ATTEMPT
from leyden.distributed.sharing import on_cpu, packed, unpacked
from leyden.distributed.vigilance import Vigilance
from leyden.distributed.watch import Watch, client_of, watched
from leyden.errors import ConflictingOptions, ProcessFailed, Unsupported

_OPERATIONS = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}
_names = itertools.count(1)
_alone: list[Any] = []
_met: set[int] = set()  # the sizes of groups of several that Trainers of this script have run in
_FLAGS = 16  # bits of what is agreed on, each a number of its own in the exchange


class Launcher(ABC):
    """Starts the processes of a group, once, when the first verb begins."""

    name: str = ""
    """How it starts them, as the end of "2 processes, started by ..."; empty where another did."""
    is_interactive_compatible = False
    """Whether it can from a notebook."""

    @property
    def procs(self) -> list[Any]:
        """Those that were started from here."""
        return []

    def kill(self, number: int) -> None:
        """Send signal ``number`` to :attr:`procs`."""
        for process in self.procs:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    @abstractmethod
    def launched(self, group: Group, body: Body) -> Body:
        """``body``, run by every process of ``group`` after each has joined it."""


class Started(Launcher):
    """All processes are there: torchrun, SLURM or another launcher started them, or one of ours did."""

    def launched(self, group: Group, body: Body) -> Body:
        @functools.wraps(body)
        def joined(*args: Any, **kwargs: Any) -> Any:
            group.begin()
            with last_words(lambda: _say_gone(group)), watched(group, body):
                return body(*args, **kwargs)

        return joined  # type: ignore[return-value]  # it is called as `body` is


class Group(Processes):
    """The process group of PyTorch. One that stands already is used as it is.

    Args:
        environment: who numbers the processes, and where rank 0 listens.
        launcher: how they begin.
        nodes: machines.
        per_node: processes on each machine.
        backend: of :func:`torch.distributed.init_process_group`; ``None`` for gloo, and NCCL beside it with CUDA.
        timeout: after so long without an answer an exchange fails.
    """

    def __init__(
        self,
        environment: ClusterEnvironment,
        launcher: Launcher,
        *,
        nodes: int,
        per_node: int,
        backend: str | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        self.environment, self.launcher = environment, launcher
        self.backend, self.timeout = backend, timeout
        self.nodes, self.world = nodes, nodes * per_node
        self.per_node = per_node
        self.vigilance = Vigilance()
        self.watch: Watch | None = None  # while a verb runs
        self.words_folder: str | None = None  # where whoever started this process looks for its last words
        self.before_exit: Callable[[], None] | None = None  # when the watch ends this process
        self.failed_by: BaseException | None = None  # of this process alone, in the verb that runs
        self.saves: Saves | None = None  # since the last verb began
        self._of_cpu: Any = None  # the group in which tensors on the CPU are exchanged, where that of all cannot
        if self.world > 1:
            _give_way()
        self.number()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(("watch", "before_exit", "failed_by", "_of_cpu", "saves"))}  # of a running verb

    def number(self) -> None:
        """Read who this process is: before the others are started, the first one of its node. The environment is told."""
        environment = self.environment
        started = environment.creates_processes_externally or RUN_AGAIN
        self.local_rank = environment.local_rank() if started else 0
        self.node_rank = environment.node_rank()
        environment.set_global_rank(self.node_rank * self.per_node + self.local_rank)
        environment.set_world_size(self.world)
        if dist.is_available() and dist.is_initialized():
            self.rank = dist.get_rank()
        elif started:
            self.rank = environment.global_rank()
        else:
            self.rank = self.node_rank * self.per_node

    @property
    def started_by(self) -> str:
        return self.launcher.name or self.environment.leyden_starter

    def launched(self, body: Body) -> Body:
        verb: Body = verb_of(body)
        return self.launcher.launched(self, verb)

    def begin(self) -> None:
        """Join the group, where that has not been done: rank, world and address are known now.

        Raises :class:`Unsupported` where a group of another size stands already.
        """
        rank_zero_only.rank = self.rank
        rest_at_exit()
        self._join()
        if self.world > 1:
            _met.add(self.world)

    def _join(self) -> None:
        if dist.is_initialized():
            if dist.get_world_size() != self.world:
                raise Unsupported(
                    f"A process group of {dist.get_world_size()} processes stands already, and this Trainer asks for "
                    f"{self.world} (devices x num_nodes). Ask for as many, or run it in a script of its own."
                )
            self.number()
            self._exchange_on_cpu()
            return
        backend = with_cpu(self.backend) or ("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        address, port = self.environment.main_address, self.environment.main_port
        try:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                meeting: dict[str, Any] = {"init_method": f"tcp://{address}:{port}"}
                tie_to(os.getppid(), watched=True)
                if os.environ.get("GROUP_WORLD_SIZE") == "1":
                    meeting = {"store": self._store_of_this_attempt(address, port)}
            else:
                timeout = self.timeout or default_pg_timeout
                meeting = {"store": meet(address, port, self.rank, self.world, self.vigilance.seconds, timeout)}
            dist.init_process_group(backend, rank=self.rank, world_size=self.world, timeout=self.timeout, **meeting)
        except RuntimeError as error:  # a DistNetworkError, but in torch 2.6
            if self.rank and is_echo(error) and not isinstance(error, ProcessFailed):
                raise ProcessFailed(
                    f"Process 0 has given up, or is gone, before process {self.rank} could begin: it says why.", 0
                ) from None
            if "EADDRINUSE" not in str(error):
                raise
            raise ConflictingOptions(
                f"Port {port} of {address}, where the first process has to listen, is in use by another program (a run with "
                f"the same MASTER_PORT?). Set MASTER_PORT to a free one, or leave it unset on a single machine."
            ) from error
        atexit.register(_leave)
        if self.world == 1:
            _alone.append(dist.distributed_c10d._get_default_group())

    def _exchange_on_cpu(self) -> None:
        """Where the group that stands already knows no tensors on the CPU, such as one of NCCL alone: have one beside it.

        Objects go by it too: NCCL would carry them over the current GPU, which is the first one before a verb has chosen its own.
        """
        if self._of_cpu is None and not serves(dist.get_backend_config(), "cpu"):
            self._of_cpu = dist.new_group(backend="gloo")

    def _group_for(self, tensor: Tensor) -> Any:
        return self._of_cpu if tensor.device.type == "cpu" else None

    @property
    def store(self) -> Any:
        """The group's own, once it stands."""
        return dist.distributed_c10d._get_default_store()

    def _store_of_this_attempt(self, address: str, port: int) -> Any:
        """torchrun's store, in which processes of a second attempt must not read the addresses of the first one's."""
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not declare them

        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = TCPStore(
            address,
            port,
            self.world,
            is_master=not hosted and self.rank == 0,
            multi_tenant=not hosted,
            timeout=self.timeout or default_pg_timeout,
        )
        return PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    def note_failure(self, error: BaseException) -> None:
        if self.watch is not None:
            self.failed_by = error if self.watch.failed(error) else None

    @property
    def has_failed_alone(self) -> bool:
        return self.failed_by is not None

    def _refuse_if_failed(self) -> None:
        """The others are not there any more, or are elsewhere: an exchange would wait for ever."""
        if self.failed_by is not None:
            raise ProcessFailed(
                f"Process {self.rank} has failed ({type(self.failed_by).__name__}) and takes part in no further exchange.",
                self.rank,
            )

    def next_name(self, kind: str) -> str:
        return f"{kind}/{next(_names)}"  # the store outlives a trainer's group

    def meets(self) -> bool:
        """Whether an exchange reaches the others. Before a verb has begun, each process is by itself, unless somebody else has
        started them: those meet here."""
        self._refuse_if_failed()
        if not dist.is_initialized():
            if self.world == 1 or type(self.launcher) is not Started:
                return False
            self.begin()
        return True

    def barrier(self, name: str | None = None) -> None:
        if self.meets():
            dist.barrier(group=self._of_cpu)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        if not self.meets():
            return obj
        box = [packed(obj) if self.rank == src else None]
        dist.broadcast_object_list(box, src, group=self._of_cpu)
        return unpacked(box[0])

    def fill(self, tensor: Tensor) -> None:
        if self.meets():
            dist.broadcast(tensor, 0, group=self._group_for(tensor))

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        if not self.meets():
            return tensor
        whole = tensor.detach().clone()
        dist.all_reduce(whole, _OPERATIONS[op], group=self._group_for(whole))
        return whole

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        if not self.meets():
            return tensor
        group = self._group_for(tensor) if group is None else group
        if sync_grads and tensor.requires_grad and torch.is_grad_enabled():
            gathered: Tensor = _Gathered.apply(tensor, group)  # type: ignore[no-untyped-call]  # torch has no annotation there
            return gathered
        return _gathered(tensor, group)

    def gather_objects(self, obj: Any) -> list[Any]:
        if not self.meets():
            return [obj]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, on_cpu(obj), group=self._of_cpu)
        return found

    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        if not self.meets():
            return flags, clock
        raised = [float(flags >> bit & 1) for bit in range(_FLAGS)]
        words = torch.tensor([*raised, clock if self.is_first else -float("inf")], dtype=torch.float64)
        dist.all_reduce(words, dist.ReduceOp.MAX, group=self._of_cpu)
        *agreed, first = words.tolist()
        return sum(int(bit) << place for place, bit in enumerate(agreed)), first

    @contextmanager
    def called_by_all(self, what: str, alone: bool = False) -> Iterator[None]:
        if self.watch is not None or self.saves is None or not self.meets():  # inside a verb it is known who failed
            yield
            return
        try:
            with self.saves.called(what, alone):
                yield
        except RuntimeError as error:
            if isinstance(error, ProcessFailed) or not is_echo(error):
                raise
            raise ProcessFailed(
                f"{what} was called on process {self.rank}, and another process is not there any more: it has failed, or its "
                f"script has ended. Call {what} on every process, and not under `if trainer.is_global_zero`."
            ) from None

    def first(self, deed: Callable[[], Any], name: str) -> None:
        if self.saves is not None and self.saves.alone:
            self.saves.first(deed, name)
        else:
            super().first(deed, name)

    def talks_beside(self) -> Any:
        return client_of(self.next_name("leyden/talks"))

    def has_failed(self) -> bool:
        return self.watch is not None and self.watch.first() is not None


def have_met() -> bool:
    """Whether a Trainer of this script has run in several processes, so that one of a single process runs beside others."""
    return bool(_met)


def _say_gone(group: Group) -> None:
    """The process that has run the command of this one again is gone: as a rule the first of this node."""
    if ATTEMPT not in os.environ and group.local_rank == 1 and group.watch is not None:
        place = group.watch.where.place()
        say(of_silence(group.rank - 1, f"process {group.rank} was at {place} then, and ends too").shown(group.world))


def _give_way() -> None:
    """A group of one, which an earlier Trainer of this process made for itself, ends where several processes are asked for."""
    if _alone and dist.is_initialized() and dist.distributed_c10d._get_default_group() is _alone[-1]:
        _leave()
    _alone.clear()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _gathered(tensor: Tensor, group: Any) -> Tensor:
    here = tensor.detach().contiguous()
    parts = [torch.empty_like(here) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, here, group=group)
    return torch.stack(parts)


class _Gathered(torch.autograd.Function):
    """Gathers; each process gets the sum of all gradients for its part. torch's own asks gloo for what it had not before 2.13."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _gathered(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous()
        dist.all_reduce(whole, group=ctx.group)
        return whole[dist.get_rank(ctx.group)], None
