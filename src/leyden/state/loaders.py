"""The loaders of a run: where they come from, how long they are under the limits, and their batches."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from leyden.data.combined import CombinedLoader
from leyden.data.generators import generators_in, put_states, states_of
from leyden.data.position import Position
from leyden.data.reading import is_loader, length_of, read, reads_map_style, set_epoch
from leyden.datamodule import LightningDataModule
from leyden.errors import EmptyLoader, InvalidLoader, LeydenWarning, MissingMethod
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.options import Limits, limited

STAGE_HOOKS = {
    "train": "train_dataloader",
    "val": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


class Origin:
    """Where a stage's loaders come from: what was passed to the verb, else the datamodule's method, else the module's."""

    def __init__(self, stage: str, given: Any, datamodule: LightningDataModule | None, module: LightningModule) -> None:
        self.stage = stage
        self.given = given
        self.hook = STAGE_HOOKS[stage]
        self.owner: LightningDataModule | LightningModule | None = None
        if given is None:
            if datamodule is not None and overrides(datamodule, getattr(LightningDataModule, self.hook)):
                self.owner = datamodule
            elif overrides(module, getattr(LightningModule, self.hook)):
                self.owner = module

    @property
    def exists(self) -> bool:
        return self.given is not None or self.owner is not None

    def load(self) -> Any:
        """The loaders, fresh where a method makes them."""
        if self.given is not None:
            return self.given
        if self.owner is None:
            return None
        return getattr(self.owner, self.hook)()

    @property
    def name(self) -> str:
        if self.owner is not None:
            return f"{type(self.owner).__name__}.{self.hook}()"
        return f"the {self.stage} loader that was passed"


def check_loaders(given: Any, name: str) -> None:
    """Raise :class:`InvalidLoader` where something in ``given`` cannot be iterated for batches."""
    if isinstance(given, CombinedLoader):
        for position, value in enumerate(given.flattened):
            check_loaders(value, f"loader {position} of {name}")
        return
    if isinstance(given, Mapping):
        for key, value in given.items():
            check_loaders(value, f"item {key!r} of {name}")
    elif isinstance(given, list | tuple):
        for position, value in enumerate(given):
            if isinstance(value, Tensor) or (
                isinstance(value, list | tuple | Mapping) and value and all(map(_is_data, _items(value)))
            ):
                raise InvalidLoader(
                    f"{name} is a {type(given).__name__} of batches, and a {type(given).__name__} is read as several loaders. "
                    f"Wrap the batches in a loader: DataLoader(batches, batch_size=None)."
                )
            check_loaders(value, f"item {position} of {name}")
    elif isinstance(given, Tensor | str | bytes) or not is_loader(given) or isinstance(given, type):
        raise InvalidLoader(
            f"{name} is {_described(given)}, which is no loader. Expected a torch DataLoader, or anything that can be "
            f"iterated for batches."
        )
    elif isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        raise InvalidLoader(
            f"{name} is a dataset ({type(given).__name__}) and not a loader. Wrap it: DataLoader(dataset, batch_size=...)."
        )


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value)


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor | int | float | str)


def _described(given: object) -> str:
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    return f"{given!r} ({type(given).__name__})"


