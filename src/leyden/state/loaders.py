"""The loaders of a run: where they come from, and what is read of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from leyden.by_position import fitted
from leyden.data.carried import unmoved
from leyden.data.generators import generators_in, put_states
from leyden.data.processed import processed
from leyden.data.share import ALONE, Share
from leyden.data.source import Source
from leyden.data.undropped import undropped
from leyden.datamodule import LightningDataModule
from leyden.errors import InvalidLoader, MissingMethod
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.options import Limits
from leyden.state.stage import PREDICT, TRAIN, Stage


class LoaderOrigin:
    """Where a stage's loaders come from: what was passed to the verb, else the datamodule's method, else the module's."""

    def __init__(
        self, stage: Stage, given: Any, datamodule: LightningDataModule | None, module: LightningModule, process: Any = None
    ) -> None:
        self.process = process  # what the strategy makes of each loader
        self.stage = stage
        self.given = given
        self.hook = stage.loader.__name__
        self.owner: LightningDataModule | LightningModule | None = None
        if given is None:
            if datamodule is not None and overrides(datamodule, getattr(LightningDataModule, self.hook)):
                self.owner = datamodule
            elif overrides(module, stage.loader):
                self.owner = module

    @property
    def exists(self) -> bool:
        return self.given is not None or self.owner is not None

    def load(self) -> Any:
        """The loaders, fresh where a method makes them."""
        return processed(self.given if self.owner is None else fitted(getattr(self.owner, self.hook), 0)(), self.process)

    @property
    def name(self) -> str:
        if self.owner is not None:
            return f"{type(self.owner).__name__}.{self.hook}()"
        return f"the {self.stage.key} loader that was passed"


class Loaders:
    """The loaders of the running verb, and the share of their data that this process reads.

    Training drops an end that does not go around all processes, evaluation keeps it, whatever ``share`` says of that.
    """

    def __init__(self, share: Share = ALONE) -> None:
        self.share = share
        self.origins: dict[str, LoaderOrigin] = {}
        self.train_given: Any = None
        self.train: Source | None = None
        self.eval_given: dict[str, Any] = {}
        self.eval: dict[str, Source] = {}
        self._generators: dict[str, dict[str, Any]] = {}  # random generators that the loaders hold, by stage
        self._states: dict[str, dict[str, Any]] = {}  # of such generators, to be put back once their loader is there
        self._carried: dict[str, list[Any]] = {}  # what evaluation's samplers carry, to be put back in the same way
        self.made: dict[str, dict[str, Any]] = {}  # when those that a method makes were made: see `state/making.py`
        self.to_be_made: dict[str, dict[str, Any]] = {}  # the same, of the run that a resumed one goes on with
        self.first_batches: int | None = None  # of the first training loader of the fit
        self._cut: dict[str, Any] | None = None  # where a resumed run goes on in its training data

    def begin(self, origins: dict[str, LoaderOrigin]) -> None:
        """A verb starts: forget what the last one loaded for these stages."""
        self.origins.update(origins)
        self._generators, self._states, self._carried, self._cut = {}, {}, {}, None
        for stage in origins:
            self.eval_given.pop(stage, None)
            self.eval.pop(stage, None)
        if "train" in origins:
            self.train_given = self.train = self.first_batches = None
            self.made, self.to_be_made = {}, {}

    def exists(self, stage: str) -> bool:
        origin = self.origins.get(stage)
        return origin is not None and origin.exists

    def is_made(self, stage: str) -> bool:
        """Whether a method makes that stage's loaders."""
        origin = self.origins.get(stage)
        return origin is not None and origin.owner is not None

    def load_train(self, limits: Limits) -> Source:
        """The training source, made now."""
        if "train" not in self.origins:
            raise MissingMethod("There is no training loader yet: fit gets one. Ask for it inside fit, or afterwards.")
        origin = self.origins["train"]
        self.train_given = origin.load()
        if self.train_given is None:
            raise InvalidLoader(f"{origin.name} returned None. Expected a loader for training.")
        self.train = Source(
            self.train_given,
            origin.name,
            TRAIN.limit(limits),
            TRAIN.limit_option,
            training=True,
            in_order=bool(limits.overfit),
            share=replace(self.share, uneven="drop"),
        ).follow(self.train)
        self._put_back("train", self.train_given)
        if limits.overfit and hasattr(self.train_given, "sampler"):
            self.train_given = self.train.readers[0].loader  # what is read: without shuffling
        self.train.restore(self._cut)
        self._cut = None
        return self.train

    def load_eval(self, stage: Stage, limits: Limits, indices: bool = False) -> Source | None:
        """The source of an evaluation, made now; ``None`` where its method returns none. ``indices`` as for :class:`Source`."""
        key = stage.key
        origin = self.origins[key]
        given = undropped(origin.load()) if stage is PREDICT else origin.load()
        self.eval_given[key] = given
        if given is None or (isinstance(given, list | tuple | Mapping) and not given):
            self.eval.pop(key, None)
            return None
        self.eval[key] = Source(
            given,
            origin.name,
            stage.limit(limits),
            stage.limit_option,
            training=False,
            share=replace(self.share, uneven="keep", batches=stage is PREDICT),
            indices=indices,
        )
        self._put_back(key, given)
        self._put_carried(key)
        return self.eval[key]

    # -- kept across a resume
    @property
    def generators(self) -> Mapping[str, dict[str, Any]]:
        """Random generators that the loaders hold, by stage."""
        return self._generators

    def restore(self, cut: dict[str, Any] | None) -> None:
        """Go on at ``cut``."""
        if self.train is not None:
            self.train.restore(cut)
        else:
            self._cut = cut

    def restore_generators(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Put the loaders' own generators into these states, now or once their loader is there."""
        self._states = dict(states)
        for stage, given in [("train", self.train_given), *self.eval_given.items()]:
            if given is not None:
                self._put_back(stage, given)

    @property
    def carried(self) -> dict[str, list[Any]]:
        """What samplers carry from one evaluation to the next, by stage; training's stands with its position."""
        now = {stage: [each.state_dict() for each in source.carried] for stage, source in self.eval.items()}
        return {**self._carried, **{stage: states for stage, states in now.items() if any(states)}}

    def restore_carried(self, states: Mapping[str, list[Any]]) -> None:
        """Put it back, now or once the loader is there."""
        self._carried = dict(states)
        for stage in self.eval:
            self._put_carried(stage)

    def forget_made(self, stage: str) -> None:
        """What was kept of that stage's loaders is not for those that are made next."""
        for kept in (self.to_be_made, self._states, self._carried):
            kept.pop(stage, None)

    def _put_carried(self, stage: str) -> None:
        with unmoved([] if self.train is None else self.train.carried):  # they may share a sampler
            for each, state in zip(self.eval[stage].carried, self._carried.pop(stage, []), strict=False):
                each.load_state_dict(state)

    def _put_back(self, stage: str, given: Any) -> None:
        self._generators[stage] = generators_in(given)
        put_states(self._generators[stage], self._states.pop(stage, {}))

    @property
    def num_training_batches(self) -> int | float:
        return float("inf") if self.train is None else self.train.batches[0]

    def num_eval_batches(self, stage: str) -> list[int | float]:
        source = self.eval.get(stage)
        return [] if source is None else source.batches_of_each
