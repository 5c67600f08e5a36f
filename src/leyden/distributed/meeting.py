"""The processes of a run come together: who is missing is said, and nobody is waited for without end."""

from __future__ import annotations

import itertools
import os
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from leyden.distributed.asking import Asking
from leyden.distributed.last_words import say
from leyden.errors import ConflictingOptions, ProcessFailed

LONG = 60.0
"""Seconds after which it is said who is waited for."""
LEAST = 300.0
"""Seconds that all have to come, however short a standstill is borne later on: before that they import, and read data."""
_PAUSES = 0.002, 0.05
_NAMED = 16  # of those that are missing, at most

_meetings = itertools.count()  # the same numbers on all processes, which meet as often


def meet(address: str, port: int, rank: int, world: int, patience: float | None, timeout: timedelta) -> Any:
    """The store that the first of ``world`` processes keeps at ``address`` and ``port``; there once all have come to it.

    Whoever started them may not see that one of them has ended before that, as ``srun`` does.

    Args:
        patience: seconds that are borne without a move; at least :data:`LEAST` here. ``None``: no limit but ``timeout``.
        timeout: of the store, from then on.

    Raises :class:`ProcessFailed` where one does not come, :class:`ConflictingOptions` where two have one number, or not all say
    ``world``.
    """
    limit = timeout.total_seconds() if patience is None else min(timeout.total_seconds(), max(patience, LEAST))
    until = time.monotonic() + limit
    store = _store(address, port, rank, world, limit)
    name = f"leyden/meeting {next(_meetings)}"
    said = int(store.compare_set(f"{name}/world", "", str(world)))
    if said != world:
        _refuse(store, name, f"Process {rank} was told that there are {world} processes, and another one that there are {said}.")
    if int(store.add(f"{name}/{rank}", 1)) > 1:
        _refuse(store, name, f"Two processes were told that they are number {rank} of {world}.")
    here = int(store.add(f"{name}/here", 1))
    if rank == 0:
        _wait(store, name, here, world, limit, until)
    store.set_timeout(timeout)
    return store


def _store(address: str, port: int, rank: int, world: int, limit: float) -> Any:
    """Joined in another thread: in this one, an address at which another program listens would be waited for without end."""
    shared: Any = dist
    joined: list[Any] = []

    def join() -> None:
        try:
            joined.append(
                shared.TCPStore(
                    address,
                    port,
                    world,
                    rank == 0,
                    timeout=timedelta(seconds=limit),
                    wait_for_workers=False,
                    multi_tenant=True,
                    use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
                )
            )
        except Exception as error:
            joined.append(error)

    joining = Asking(join, "leyden: meeting", awaited=False)
    joining.start()
    joining.join(min(LONG, limit))
    if joining.is_alive():
        say(f"process {rank} of {world} waits for process 0, which does not answer at {address}:{port} yet.\n")
        joining.join(max(0.0, limit - LONG) + 1.0)
    found = joined[0] if joined else TimeoutError(f"{address}:{port} does not answer as it should")
    if rank and isinstance(found, Exception):
        raise ProcessFailed(
            f"Process 0 has not answered at {address}:{port} in {limit:g} s: it has failed before, or cannot be reached from "
            f"process {rank}, or another program listens there. {type(found).__name__}: {found}",
            0,
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _wait(store: Any, name: str, here: int, world: int, limit: float, until: float) -> None:
    pause, longest = _PAUSES
    asks = until - limit + LONG
    while here < world:
        if store.check([f"{name}/wrong"]):
            raise ConflictingOptions(store.get(f"{name}/wrong").decode())
        now = time.monotonic()
        if now > min(asks, until):
            missing = [rank for rank in range(world) if not store.check([f"{name}/{rank}"])]
            named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
            who = f"process{'es' if len(missing) > 1 else ''} {named}"
            if now > until:
                raise ProcessFailed(
                    f"Of {world} processes {who} did not come in {limit:g} s, so that no verb can begin: the output of each says "
                    f"why. hang_timeout (and at least {LEAST:g} s) is how long they are waited for.",
                    missing[0],
                )
            say(f"process 0 of {world} waits for {who} to come to the same verb.\n")
            asks = float("inf")
        time.sleep(pause)
        pause = min(2 * pause, longest)
        here = int(store.add(f"{name}/here", 0))


def _refuse(store: Any, name: str, what: str) -> None:
    text = f"{what} Start all of them by one launcher, or give each the same WORLD_SIZE and a RANK of its own."
    store.set(f"{name}/wrong", text)
    raise ConflictingOptions(text)
