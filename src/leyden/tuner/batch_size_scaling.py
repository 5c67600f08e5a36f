"""The largest batch size that fits into memory: tried, not computed."""

from __future__ import annotations

from typing import Any

from leyden.checked import check_count, check_number
from leyden.data.combined import CombinedLoader
from leyden.data.source import Source
from leyden.devices.memory import garbage_collection_cuda, is_oom_error
from leyden.distributed.rank_zero import rank_zero_info
from leyden.errors import EmptyLoader, InvalidOption, InvalidType, LeydenWarning, MisconfigurationException, Unsupported
from leyden.module import LightningModule
from leyden.state.making import load_train
from leyden.state.run import Run
from leyden.state.stage import TRAIN, Stage
from leyden.tuner.aside import Aside, untraced
from leyden.tuner.holders import Holders, batch_size_of

MODES = ("power", "binsearch")


def check_scaling(
    mode: Any, steps_per_trial: Any, init_val: Any, max_trials: Any, batch_arg_name: Any, margin: Any, max_val: Any
) -> str:
    """Raise :class:`InvalidOption` for what cannot be used; returns the mode in its one spelling."""
    if not isinstance(mode, str) or mode.lower() not in MODES:
        raise InvalidOption("mode", mode, "'power' or 'binsearch'")
    check_count("steps_per_trial", steps_per_trial, 1, "a number of steps >= 1")
    check_count("init_val", init_val, 1, "a number of samples >= 1")
    check_count("max_trials", max_trials, 1, "a number of trials >= 1")
    check_count("max_val", max_val, 1, "a number of samples >= 1")
    if not 0.0 <= check_number("margin", margin, "a share from 0.0 to below 1.0") < 1.0:
        raise InvalidOption("margin", margin, "a share from 0.0 to below 1.0")
    if not isinstance(batch_arg_name, str) or not batch_arg_name:
        raise InvalidType("batch_arg_name", batch_arg_name, "the name of the attribute that holds the batch size")
    return mode.lower()


def check_run(run: Run, module: LightningModule, stage: Stage, batch_arg_name: str) -> Holders:
    """Where the batch size stands; raises where it cannot be searched, which is known before anything runs."""
    if not run.strategy.processes.alone:
        raise Unsupported(
            f"The batch-size finder works in one process, and there are {run.strategy.processes.world}: one of them could run "
            f"out of memory while the others wait for it. Search with devices=1."
        )
    origin = run.leyden_loaders.origins.get(stage.key)
    if origin is not None and origin.given is not None:
        raise Unsupported(
            f"The batch-size finder cannot change loaders that were passed to {stage.verb}: their batch size is fixed. Give the "
            f"module or the datamodule a `{stage.loader.__name__}` that makes its loader with self.{batch_arg_name}."
        )
    holders = batch_size_of(module, run.datamodule, batch_arg_name)
    if holders.is_twice:
        run.leyden_warn(
            f"{type(module).__name__} has {batch_arg_name!r} as an attribute and in hparams too. The search sets both; remove "
            f"the one that your loaders do not read.",
            LeydenWarning,
        )
    return holders


def scale_batch_size(
    run: Run,
    module: LightningModule,
    *,
    stage: Stage,
    mode: str,
    steps_per_trial: int,
    init_val: int,
    max_trials: int,
    batch_arg_name: str,
    margin: float,
    max_val: int,
) -> int | None:
    """Search in a verb that is set up, and put everything back but for the batch size.

    Raises:
        UnknownName, Unsupported: there is no batch size, or it cannot be changed.
        MisconfigurationException: not even one sample fits.
    """
    if run.fast_dev_run:
        run.leyden_warn("The batch-size finder does nothing in a run with fast_dev_run.", LeydenWarning)
        return None
    holders = check_run(run, module, stage, batch_arg_name)
    before, size = holders.values, None
    try:
        with untraced(run, anew=True) as aside:
            trials = Trials(aside, stage, holders, steps_per_trial)
            if mode == "power":
                size = by_doubling(trials, init_val, max_trials, max_val)
            else:
                size = by_halves(trials, init_val, max_trials, max_val)
                reduced = max(1, int(size * (1 - margin)))
                if reduced != size:
                    rank_zero_info(f"Applying margin of {margin:.1%}, reducing batch size from {size} to {reduced}")
                size = reduced
    finally:
        holders.put([size] * len(before) if size is not None else before)
    rank_zero_info(f"Finished batch size finder, will continue with full run using batch size {size}")
    return size


