"""Batches, samples and floating-point operations a second, over the newest updates."""

from collections import deque
from typing import Any

from leyden.checked import check_count, check_number
from leyden.errors import ConflictingOptions, InvalidOption
from leyden.spelling import exact_arguments


@exact_arguments
class Throughput:
    """Rates from counts that grow: tell it after each batch how far things are, and ask it for the rates when you want them.

    What :meth:`compute` returns, with ``/`` standing for ``separator``:

    - ``time``, ``batches``, ``samples``, ``lengths``: the newest counts.
    - ``device/batches_per_sec``, ``device/samples_per_sec``, ``device/items_per_sec`` (of ``lengths``): of one device, over the
      newest ``window_size`` updates, once there are so many.
    - ``device/flops_per_sec``, and ``device/mfu``: that as a share of ``available_flops``.
    - With a ``world_size`` above 1 the same of all devices together, without ``device/``.

    Args:
        available_flops: Operations a second that one device can do at best.
        world_size: The number of devices, which are taken to be alike.
        window_size: Updates that the rates go over.
        separator: Between ``device`` and the rest of a name.

    Raises:
        InvalidOption, InvalidType: an argument that cannot be used.
    """

    def __init__(
        self, available_flops: float | None = None, world_size: int = 1, window_size: int = 100, separator: str = "/"
    ) -> None:
        self.available_flops = (
            None
            if available_flops is None
            else check_number("available_flops", available_flops, "operations a second, or None", 0, above=True, finite=True)
        )
        self.world_size = check_count("world_size", world_size, 1, "a number of devices >= 1")
        self.window_size = check_count("window_size", window_size, 2, "a number of updates >= 2")
        self.separator = separator
        self._time: deque[float] = deque(maxlen=self.window_size)
        self._batches: deque[int] = deque(maxlen=self.window_size)
        self._samples: deque[int] = deque(maxlen=self.window_size)
        self._lengths: deque[int] = deque(maxlen=self.window_size)
        self._flops: deque[float] = deque(maxlen=self.window_size)

    def update(self, *, time: float, batches: int, samples: int, lengths: int | None = None, flops: int | None = None) -> None:
        """Say how far things are.

        Args:
            time: Seconds since the beginning.
            batches: Batches that one device has seen.
            samples: Samples that it has seen.
            lengths: Items (tokens, for instance) that it has seen. Given always, or never.
            flops: Operations of one device since the last update. Given always, or never.

        Raises:
            InvalidOption: a count that has not grown, or more batches than samples, or more samples than items.
            ConflictingOptions: ``lengths`` or ``flops`` was given for some updates only.
        """
        grown: list[tuple[str, deque[Any], Any]] = [
            ("time", self._time, time),
            ("batches", self._batches, batches),
            ("samples", self._samples, samples),
        ]
        if lengths is not None:
            grown.append(("lengths", self._lengths, lengths))
        for name, kept, value in grown:
            if kept and value <= kept[-1]:
                raise InvalidOption(
                    name, value, f"a value above {kept[-1]}, the last update's", "Pass totals since the beginning."
                )
        if samples < batches:
            raise InvalidOption("samples", samples, f"at least as many as batches ({batches})")
        if lengths is not None and lengths < samples:
            raise InvalidOption("lengths", lengths, f"at least as many as samples ({samples})")
        for name, given, seen in (("lengths", lengths, self._lengths), ("flops", flops, self._flops)):
            if len(seen) != (0 if given is None else len(self._time)):
                raise ConflictingOptions(f"{name}= was passed to some updates and not to others. Pass it always, or never.")
        for _, kept, value in grown:
            kept.append(value)
        if flops is not None:
            self._flops.append(flops * self.world_size)

    def compute(self) -> dict[str, int | float]:
        """The newest counts, and the rates once there are ``window_size`` updates. Nothing before the first update."""
        if not self._time:
            return {}
        newest: dict[str, deque[Any]] = {
            "time": self._time,
            "batches": self._batches,
            "samples": self._samples,
            "lengths": self._lengths,
        }
        found: dict[str, int | float] = {name: kept[-1] for name, kept in newest.items() if kept}
        elapsed = self._time[-1] - self._time[0]
        counted = (("batches", self._batches), ("samples", self._samples), ("items", self._lengths))
        for name, kept in counted:
            if len(kept) == self.window_size:
                self._note(found, f"{name}_per_sec", (kept[-1] - kept[0]) / elapsed)
        if len(self._flops) == self.window_size:
            rate = (sum(self._flops) - self._flops[0]) / elapsed / self.world_size  # the first update's were done before it
            self._note(found, "flops_per_sec", rate)
            if self.available_flops:
                found[f"device{self.separator}mfu"] = rate / self.available_flops
        return found

    def _note(self, found: dict[str, int | float], name: str, rate: float) -> None:
        found[f"device{self.separator}{name}"] = rate
        if self.world_size > 1:
            found[name] = rate * self.world_size

    def reset(self) -> None:
        """Forget all updates."""
        for kept in (self._time, self._batches, self._samples, self._lengths, self._flops):
            kept.clear()
