"""ThroughputMonitor: batches, samples and operations a second, among the logged metrics."""

import time
from collections.abc import Callable
from typing import Any

import torch

from leyden.callback import Callback
from leyden.checked import check_count, check_function, check_number
from leyden.devices.flops import get_available_flops
from leyden.devices.throughput import Throughput
from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import PossibleUserWarning
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run

_FORMATS = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}


@exact_arguments
class ThroughputMonitor(Callback):
    """Log how fast training, validation, testing and predicting go, every ``log_every_n_steps`` batches.

    Names are a stage (``train``, ``validate``, ``test``, ``predict``), the separator, and those of :class:`Throughput`:
    ``train/device/samples_per_sec``. Training's time is without validation's. On CUDA the device's own clock is read, and waited
    for only where something is logged. A run that was cut goes on with its counts.

    Where the module has a ``flops_per_batch`` (see :func:`measure_flops`), operations a second are logged too, and on a GPU that
    is known the share of what it can do at best (``device/mfu``).

    Args:
        batch_size_fn: Gets a batch, returns its number of samples.
        length_fn: Gets a batch, returns its number of items, over all its samples.
        kwargs: Arguments of :class:`Throughput`: ``window_size`` and ``separator``. ``available_flops`` and ``world_size`` are
            the trainer's where they are not given.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used, or (after a batch) a function's answer.
        UnknownName: an argument that is none of :class:`Throughput`'s.
    """

    def __init__(self, batch_size_fn: Callable[[Any], int], length_fn: Callable[[Any], int] | None = None, **kwargs: Any) -> None:
        check_function("batch_size_fn", batch_size_fn, 1, "a function of a batch that returns its number of samples")
        if length_fn is not None:
            check_function("length_fn", length_fn, 1, "a function of a batch that returns its number of items, or None")
        Throughput(**kwargs)  # what does not fit is said now
        self.kwargs = kwargs
        self.batch_size_fn = batch_size_fn
        self.length_fn = length_fn
        self.available_flops: float | None = kwargs.get("available_flops")
        self.__measured: dict[str, _Measured] = {}
        self.__restored: dict[str, dict[str, Any]] = {}
        self.__has_flops: bool | None = None

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        device = trainer.strategy.root_device
        if "available_flops" not in self.kwargs:
            kind = trainer.strategy.precision.precision.split("-")[0]
            self.available_flops = get_available_flops(device, _FORMATS.get(kind, torch.float32))
        own = {"available_flops": self.available_flops, "world_size": trainer.world_size, **self.kwargs}
        words = ("train", "validate") if stage == "fit" else (str(stage),)
        for word in words:
            self.__measured[word] = _Measured(Throughput(**own), Stopwatch(device))
        self.__has_flops = None

    # -- what the hooks do
    def __start(self, trainer: Run, word: str, goes_on: bool = False) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            counts = self.__restored.pop(word, {})
            self.__measured[word].start(counts if goes_on else {name: counts[name] for name in counts if name == "total"})

    def __update(self, trainer: Run, module: LightningModule, word: str, batch: Any, training: bool) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking or batch is None:
            return
        measured, every = self.__measured[word], trainer.log_every_n_steps
        if measured.last is None:  # the run goes on inside a validation
            self.__start(trainer, word, goes_on=True)
        if self.__has_flops is None:
            self.__has_flops = hasattr(module, "flops_per_batch")
            if not self.__has_flops:
                rank_zero_warn_user(
                    f"ThroughputMonitor counts no operations: {type(module).__name__} has no `flops_per_batch`. Set it, for "
                    f"instance to what leyden.utilities.measure_flops returns.",
                    category=PossibleUserWarning,
                )
        with torch.inference_mode():
            samples = _count("batch_size_fn", self.batch_size_fn(batch), "a number of samples >= 1")
            items = None
            if self.length_fn is not None:
                items = _count("length_fn", self.length_fn(batch), "a number of items >= 1")
        measured.note(samples, items, module.flops_per_batch if self.__has_flops else None)
        if not training:
            if every and measured.batches % every == 0:
                self.__log(trainer, word, measured.total)
            return
        progress = trainer.leyden_fit.progress
        if progress.window == 0 and every and (progress.stepped_batches % every == 0 or trainer.should_stop):
            self.__log(trainer, word, None)

    def __log(self, trainer: Run, word: str, step: int | None) -> None:
        measured = self.__measured[word]
        measured.settle()
        separator = measured.throughput.separator
        row = {f"{word}{separator}{name}": value for name, value in measured.throughput.compute().items()}
        trainer.leyden_metrics.publish(row, callback=False, logged=True)
        trainer.leyden_log_row(row, step)

    # -- hooks
    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__start(trainer, "train", goes_on=True)

    def on_train_batch_end(self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.__update(trainer, pl_module, "train", batch, training=True)

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__start(trainer, "validate")

    def on_validation_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.__update(trainer, pl_module, "validate", batch, training=False)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.leyden_fitting and not trainer.sanity_checking and trainer.is_global_zero:
            self.__measured["train"].skip()

    def on_test_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__start(trainer, "test")

    def on_test_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.__update(trainer, pl_module, "test", batch, training=False)

    def on_predict_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__start(trainer, "predict")

    def on_predict_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.__update(trainer, pl_module, "predict", batch, training=False)

    def state_dict(self) -> dict[str, Any]:
        return {**self.__restored, **{word: each.counts() for word, each in self.__measured.items() if each.total}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__restored = dict(state_dict)


def _count(function: str, answer: object, expected: str) -> int:
    """What a user's function returned: a number, or a tensor that holds one."""
    name = f"what {function} returned"
    return check_count(name, check_number(name, answer, expected), 1, expected)


class Stopwatch:
    """Marks moments of a device's work; the seconds between two of them. On CUDA that waits for the second."""

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"

    def mark(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        if not self.on_cuda:
            return float(second - first)
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000


class _Measured:
    """The counts of one stage, and the batches of which its throughput has not heard yet."""

    def __init__(self, throughput: Throughput, watch: Stopwatch) -> None:
        self.throughput, self.watch = throughput, watch
        self.last: Any = None  # the moment up to which time is counted
        self.elapsed = 0.0
        self.batches = self.samples = self.items = 0
        self.total = 0  # batches over all passes of this verb
        self.waiting: list[tuple[Any, dict[str, Any]]] = []

    def start(self, counts: dict[str, Any]) -> None:
        """A pass begins, or goes on with these ``counts``."""
        self.throughput.reset()
        self.waiting.clear()
        self.elapsed = counts.get("time", 0.0)
        self.batches, self.samples, self.items = (counts.get(name, 0) for name in ("batches", "samples", "lengths"))
        self.total = counts.get("total", self.total)
        self.last = self.watch.mark()

    def note(self, samples: int, items: int | None, flops: Any) -> None:
        """A batch has ended."""
        self.batches += 1
        self.total += 1
        self.samples += samples
        self.items += items or 0
        counts = {"batches": self.batches, "samples": self.samples, "lengths": None if items is None else self.items}
        self.waiting.append((self.watch.mark(), {**counts, "flops": flops}))
        if not self.watch.on_cuda or len(self.waiting) > self.throughput.window_size:
            self.settle()

    def settle(self) -> None:
        """Tell the throughput of the batches that wait."""
        for moment, counts in self.waiting:
            self.elapsed += max(self.watch.between(self.last, moment), 1e-9)  # a clock may stand still for a moment
            self.last = moment
            self.throughput.update(time=self.elapsed, **counts)
        self.waiting.clear()

    def skip(self) -> None:
        """What has happened since the last batch does not count."""
        self.settle()
        if self.last is not None:
            self.last = self.watch.mark()

    def counts(self) -> dict[str, Any]:
        self.settle()
        return {
            "time": self.elapsed,
            "batches": self.batches,
            "samples": self.samples,
            "lengths": self.items,
            "total": self.total,
        }