class Trials:
    """Sizes, tried one after another."""

    def __init__(self, aside: Aside, stage: Stage, holders: Holders, steps: int) -> None:
        self.aside, self.stage, self.holders, self.steps = aside, stage, holders, steps
        self.samples: int | None = None  # in the data, as far as that is known
        self.error: Exception | None = None  # of the newest size that did not fit
        self._doubted = False

    def first(self, init_val: int, max_val: int) -> int:
        """The size to begin with: the one that is set, where that is all of the data already."""
        held = self.holders.value
        if isinstance(held, int) and (held > init_val or self.stage is not TRAIN):
            samples = samples_of(self._source_now())
            if held > init_val and samples is not None and held >= samples:
                return held
        return min(init_val, max_val)

    def fits(self, size: int) -> bool:
        """Whether the steps ran with ``size``."""
        self.holders.set(size)
        if self.aside.run.strategy.root_device.type != "cpu":
            garbage_collection_cuda()  # what the last size has left in pieces
        self.error = None
        try:
            if self.stage is TRAIN:
                self.aside.train(self.steps, limit=1.0)
            else:
                self.aside.evaluate(self.stage, self.steps)
        except (RuntimeError, MemoryError, EmptyLoader) as error:
            if not isinstance(error, EmptyLoader) and not ran_out(error):
                raise
            self.error = error.with_traceback(None)  # its frames hold what did not fit
            error.__context__ = error.__cause__ = None
        if self.error is not None:
            garbage_collection_cuda()
            return False
        self.samples = samples_of(self.aside.source)
        self._doubt(size)
        return True

    def _doubt(self, size: int) -> None:
        """Warn once where no loader that was read has ``size``: the search would find that every size fits."""
        readers = self.aside.source.readers if self.aside.source is not None else ()
        read = {getattr(leaf.loader, "batch_size", None) for reader in readers for leaf in reader.leaves}
        sizes = sorted(each for each in read if isinstance(each, int))
        if self._doubted or size in sizes or not sizes or len(sizes) < len(read):
            return
        self._doubted = True
        self.aside.run.leyden_warn(
            f"The batch-size finder set {size}, and {self.stage.loader.__name__} made a loader with batch_size="
            f"{', '.join(map(str, sizes))}: it does not read the attribute that was set, so no other size is tried. Make "
            f"the loader with it, as DataLoader(..., batch_size=self.batch_size).",
            LeydenWarning,
        )

    def _source_now(self) -> Source | None:
        """The loader with the size that is set now; ``None`` where that leaves no batch."""
        run, stage = self.aside.run, self.stage
        try:
            with self.aside.fresh():
                source = load_train(run) if stage is TRAIN else run.leyden_loaders.load_eval(stage, run.leyden_options.limits)
        except EmptyLoader:
            return None
        if source is not None and len(source.readers) > 1:
            raise Unsupported(
                f"The batch-size finder works with one loader to {stage.verb}, and there are {len(source.readers)}. Choose the "
                f"batch size by hand."
            )
        return source

    def holds_all(self, size: int) -> bool:
        """Whether one batch of that size is all the data, so that a larger one is no other."""
        if self.samples is None or size < self.samples:
            return False
        rank_zero_info(f"The batch size {size} is greater or equal than the length of your dataset: {self.samples}.")
        return True

    def refuse_all(self) -> MisconfigurationException:
        return MisconfigurationException(
            f"The batch-size finder tried {self.holders.name}=1, and it does not work either: {self.error} Use a smaller model, "
            f"a lower precision, or a device with more memory."
        )


def ran_out(error: Exception) -> bool:
    """Whether memory ran out, here or in a loader's worker, which the system has killed then."""
    return is_oom_error(error) or ("DataLoader worker" in str(error) and "killed by signal: Killed" in str(error))


def by_doubling(trials: Trials, init_val: int, most_trials: int, max_val: int) -> int:
    """Twice as much each time, until it does not fit or there is no more; half as much, where not even the first fits."""
    size, good, tried = trials.first(init_val, max_val), 0, 0
    while True:
        if not trials.fits(size):
            smaller = good or size // 2
            if not smaller:
                raise trials.refuse_all()
            rank_zero_info(f"Batch size {size} failed, trying batch size {smaller}" if not good else f"Batch size {size} failed")
            if good:
                return good
            size, max_val = smaller, smaller  # larger ones are known not to fit
            continue
        good, tried = size, tried + 1
        if tried >= most_trials or trials.holds_all(size):
            return size
        if size >= max_val:
            rank_zero_info(f"Reached the maximum batch size limit of {max_val}. Stopping search.")
            return size
        size = min(2 * size, max_val)
        rank_zero_info(f"Batch size {good} succeeded, trying batch size {size}")


def by_halves(trials: Trials, init_val: int, most_trials: int, max_val: int) -> int:
    """Twice as much each time, until it does not fit; then between what fits and what does not, until they meet."""
    size, low, high, tried = trials.first(init_val, max_val), 0, 0, 0
    while True:
        if trials.fits(size):
            low, tried = size, tried + 1
            if tried >= most_trials or trials.holds_all(size):
                return size
            if size >= max_val:
                rank_zero_info(f"Reached the maximum batch size limit of {max_val}. Stopping search.")
                return size
            word, size = "succeeded", (low + high) // 2 if high else min(2 * size, max_val)
        else:
            high, word = size, "failed"
            size = (max(low, 1) + high) // 2
        if high and high - low <= 1:
            if not low:
                raise trials.refuse_all()
            return low
        rank_zero_info(f"Batch size {low if word == 'succeeded' else high} {word}, trying batch size {size}")


def samples_of(source: Source | None) -> int | None:
    """Samples of the largest dataset that is read; ``None`` where no dataset tells."""
    if source is None:
        return None
    sizes = []
    for leaf in (leaf for reader in source.readers for leaf in reader.leaves):
        try:
            sizes.append(len(leaf.loader.dataset))
        except (TypeError, AttributeError, NotImplementedError):
            continue
    if not sizes:
        return None
    combined = source.readers[0].combined
    return min(sizes) if isinstance(combined, CombinedLoader) and combined.mode == "min_size" else max(sizes)