class TrainSource:
    """The training loader under its limit."""

    def __init__(self, loader: Any, origin_name: str, limits: Limits) -> None:
        check_loaders(loader, origin_name)
        self.name = origin_name
        self.combined: CombinedLoader | None = None
        if isinstance(loader, CombinedLoader):
            self.combined = loader
        elif isinstance(loader, list | tuple | Mapping):
            self.combined = CombinedLoader(loader, "max_size_cycle")
        if self.combined is not None and limits.overfit:
            self.combined = copy.copy(self.combined)  # the user's stays as it is
            self.combined.flattened = [unshuffled(each) for each in self.combined.flattened]
        self.loader: Any = self.combined if self.combined is not None else loader
        if limits.overfit:
            self.loader = unshuffled(self.loader)
        self.limit = limits.train
        self.length: int | None = None
        self.stop: int | None = None
        self.measure()
        self.position = Position(self.loader)
        self.cut: dict[str, Any] | None = None  # where a resumed run goes on

    def measure(self) -> bool:
        """Ask for the length anew: a dataset may have grown. Whether it is another one than before."""
        before, self.length = self.length, length_of(self.loader)
        self.stop = limited(self.length, self.limit, "limit_train_batches")
        if self.length == 0 and self.stop == 0 and self.limit != 0:
            raise EmptyLoader(f"{self.name} has no batch: its length is 0. (drop_last=True drops a lone small batch.)")
        return self.length != before

    @property
    def batches(self) -> int | float:
        """Batches of an epoch; infinity where unknown."""
        return float("inf") if self.stop is None else self.stop

    @property
    def knows_last(self) -> bool:
        """Whether the loader tells its length, so that nothing has to be fetched ahead to know the last batch."""
        return self.length is not None

    def read(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, int, bool]]:
        """Batches of an epoch, from ``start``: ``(batch, index, is_last)``."""
        if start and self.stop is not None and start >= self.stop:
            return iter(())
        for loader in self.combined.flattened if self.combined is not None else [self.loader]:
            set_epoch(loader, epoch)
        position, cut = self.position, self.cut
        self.cut = None
        if start or (cut is not None and epoch == cut["epoch"]):
            iterator = position.reopen(cut or {}, epoch, start)
        else:
            if cut is not None:
                position.resumed()
            iterator = position.open(epoch)
        if self.combined is not None:
            iterator = (batch for batch, _, _ in iterator)
        note = None if self.knows_last or not position.fetches_ahead else position.note_fetch
        return read(self.loader, iterator, start, self.stop, self.knows_last or not position.fetches_ahead, self.name, note)

    def samples_in(self, index: int) -> int | None:
        """How many samples stand in batch ``index``, by the loader's own settings; ``None`` where they do not tell."""
        return samples_in(self.loader, index)


def samples_in(loader: Any, index: int) -> int | None:
    """The number of samples that a DataLoader's settings give batch ``index``."""
    if not isinstance(loader, DataLoader) or not reads_map_style(loader):
        return None
    size = loader.batch_size
    if size is None or type(loader.batch_sampler) is not BatchSampler:
        return None
    total = len(loader.sampler)  # type: ignore[arg-type]  # map-style samplers have a length
    return min(size, total - index * size)


def unshuffled(loader: Any) -> Any:
    """A loader that reads in order: what ``overfit_batches`` needs. The one given is left as it is."""
    if not isinstance(loader, DataLoader) or not reads_map_style(loader) or isinstance(loader.sampler, SequentialSampler):
        return loader
    warnings.warn(
        "overfit_batches reads the same batches again and again, so shuffling of the training loader is turned off.",
        LeydenWarning,
        stacklevel=2,
    )
    plain = copy.copy(loader)
    sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]  # a map-style dataset has a length
    plain.__dict__["sampler"] = sampler
    if loader.batch_size is not None:
        plain.__dict__["batch_sampler"] = BatchSampler(sampler, loader.batch_size, loader.drop_last)
    plain.__dict__["_iterator"] = None
    return plain


class EvalSource:
    """The loaders of an evaluation or prediction, read one after another under their limit."""

    def __init__(self, given: Any, origin_name: str, limit: int | float, limit_name: str) -> None:
        check_loaders(given, origin_name)
        self.name = origin_name
        self.combined: CombinedLoader | None = None
        if isinstance(given, CombinedLoader) and given.mode != "sequential":
            self.combined, self.loaders = given, [given]
        elif isinstance(given, CombinedLoader):
            self.loaders = given.flattened
        elif isinstance(given, Mapping):
            self.loaders = list(given.values())
        else:
            self.loaders = list(given) if isinstance(given, list | tuple) else [given]
        self.limit, self.limit_name = limit, limit_name
        self.stops: list[int | None] = []
        self.measure()

    def measure(self) -> None:
        """Ask for the lengths anew: a dataset may have grown."""
        self.stops = [limited(length_of(loader), self.limit, self.limit_name) for loader in self.loaders]
        for loader, stop in zip(self.loaders, self.stops, strict=True):
            if length_of(loader) == 0 and stop == 0 and self.limit != 0:
                raise EmptyLoader(f"{self.name} has no batch: the length of {type(loader).__name__} is 0.")

    @property
    def batches(self) -> list[int | float]:
        """Batches of each loader; infinity where unknown."""
        return [float("inf") if stop is None else stop for stop in self.stops]

    def read(self, position: int, most: int | None = None, start: int = 0) -> Iterator[tuple[Any, int, bool]]:
        """Batches of one loader, at most ``most``: ``(batch, index, is_last)``."""
        loader, stop = self.loaders[position], self.stops[position]
        if most is not None:
            stop = most if stop is None else min(stop, most)
        if stop == 0:
            return iter(())
        set_epoch(loader, 0)
        iterator = iter(loader)
        if self.combined is not None:
            iterator = (batch for batch, _, _ in iterator)
        return read(loader, iterator, start, stop, length_of(loader) is not None, self.name)

    def report_short(self, position: int, read: int) -> None:
        """Say that a loader ended after ``read`` batches, which is before its own length."""
        which = f" (loader {position})" if len(self.loaders) > 1 else ""
        warnings.warn(
            f"{self.name}{which} ended after {read} of the {self.stops[position]} batches that it said it has. Correct the "
            f"length of its sampler or dataset if data is missing.",
            LeydenWarning,
            stacklevel=2,
        )


