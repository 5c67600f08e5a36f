"""Write checkpoints in the background, from a snapshot, so that training waits only for the copy."""

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.errors import InvalidType, LeydenWarning, warn_user
from leyden.spelling import exact_arguments
from leyden.types import Path


@exact_arguments
class AsyncCheckpointIO(CheckpointIO):
    """Writes through another :class:`CheckpointIO` in one background thread, in the order asked for.

    The memory of one snapshot is kept between saves, and given back at the end of the verb. At most one checkpoint is in
    flight: the next save waits for the last one. An error surfaces at the next call of a
    method, or else in a warning at the end of the process, which waits for what is in flight. While one is unseen, nothing
    is removed, so that what was written before stays.

    Args:
        checkpoint_io: What writes, reads and removes. Default: :class:`TorchCheckpointIO`.
    """

    def __init__(self, checkpoint_io: CheckpointIO | None = None) -> None:
        self._checkpoint_io = TorchCheckpointIO() if checkpoint_io is None else _checked(checkpoint_io)
        self._executor: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None
        self._removing: list[Future[None]] = []
        self._unseen: list[BaseException] = []
        self._memory: list[torch.UntypedStorage] = []  # of the last snapshot, for the next: fresh memory costs more than the copy
        weakref.finalize(self, _report, self._unseen)  # also at the end of the process, after the thread's

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """What does the work. May be set: what is in flight is written by the one before."""
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, checkpoint_io: CheckpointIO) -> None:
        self._checkpoint_io = _checked(checkpoint_io)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        """Copy ``checkpoint`` to the CPU's memory, and write the copy in the background.

        Raises:
            CheckpointWriteFailed: the checkpoint *before* this one could not be written. This one is not begun then.
        """
        ours = type(self._checkpoint_io) is TorchCheckpointIO  # another one may hold on to what it was given
        self._begin(self._checkpoint_io.save_checkpoint, checkpoint, path, storage_options, keeps_nothing=ours)

    @property
    def leyden_sharded(self) -> bool:  # type: ignore[override]  # what does the work says it
        return self._writes_by_it and self._checkpoint_io.leyden_sharded

    @property
    def leyden_needs_folder(self) -> bool:
        return self._writes_by_it and self._checkpoint_io.leyden_needs_folder

    @property
    def _writes_by_it(self) -> bool:
        return type(self).save_checkpoint is AsyncCheckpointIO.save_checkpoint

    def leyden_write(self, write: Callable[..., None], checkpoint: dict[str, Any], *where: Any) -> None:
        self._begin(write, checkpoint, *where, keeps_nothing=True)

    def leyden_settle(self) -> None:
        self.wait()

    def _begin(self, write: Callable[..., None], checkpoint: dict[str, Any], *where: Any, keeps_nothing: bool) -> None:
        self.wait()
        taking = _Snapshot(self._memory)
        copied = taking.copy(checkpoint)
        if keeps_nothing:
            self._memory = taking.large
        self._saving = self._thread().submit(self._write, write, copied, *where)

    def load_checkpoint(self, path: Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read, after what is in flight has been written."""
        self.wait()
        return self._checkpoint_io.load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: Path) -> None:
        """Remove, after what is in flight has been written: the old goes only once the new is safe."""
        self._removing = [future for future in self._removing if not future.done() or future.exception() is not None]
        self._removing.append(self._thread().submit(self._remove, path))

    def wait(self) -> None:
        """Return when everything asked for is done. Raises what went wrong with it, once."""
        removing, self._removing = self._removing, []
        saving, self._saving = self._saving, None
        errors = [future.exception() for future in (*([saving] if saving else []), *removing)]
        self._unseen.clear()
        for error in errors:
            if error is not None:
                raise error

    def teardown(self) -> None:
        """Wait for what is in flight, and end the thread. Raises what went wrong."""
        try:
            self.wait()
        finally:
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None
            self._memory = []
            self._checkpoint_io.teardown()

    def __getstate__(self) -> dict[str, Any]:
        self.wait()
        return {"_checkpoint_io": self._checkpoint_io}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_checkpoint_io"])  # type: ignore[misc]  # a thread cannot be copied: begun anew

    def _thread(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leyden-checkpoint")
        return self._executor

    def _write(self, write: Callable[..., None], checkpoint: dict[str, Any], *where: Any) -> None:
        try:
            write(checkpoint, *where)
        except BaseException as error:
            self._unseen.append(error)
            raise

    def _remove(self, path: Path) -> None:
        if not self._unseen:
            self._checkpoint_io.remove_checkpoint(path)


def _report(unseen: list[BaseException]) -> None:
    for error in unseen:
        warn_user(str(error), LeydenWarning)


def snapshot(value: Any) -> Any:
    """A copy of nested ``value`` that later changes do not reach: its tensors in fresh CPU memory.

    Tensors that share storage share it in the copy too.
    """
    return _Snapshot().copy(value)


_LARGE = 2**20  # bytes of a piece of memory that is worth keeping for the next snapshot


class _Snapshot:
    def __init__(self, spare: Iterable[torch.UntypedStorage] = ()) -> None:
        self.large: list[torch.UntypedStorage] = []  # the large pieces of memory of this snapshot
        self._spare: dict[int, list[torch.UntypedStorage]] = {}
        for storage in spare:
            self._spare.setdefault(storage.nbytes(), []).append(storage)
        self._tensors: dict[int, torch.Tensor] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._keep: list[Any] = []  # so that no id is given out twice

    def copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            known = self._tensors.get(id(value))
            if known is None:
                known = self._tensors[id(value)] = self._tensor(value)
                self._keep.append(value)
            return known
        kind = type(value)
        if kind is dict:
            return {key: self.copy(item) for key, item in value.items()}
        if kind is list:
            return [self.copy(item) for item in value]
        if kind is tuple:
            return tuple(self.copy(item) for item in value)
        if kind in (str, int, float, bool, bytes, type(None)):
            return value
        if kind is OrderedDict:
            new = copy.copy(value)  # with what hangs on it: a state_dict has `_metadata`
            for key, item in value.items():
                new[key] = self.copy(item)
            return new
        return copy.deepcopy(value)

    def _storage(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """A copy of memory on the CPU, in what an earlier snapshot has left where that fits."""
        if storage.nbytes() < _LARGE:
            return storage.clone()  # type: ignore[no-any-return]  # torch has no annotation there
        fitting = self._spare.get(storage.nbytes())
        new: torch.UntypedStorage
        if fitting:
            new = fitting.pop()
            new.copy_(storage)
        else:
            new = storage.clone()
        self.large.append(new)
        return new

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        plain = value.detach()
        if type(value) not in (torch.Tensor, torch.nn.Parameter) or plain.layout is not torch.strided or plain.is_quantized:
            copied = plain.cpu()
            return copied.clone() if copied.device == value.device else copied
        if plain.is_meta:
            return plain
        if plain.is_conj() or plain.is_neg():
            copied = plain.cpu().clone()
        else:
            storage = plain.untyped_storage()
            new = self._storages.get(storage._cdata)
            if new is None:
                new = self._storage(storage) if plain.device.type == "cpu" else storage.cpu()
                self._storages[storage._cdata] = new
                self._keep.append(storage)
            copied = torch.empty(0, dtype=plain.dtype).set_(new, plain.storage_offset(), plain.size(), plain.stride())
        if isinstance(value, torch.nn.Parameter):
            return torch.nn.Parameter(copied, value.requires_grad)
        return copied.requires_grad_(value.requires_grad) if value.requires_grad else copied


def _checked(given: Any) -> CheckpointIO:
    if not isinstance(given, CheckpointIO):
        raise InvalidType("checkpoint_io", given, "a CheckpointIO (an object, no class)")
    return given
