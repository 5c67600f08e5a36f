"""``prepare_data`` in one process of each machine, and what it assigned in all of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from leyden.distributed.processes import Processes
from leyden.errors import MisconfigurationException, Unsupported

_REGISTERED = ("_modules", "_parameters", "_buffers")  # where a torch module keeps what is assigned to it
_NOT = object()


def prepare(processes: Processes, owner: Any, call: Callable[[], Any], overridden: bool = True) -> None:
    """Run ``call``, which prepares the data of ``owner``, in the first process of each machine, the others waiting for it.

    With ``owner.prepare_data_per_node = False`` it is the first process of all. What it assigned to ``owner`` is there in every
    process afterwards. Without ``overridden`` there is nothing to prepare, and nothing is exchanged.

    Raises :class:`Unsupported` where that cannot be handed to the others, and in the others, where it failed,
    :class:`MisconfigurationException`.
    """
    if processes.alone or not overridden:
        call()
        return
    first_of_nodes = range(0, processes.world, processes.world // processes.nodes)
    sources = list(first_of_nodes) if getattr(owner, "prepare_data_per_node", True) else [0]
    brought: dict[str, Any] = {}
    failure: BaseException | None = None
    if processes.rank in sources:
        before = _held(owner)
        try:
            call()
            brought = {"assigned": _packed(owner, before)}
        except BaseException as error:
            failure, brought = error, {"error": f"{type(error).__name__}: {error}"}
    mine = processes.node_rank if len(sources) > 1 else 0
    failed = None
    for number, source in enumerate(sources):
        told = processes.broadcast(brought, source)
        if "error" in told:
            failed = failed or (source, told["error"])
        elif number == mine and processes.rank not in sources:
            _assign(owner, told["assigned"])
    if failure is not None:
        raise failure
    if failed is not None:
        raise MisconfigurationException(f"{type(owner).__name__}.prepare_data failed on process {failed[0]}: {failed[1]}")


def _held(owner: Any) -> dict[str, Any]:
    """All that was assigned to ``owner``, by name."""
    own = vars(owner)
    registered = {name: value for kind in _REGISTERED if type(own.get(kind)) is dict for name, value in own[kind].items()}
    return {**{name: value for name, value in own.items() if name not in _REGISTERED}, **registered}


def _packed(owner: Any, before: dict[str, Any]) -> dict[str, bytes]:
    packed = {}
    for name, value in _held(owner).items():
        if value is before.get(name, _NOT):
            continue
        try:
            packed[name] = pickle.dumps(value)
        except Exception as error:  # whatever a user's __reduce__ raises
            raise Unsupported(
                f"{type(owner).__name__}.prepare_data assigned self.{name} ({type(value).__name__}), which cannot be pickled: "
                f"{error}. prepare_data runs in one process of each machine, and what it assigns is handed to the others. Make "
                f"self.{name} in setup(), which every process runs."
            ) from error
    return packed


def _assign(owner: Any, packed: dict[str, bytes]) -> None:
    for name, value in packed.items():
        setattr(owner, name, pickle.loads(value))
