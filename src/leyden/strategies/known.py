"""What a wrapper that exchanges gradients knows of a module, and whether that is still so."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.strategies.unowned import given_to


class Known:
    """What a wrapper of ``module`` was made for: its parameters, which of them were trained, and what ``optimizers`` had.

    Args:
        waits: whether it waits for a gradient of each parameter that was trained then.
    """

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], waits: bool) -> None:
        self.module, self.optimizers, self.waits = module, optimizers, waits
        self.parameters = list(module.parameters())
        self.trained = [each.requires_grad for each in self.parameters]
        self.given = given_to(optimizers)

    def is_outdated(self) -> bool:
        """Whether another parameter is trained by now, or one that is waited for is frozen. Cheap: it is asked at every step."""
        trained = [each.requires_grad for each in self.parameters]
        if trained != self.trained and (self.waits or any(now > then for now, then in zip(trained, self.trained, strict=True))):
            return True
        before, self.given = self.given, given_to(self.optimizers)
        return before != self.given and list(map(id, self.module.parameters())) != list(map(id, self.parameters))

    def changes(self) -> list[Tensor]:
        """What is trained and was not, or was and is no longer."""
        were = {id(each): each for each, trained in zip(self.parameters, self.trained, strict=True) if trained}
        now = {id(each): each for each in self.module.parameters() if each.requires_grad}
        return [each for number, each in {**were, **now}.items() if (number in were) != (number in now)]

    def left_behind(self) -> list[Tensor]:
        """Those whose gradients of an open window no other wrapper exchanges, since they are frozen by now."""
        were = zip(self.parameters, self.trained, strict=True)
        return [each for each, trained in were if trained and not each.requires_grad]