class Loaders:
    """The loaders of the running verb."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self.train_given: Any = None
        self.train: TrainSource | None = None
        self.eval_given: dict[str, Any] = {}
        self.eval: dict[str, EvalSource] = {}
        self._generators: dict[str, dict[str, Any]] = {}  # random generators that the loaders hold, by stage
        self._states: dict[str, dict[str, Any]] = {}  # of such generators, to be put back once their loader is there
        self._cut: dict[str, Any] | None = None  # where a resumed run goes on in its training data

    def begin(self, origins: dict[str, Origin]) -> None:
        """A verb starts: forget what the last one loaded for these stages."""
        self.origins.update(origins)
        self._generators, self._states, self._cut = {}, {}, None
        for stage in origins:
            self.eval_given.pop(stage, None)
            self.eval.pop(stage, None)
        if "train" in origins:
            self.train_given = self.train = None

    def exists(self, stage: str) -> bool:
        origin = self.origins.get(stage)
        return origin is not None and origin.exists

    def load_train(self, limits: Limits) -> TrainSource:
        """The training source, made now."""
        if "train" not in self.origins:
            raise MissingMethod("There is no training loader yet: fit gets one. Ask for it inside fit, or afterwards.")
        origin = self.origins["train"]
        self.train_given = origin.load()
        if self.train_given is None:
            raise InvalidLoader(f"{origin.name} returned None. Expected a loader for training.")
        self.train = TrainSource(self.train_given, origin.name, limits)
        self._put_back("train", self.train_given)
        self.train.cut, self._cut = self._cut, None
        return self.train

    def load_eval(self, stage: str, limit: int | float) -> EvalSource | None:
        """The source of an evaluation, made now; ``None`` where its method returns none."""
        origin = self.origins[stage]
        given = origin.load()
        if given is None or (isinstance(given, list | tuple | Mapping) and not given):
            self.eval.pop(stage, None)
            return None
        self.eval_given[stage] = given
        self.eval[stage] = EvalSource(given, origin.name, limit, f"limit_{stage}_batches")
        self._put_back(stage, given)
        return self.eval[stage]

    # -- kept across a resume
    def generator_states(self) -> dict[str, dict[str, Any]]:
        """The states of random generators that the loaders hold, by stage."""
        return {stage: states_of(found) for stage, found in self._generators.items()}

    def restore(self, cut: dict[str, Any] | None) -> None:
        """Go on at ``cut``."""
        if self.train is not None:
            self.train.cut = cut
        else:
            self._cut = cut

    def restore_generators(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Put the loaders' own generators into these states, now or once their loader is there."""
        self._states = dict(states)
        for stage, given in [("train", self.train_given), *self.eval_given.items()]:
            if given is not None:
                self._put_back(stage, given)

    def _put_back(self, stage: str, given: Any) -> None:
        self._generators[stage] = generators_in(given)
        put_states(self._generators[stage], self._states.pop(stage, {}))

    @property
    def num_training_batches(self) -> int | float:
        return float("inf") if self.train is None else self.train.batches

    def num_eval_batches(self, stage: str) -> list[int | float]:
        source = self.eval.get(stage)
        return [] if source is None else source.batches
