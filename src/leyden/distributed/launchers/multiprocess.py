"""Processes of :mod:`multiprocessing`, which carry a verb out and bring back what came of it."""

from __future__ import annotations

import functools
import os
import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from leyden.distributed.group import Group, Launcher
from leyden.distributed.launchers.script import free_port
from leyden.errors import Unsupported

if TYPE_CHECKING:
    from leyden.distributed.processes import Body


class Multiprocess(Launcher):
    """All processes of this node are new ones; the one that called the verb waits for them.

    Args:
        start_method: ``"spawn"`` needs all that the verb gets to be picklable; ``"fork"`` does not, but CUDA must not be in use.
    """

    def __init__(self, start_method: Literal["spawn", "fork", "forkserver"]) -> None:
        self.start_method = start_method

    def launched(self, group: Group, body: Body) -> Body:
        if dist.is_initialized():  # in one of the processes that were started
            return body

        @functools.wraps(body, assigned=())
        def elsewhere(*args: Any, **kwargs: Any) -> Any:
            self._check(body, args, kwargs)
            os.environ.setdefault("MASTER_ADDR", group.environment.main_address)
            os.environ["MASTER_PORT"] = str(free_port())
            with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
                brought = Path(folder, "brought")
                mp.start_processes(  # type: ignore[attr-defined,no-untyped-call]  # torch has no types for it
                    _run, (group, body, args, kwargs, str(brought)), nprocs=group.per_node, start_method=self.start_method
                )
                outcome = torch.load(brought, weights_only=False)
            bring_back = getattr(body, "bring_back", None)
            if bring_back is not None:
                bring_back(outcome["brought"], *args, **kwargs)
            return outcome["result"]

        return elsewhere  # type: ignore[return-value]  # it is called as `body` is

    def _check(self, *what: Any) -> None:
        if self.start_method == "fork":
            if torch.cuda.is_initialized():
                raise Unsupported(
                    "CUDA is in use in this process already, so it cannot be forked. Make tensors on the GPU only inside the "
                    "module, or use strategy='ddp_spawn'."
                )
            return
        try:
            pickle.dumps(what)
        except Exception as error:
            raise Unsupported(
                f"strategy='ddp_spawn' hands the module, its data and the trainer to new processes, and something in them cannot "
                f"be pickled: {error}. Define it at the top of a file, or use strategy='ddp' or 'ddp_fork'."
            ) from error


def _run(local_rank: int, group: Group, body: Any, args: Any, kwargs: Any, brought: str) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // group.per_node))
    os.environ["LOCAL_RANK"] = str(local_rank)
    os.environ["RANK"] = str(group.node_rank * group.per_node + local_rank)
    os.environ["WORLD_SIZE"] = str(group.world)
    group.number()
    group.begin()
    result = body(*args, **kwargs)
    if group.is_first:
        take_along = getattr(body, "take_along", None)
        torch.save({"result": result, "brought": take_along() if take_along is not None else None}, brought)
    group.barrier()
    dist.destroy_process_group()
