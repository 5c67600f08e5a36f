"""Where the time of training went, in parts that add up: each moment belongs to the innermost action that runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

EPOCH = "run_training_epoch"
"""The action whose time is divided into parts."""
ALWAYS = ("data", "transfer", "forward", "backward", "optimizer", "logging", "loop")
FETCH, MOVE, FORWARD, BACKWARD, OPTIMIZER, LOGGING, LOOP = ALWAYS
VALIDATION, SAVES, HOOKS = "validation", "checkpoints", "hooks of "
_CLOSED = (FETCH, MOVE, BACKWARD, LOGGING, VALIDATION, SAVES)
"""Parts, like those of hooks, of which all is that lies in them. In the others a part may begin: a closure runs forward."""
_OF_HOOK = {
    "training_step": FORWARD,
    "backward": BACKWARD,
    "optimizer_step": OPTIMIZER,
    "optimizer_zero_grad": OPTIMIZER,
    "configure_gradient_clipping": OPTIMIZER,
    "lr_scheduler_step": OPTIMIZER,
    "batch_to_device": MOVE,
    "on_before_batch_transfer": MOVE,
    "transfer_batch_to_device": MOVE,
    "on_after_batch_transfer": MOVE,
    "train_dataloader_next": FETCH,
}
_OF_ACTION = {
    "run_training_batch": LOOP,
    "run_validation": VALIDATION,
    "save_checkpoint": SAVES,
    "log": LOGGING,
    "write_step_row": LOGGING,
    "write_epoch_row": LOGGING,
}


@dataclass
class Node:
    """An action, inside those in which it ran."""

    name: str
    own: float = 0.0
    """Seconds in which it was the innermost."""
    calls: int = 0
    inside: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str) -> Node:
        node = self.inside.get(name)
        if node is None:
            node = self.inside[name] = Node(name)
        return node

    def named(self, name: str) -> Iterator[Node]:
        """The outermost nodes of that name."""
        for node in self.inside.values():
            if node.name == name:
                yield node
            else:
                yield from node.named(name)


class Path:
    """The actions that run in one thread, outermost first, and where the time since the last change goes."""

    def __init__(self) -> None:
        self.root = Node("")
        self.began: dict[str, float] = {}
        """When each running action was started."""
        self._running: list[Node] = []
        self._since = 0.0

    def enter(self, name: str, now: float) -> None:
        above = self.root
        if self._running:
            above = self._running[-1]
            above.own += now - self._since
        node = above.child(name)
        node.calls += 1
        self._running.append(node)
        self.began[name], self._since = now, now

    def leave(self, name: str, now: float) -> float:
        """End the action; returns its whole duration. Actions may be left in another order than they were entered."""
        self._running[-1].own += now - self._since
        self._since = now
        at = next(at for at in reversed(range(len(self._running))) if self._running[at].name == name)
        del self._running[at]
        return now - self.began.pop(name)

    def abandon(self) -> None:
        """Forget what runs: nobody will end it."""
        self._running.clear()
        self.began.clear()


def parts_of(root: Node) -> dict[str, float]:
    """Seconds of each part of the training epochs; their sum is how long these took, and no moment is in two of them.

    Parts are what :data:`ALWAYS` names, ``validation``, ``checkpoints``, the hooks of the module, of the datamodule and of each
    callback, and the user's own actions under their names. What runs inside a hook, a validation or a save is part of that.
    """
    parts = dict.fromkeys(ALWAYS, 0.0)
    for epoch in root.named(EPOCH):
        _add(epoch, LOOP, parts)
    return parts


def _add(node: Node, part: str, parts: dict[str, float]) -> None:
    parts[part] = parts.get(part, 0.0) + node.own
    closed = part in _CLOSED or part.startswith(HOOKS)
    for inner in node.inside.values():
        _add(inner, part if closed else _part_of(inner.name), parts)


def _part_of(action: str) -> str:
    if action in _OF_ACTION:
        return _OF_ACTION[action]
    owner, _, name = action.rpartition(".") if action.startswith("[") else ("", "", action)
    if name in _OF_HOOK and not owner.startswith("[Callback]"):
        return _OF_HOOK[name]
    for kind in ("[Callback]", "[LightningModule]", "[LightningDataModule]"):
        if owner.startswith(kind):
            return f"{HOOKS}{owner.removeprefix(kind).split('{')[0]}"
    return action
