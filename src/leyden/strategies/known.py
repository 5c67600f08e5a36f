"""What a wrapper that exchanges gradients knows of a module, and whether that is still so."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer


class Known:
    """What a wrapper of ``module`` was made for: its parameters, which of them were trained, and how many ``optimizers`` had.

    Args:
        waits: whether it waits for a gradient of each parameter that was trained then.
    """

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], waits: bool) -> None:
        self.module, self.optimizers, self.waits = module, optimizers, waits
        self.parameters = list(module.parameters())
        self.trained = [each.requires_grad for each in self.parameters]
        self.stepped = self._stepped()

    def is_outdated(self) -> bool:
        """Whether another parameter is trained by now, or one that is waited for is frozen. Cheap: it is asked at every step."""
        trained = [each.requires_grad for each in self.parameters]
        if trained != self.trained and (self.waits or any(now > then for now, then in zip(trained, self.trained, strict=True))):
            return True
        before, self.stepped = self.stepped, self._stepped()
        return before != self.stepped and len(list(self.module.parameters())) != len(self.parameters)

    def left_behind(self) -> list[Tensor]:
        """Gradients of an open window that no other wrapper exchanges, since their parameters are frozen by now."""
        were = zip(self.parameters, self.trained, strict=True)
        return [each.grad for each, trained in were if trained and not each.requires_grad and each.grad is not None]

    def _stepped(self) -> int:
        return sum(len(group["params"]) for optimizer in self.optimizers for group in optimizer.param_groups)
