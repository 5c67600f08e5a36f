"""SpikeDetection: training ends when the loss jumps, and the batches that may have done it are written down."""

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from leyden.callback import Callback
from leyden.checked import check_bool, check_count, check_number
from leyden.checkpoint.files import local_path
from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import InvalidOption, InvalidReturn, InvalidType, TrainingSpikeException
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.types import Path

__all__ = ["SpikeDetection", "TrainingSpikeException"]


@exact_arguments
class SpikeDetection(Callback):
    """Raise :class:`TrainingSpikeException` after a batch whose loss is far off the mean of those before it.

    It is unclear whether that batch or the one before it, which has changed the weights, is to blame: the numbers of both are
    added to ``bad_batches`` and written to a file, a JSON list. A run that goes on from a checkpoint adds to that list. The loss
    is read after each batch, which waits for the device.

    A loss is a spike when it is worse than the one before it, and its distance from the running mean is at least ``atol`` and at
    least ``rtol`` times that mean.

    Args:
        mode: ``"min"``: a loss that falls is better; ``"max"``: one that rises.
        window: Of how many losses the running mean is.
        warmup: How many batches of a fit are never a spike.
        atol: The least distance; ``None``: any.
        rtol: The least distance as a share of the mean; ``None``: any.
        exclude_batches_path: The file, or (where the name does not end with ``.json``) the folder of ``skip_batches.json``. By
            default that in the trainer's ``default_root_dir``.
        finite_only: Whether a loss that is NaN or infinite is a spike whatever the rest says. With ``False`` NaN is none, and an
            infinite loss is judged as any other; neither goes into the mean.

    Attributes:
        bad_batches: The numbers in their epoch of the batches to leave out.
        last_val: The newest loss that was no spike.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used.
        InvalidReturn: (after a batch) ``training_step`` returned no loss.
        TrainingSpikeException: (after a batch) the loss has jumped, on this process or another.
    """

    def __init__(
        self,
        mode: Literal["min", "max"] = "min",
        window: int = 10,
        warmup: int = 1,
        atol: float | None = None,
        rtol: float | None = 2.0,
        exclude_batches_path: Path | None = None,
        finite_only: bool = True,
    ) -> None:
        if mode not in ("min", "max"):
            raise InvalidOption("mode", mode, '"min" or "max"')
        if exclude_batches_path is not None and not isinstance(exclude_batches_path, str | os.PathLike):
            raise InvalidType("exclude_batches_path", exclude_batches_path, "a path, or None")
        self.mode = mode
        self.window = check_count("window", window, 1, "a number of losses >= 1")
        self.warmup = check_count("warmup", warmup, 0, "a number of batches >= 0")
        self.atol = None if atol is None else check_number("atol", atol, "a distance >= 0, or None", 0)
        self.rtol = None if rtol is None else check_number("rtol", rtol, "a share of the mean >= 0, or None", 0)
        self.exclude_batches_path = exclude_batches_path
        self.finite_only = check_bool("finite_only", finite_only)
        self.bad_batches: list[int] = []
        self.last_val = 0.0
        self.__newest: deque[float] = deque(maxlen=self.window)
        self.__seen = 0
        self.__restored = False

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if not self.__restored:
            self.__newest.clear()
            self.last_val, self.__seen = 0.0, 0
        self.__restored = False
        given = trainer.default_root_dir if self.exclude_batches_path is None else self.exclude_batches_path
        path = local_path(os.fspath(given))
        if not path.endswith(".json"):
            path = os.path.join(path, "skip_batches.json")
        self.exclude_batches_path = path
        if trainer.ckpt_path is not None:
            known = [*_read(path), *self.bad_batches]  # what a spike after that checkpoint has written
            self.bad_batches = list(dict.fromkeys(known))

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Tensor | Mapping[str, Any] | None, batch: Any, batch_idx: int
    ) -> None:
        loss = self.__loss_of(outputs, pl_module)
        is_spike = loss is not None and self.__seen >= self.warmup and self.__is_spike(loss)
        self.__seen += 1
        if not trainer.leyden_fit.course.alone:
            is_spike = trainer.strategy.reduce_boolean_decision(is_spike, all=False)
        if is_spike:
            self.__write(batch_idx, trainer.is_global_zero)
            raise TrainingSpikeException(batch_idx)
        if loss is not None and math.isfinite(loss):
            self.__newest.append(loss)
            self.last_val = loss

    def __loss_of(self, outputs: Any, module: LightningModule) -> float | None:
        """The loss; ``None`` for a batch that ``training_step`` has skipped."""
        nothing = outputs is None or (isinstance(outputs, Mapping) and not outputs)
        if nothing and module.automatic_optimization:
            return None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = type(outputs).__name__
            if isinstance(outputs, Mapping):
                what = f"a dict with {', '.join(map(str, outputs))}" if outputs else "nothing"
            raise InvalidReturn(
                f"SpikeDetection watches the loss that training_step returns, and {type(module).__name__}'s returned {what}. "
                f"Return the loss, or a dict with the key 'loss'."
            )
        return float(loss.detach())

    def __is_spike(self, loss: float) -> bool:
        if not math.isfinite(loss) and self.finite_only:
            return True
        change = loss - self.last_val
        if change <= 0 if self.mode == "min" else change >= 0:
            return False
        mean = sum(self.__newest) / len(self.__newest) if self.__newest else math.nan
        distance = abs(loss - mean)  # NaN, which is no spike, before the first loss
        far = self.atol is None or distance >= abs(self.atol)
        return far and (self.rtol is None or distance >= abs(self.rtol * mean))

    def __write(self, batch_idx: int, is_first: bool) -> None:
        self.bad_batches.extend(number for number in (batch_idx - 1, batch_idx) if number >= 0)
        if is_first:
            path = os.fspath(self.exclude_batches_path or "")
            try:
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                with open(path, "w") as file:
                    json.dump(self.bad_batches, file, indent=4)
            except OSError as error:  # the spike is what ends training
                rank_zero_warn_user(
                    f"SpikeDetection cannot write the batches to leave out ({self.bad_batches}) to {path}: {error}"
                )

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_val": self.last_val,
            "mode": self.mode,
            "warmup": self.warmup,
            "atol": self.atol,
            "rtol": self.rtol,
            "bad_batches": list(self.bad_batches),
            "bad_batches_path": None if self.exclude_batches_path is None else os.fspath(self.exclude_batches_path),
            "running": list(self.__newest),
            "seen": self.__seen,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what was seen. What is asked for (``mode``, ``rtol`` and so on) is the constructor's."""
        self.last_val = float(state_dict["last_val"])
        self.bad_batches = list(state_dict["bad_batches"])
        running = state_dict.get("running")
        self.__newest = deque(running if isinstance(running, list) else [], maxlen=self.window)  # Lightning's files have none
        self.__seen = int(state_dict.get("seen", 0))
        self.__restored = True


def _read(path: str) -> list[int]:
    """The list in a file that was written before; nothing where there is none."""
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return []
    return [number for number in found if isinstance(number, int)] if isinstance(found, list) else []
