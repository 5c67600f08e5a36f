"""What a strategy is given, or left to be filled in: the kind of device, the number formats, the way to the disk."""

from typing import Any

from leyden.checkpoint.files import CheckpointIO
from leyden.devices.accelerators import Accelerator
from leyden.devices.precision import Precision
from leyden.errors import ConflictingOptions, InvalidType, MisconfigurationException

_NAMES = ("accelerator", "precision", "checkpoint_io")


class Parts:
    """Three parts that a strategy owns. Each may be set; one that was left open is what the Trainer was asked for."""

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        precision: Precision | None = None,
    ) -> None:
        if precision is not None and precision_plugin is not None:
            raise ConflictingOptions("precision= and precision_plugin= were both passed, and mean the same. Leave one out.")
        self._accelerator: Accelerator | None = _checked("accelerator", accelerator, Accelerator, "CPUAccelerator()")
        self._checkpoint_io: CheckpointIO | None = _checked("checkpoint_io", checkpoint_io, CheckpointIO, "TorchCheckpointIO()")
        name = "precision_plugin" if precision is None else "precision"
        self._precision: Precision | None = _checked(name, precision_plugin or precision, Precision, "MixedPrecision(...)")
        self._given = {name for name in _NAMES if getattr(self, f"_{name}") is not None}

    @property
    def accelerator(self) -> Accelerator:
        """The kind of device. May be set."""
        if self._accelerator is None:
            raise MisconfigurationException(f"{type(self).__name__} has no accelerator yet. Pass accelerator= when making it.")
        return self._accelerator

    @accelerator.setter
    def accelerator(self, accelerator: Accelerator | None) -> None:
        self._accelerator = _checked("accelerator", accelerator, Accelerator, "CPUAccelerator()")
        self._given.add("accelerator")

    @property
    def precision(self) -> Precision:
        """The number formats, ``32-true`` unless another was asked for."""
        if self._precision is None:
            self._precision = Precision()
        return self._precision

    @property
    def precision_plugin(self) -> Precision:
        """Lightning's word for :attr:`precision`. May be set, before the Trainer is made."""
        return self.precision

    @precision_plugin.setter
    def precision_plugin(self, precision: Precision | None) -> None:
        self._precision = _checked("precision_plugin", precision, Precision, "MixedPrecision(...)")
        self._given.add("precision")

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """What puts checkpoints to disk and reads them. May be set."""
        if self._checkpoint_io is None:
            from leyden.checkpoint.files import TorchCheckpointIO  # only those who save need it

            self._checkpoint_io = TorchCheckpointIO()
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, checkpoint_io: CheckpointIO | None) -> None:
        self._checkpoint_io = checkpoint_io
        self._given.add("checkpoint_io")

    def leyden_forget(self) -> None:
        """Another Trainer takes this on: what the one before filled in is left open again."""
        for name in _NAMES:
            if name not in self._given:
                setattr(self, f"_{name}", None)

    def leyden_complete(
        self,
        accelerator: Accelerator | None = None,
        precision: Precision | None = None,
        checkpoint_io: CheckpointIO | None = None,
    ) -> None:
        """Fill in what was left open. Raises :class:`ConflictingOptions` where something else stands already."""
        for name, asked in (("accelerator", accelerator), ("precision", precision), ("checkpoint_io", checkpoint_io)):
            mine = getattr(self, f"_{name}")
            if asked is None or asked is mine:
                continue
            if mine is not None:
                raise ConflictingOptions(
                    f"{name}={asked!r} was asked for, but strategy={self!r} already brings {mine!r}. Leave one of them out."
                )
            setattr(self, f"_{name}", asked)


def _checked(name: str, given: Any, kind: type, example: str) -> Any:
    if given is None or isinstance(given, kind):
        return given
    hint = f"Pass an instance: {given.__name__}(...)." if isinstance(given, type) else "Names go to the Trainer."
    raise InvalidType(name, given, f"an instance of {kind.__name__} such as {example}, or None", hint)
