"""Which submodules are in train mode, kept while something else sets other modes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from leyden.checkpoint.plain_names import plain_name


class Modes:
    """The modes of a module's submodules before an evaluation; nothing is kept while none runs."""

    def __init__(self) -> None:
        self.before: dict[nn.Module, bool] = {}

    def keep(self, module: nn.Module) -> None:
        """Remember which submodules are in train mode, until :meth:`forget`."""
        self.before = {child: child.training for child in module.modules()}

    def restore(self) -> None:
        """Put every submodule back into the mode that it had."""
        for child, mode in self.before.items():
            child.training = mode

    def forget(self) -> None:
        """The evaluation is over, and the module in the modes in which it is left."""
        self.before = {}

    def by_name(self, module: nn.Module) -> dict[str, list[str]]:
        """For a checkpoint: which submodules are in train mode now, and which were before."""
        names = {child: plain_name(name) for name, child in module.named_modules()}
        return {
            "now": [name for child, name in names.items() if child.training],
            "before": [names[child] for child, mode in self.before.items() if mode and child in names],
        }

    def put(self, module: nn.Module, kept: Mapping[str, list[str]]) -> None:
        """Go on in an evaluation that was cut, of which :meth:`by_name` told."""
        now, before = (set(map(plain_name, kept[when])) for when in ("now", "before"))
        for name, child in module.named_modules():
            self.before[child] = plain_name(name) in before
            child.training = plain_name(name) in now
