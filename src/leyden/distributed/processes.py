"""The processes that train together: who they are, how they begin, and how they exchange values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

from torch import Tensor

Body = TypeVar("Body", bound=Callable[..., Any])


class Processes(ABC):
    """What a run asks of the processes that it is one of. Every exchange is called on all of them, in the same order.

    Nothing here knows devices, modules or checkpoints: a strategy does, and has one of these.
    """

    rank: int = 0
    """This process among all of them."""
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """This process among those of its node."""
    node_rank: int = 0
    """This node among all nodes."""
    nodes: int = 1
    """How many nodes there are."""
    store: Any = None
    """What all of them can write to and read without waiting for each other: a :class:`torch.distributed.Store`."""
    leyden_reduce: Callable[..., Any] | None = None
    """A strategy's own ``reduce``, by which what is logged with ``sync_dist=True`` becomes one value in the place of ours."""
    leyden_named: int = 0
    leyden_looked_at: int = 0
    """Exchanges of a user's tensors so far."""

    def next_name(self, kind: str) -> str:
        """A name in :attr:`store` that was not used before: the same on all processes, which ask for as many."""
        self.leyden_named += 1
        return f"{kind}/{self.leyden_named}"

    @property
    def started_by(self) -> str:
        """Who started them, as the end of "2 processes, started by ..."; empty where there is nothing to say."""
        return ""

    @property
    def alone(self) -> bool:
        """Whether this is the only process, so that no exchange is ever needed."""
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def meets(self) -> bool:
        """Whether an exchange reaches others now."""
        return not self.alone

    @abstractmethod
    def launched(self, body: Body) -> Body:
        """``body`` run by every process: started here where somebody has to, else ``body`` itself."""

    @abstractmethod
    def barrier(self, name: str | None = None) -> None:
        """Wait until every process is here."""

    @abstractmethod
    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The object that process ``src`` passed."""

    @abstractmethod
    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        """``tensor`` with the values of all processes combined, element by element. Every process passes the same shape."""

    @abstractmethod
    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Every process's ``tensor``, stacked along a new first dimension; alone, ``tensor`` itself."""

    @abstractmethod
    def gather_objects(self, obj: Any) -> list[Any]:
        """Every process's object, by rank. Slow: for start-up and checkpoints."""

    @abstractmethod
    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        """The flags that any process raised, and the clock of the first. One small exchange."""

    def called_by_all(self, what: str, alone: bool = False) -> AbstractContextManager[None]:
        """Around what every process has to call, and a user may call on one alone, after a verb. With ``alone`` the first one may
        do so: it waits for nobody, and the others wait for it in :meth:`first`."""
        return nullcontext()

    def first(self, deed: Callable[[], Any], name: str) -> None:
        """Do ``deed`` on the first process; the others go on once it is done there."""
        if self.is_first:
            deed()
        self.barrier(name)

    def talks_beside(self) -> Any:
        """A client of its own at :attr:`store`, for a thread beside the training one, under a name that was not used before: the
        same on all processes. ``None`` where there is no store, or none that can be shared so."""
        return None

    def has_failed(self) -> bool:
        """Whether another process is known to have failed in the verb that runs. May ask the store."""
        return False

    def fill(self, tensor: Tensor) -> None:
        """Write the first process's ``tensor`` into those of the others, which have the same shape and type."""
        tensor.copy_(self.broadcast(tensor))

    @property
    def has_failed_alone(self) -> bool:
        """Whether this process takes part in no further exchange, since the others have not ended as it has."""
        return False

    def note_failure(self, error: BaseException) -> None:  # noqa: B027  # alone, nobody has to hear of it
        """A verb is being ended here by ``error``: the others hear of it before anything is torn down."""

    def once(self, deed: Callable[[], Any]) -> Any:
        """Do ``deed`` on the first process, and return what it returned there on all."""
        return self.broadcast(deed() if self.is_first else None)


class Alone(Processes):
    """One process. Nothing is exchanged, so nothing here costs more than returning what was given."""

    def launched(self, body: Body) -> Body:
        return body

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return tensor

    def gather_objects(self, obj: Any) -> list[Any]:
        return [obj]

    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        return flags, clock
