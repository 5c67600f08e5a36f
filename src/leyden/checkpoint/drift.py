"""What training changes in a module and its ``state_dict`` does not hold: passing buffers, modes, numbers, what is frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leyden.checkpoint.collected import collected_by, owners_of, put_collected, set_anew
from leyden.checkpoint.computed_with import Followed, Part, parts_of, takes
from leyden.checkpoint.held import Held, hint_unkept
from leyden.checkpoint.optimizer_states import end_adding_once
from leyden.checkpoint.plain_names import named_parameters, plain_name
from leyden.checkpoint.set_elsewhere import SetElsewhere
from leyden.data.reachable import is_users
from leyden.errors import LeydenWarning, warn_user
from leyden.tree import bytes_of

Others = tuple[Iterable[Any], Iterable[Any], Any, Any, Iterable[Any]]


def _no_others() -> Others:
    return (), (), None, None, ()


def beside_the_module(run: Any) -> Others:
    """A run's callbacks, optimizers, datamodule, data and schedulers. (A function of the file's: the run can be pickled.)"""
    plan = run.leyden_fit.plan
    schedulers = [each.scheduler for each in plan.schedulers]
    return run.callbacks, plan.optimizers, run.datamodule, run.leyden_loaders.train_given, schedulers


class Drift:
    """How a module stood when the fit began, and what is otherwise now. Only that stands in a file: the rest is the command's.

    Args:
        module: the module.
        others: gives the callbacks, the optimizers and the datamodule, whose plain attributes are followed too, the data, and
            the schedulers.
    """

    def __init__(self, module: nn.Module, others: Callable[[], Others] | None = None) -> None:
        self.others = others or _no_others
        self.buffers = {name: _digest(buffer) for _, _, name, buffer in _unkept(module)}
        self.trained = {name: parameter.requires_grad for name, parameter in _unpruned(module)}
        self.tracked = _tracked(module)
        self.modes = _modes(module, {})
        self.kinds = _kinds(module)
        self.hooks = _hooks(module)
        self.hooked: Mapping[str, int] = {}  # of a resumed run: hooks of layers, where training has changed their number
        self.replaced: Mapping[str, str] = {}  # of a resumed run: layers of another kind than at the beginning
        self.collected: Mapping[str, Any] = {}  # of a resumed run: see `leyden.checkpoint.collected`
        self.set_elsewhere: Mapping[str, Any] = {}  # the same
        self.elsewhere: SetElsewhere | None = None  # from the beginning of training on
        self.waiting: Mapping[str, Any] = {}  # numbers of a resumed run, which hooks may set once more before training goes on
        self.in_place: Collection[str] = ()  # of these, tensors that others may hold too
        parts, around = self._around(module)
        self.numbers = Followed(parts, module)
        self.held = Held(parts, module, around)
        self.states: Mapping[str, Any] = {}  # of what is held, in a resumed run: hooks may make it once more

    def _around(self, module: nn.Module) -> tuple[list[Part], list[Any]]:
        """The parts, and the optimizers and schedulers, which are kept as such."""
        _, optimizers, _, _, schedulers = self.others()
        return list(self._parts(module)), [*optimizers, *schedulers]

    def _parts(self, module: nn.Module) -> Iterator[Part]:
        callbacks, optimizers, datamodule, *_ = self.others()
        return parts_of(module, list(owners_of(module, callbacks))[1:], optimizers, datamodule)

    def state_dict(self, module: nn.Module, modes: Mapping[nn.Module, bool] | None = None) -> dict[str, Any]:
        """What is otherwise now, by name. ``modes`` are training's, while something else has set others."""
        now = {name: buffer for _, _, name, buffer in _unkept(module)}
        digests = {name: _digest(buffer) for name, buffer in now.items()}
        changed = [name for name, digest in digests.items() if digest is None or digest != self.buffers.get(name)]
        buffers: dict[str, Tensor | None] = {name: now[name] for name in changed}
        buffers.update(dict.fromkeys(self.buffers.keys() - now.keys()))  # None: it is gone
        toggled = module.__dict__.get("_toggled", {})  # frozen for one optimizer's turn only
        required = {name: toggled.get(each, each.requires_grad) for name, each in _unpruned(module)}
        trained = {name: required[name] for name in required if self.trained.get(name, required[name]) != required[name]}
        tracked = {name: flag for name, flag in _tracked(module).items() if self.tracked.get(name, flag) != flag}
        moded = {name: mode for name, mode in _modes(module, modes or {}).items() if self.modes.get(name, mode) != mode}
        parts, around = self._around(module)
        numbers = self.numbers.changed(parts)
        held, kinds = self.held.state_dict(parts, module, around), _kinds(module)
        replaced = {name: kinds.get(name, "") for name in {**self.kinds, **kinds} if self.kinds.get(name) != kinds.get(name)}
        # those of a validation are gone after it
        hooks = {} if modes else _hooks(module)
        hooked = {name: number for name, number in hooks.items() if self.hooks.get(name, number) != number}
        return {
            "hooks": hooked,
            "buffers": buffers,
            "trained": trained,
            "tracked": tracked,
            "modes": moded,
            "numbers": numbers,
            "in_place": self.numbers.in_place(parts, numbers),
            "held": held,
            "kinds": replaced,
        }

    def load_state_dict(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Bring the module where it was."""
        owners = {plain_name(name): child for name, child in module.named_modules()}
        device = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), None)
        for name, value in state["buffers"].items():
            prefix, _, own_name = name.rpartition(".")
            owner = owners.get(prefix)
            if owner is None:
                continue
            buffer = owner._buffers.get(own_name)
            if buffer is not None and value is not None and takes(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            elif own_name in owner._buffers:
                owner._buffers[own_name] = None if value is None else value.to(device if buffer is None else buffer.device)
            elif value is not None and not hasattr(owner, own_name):  # training's first step makes it
                owner.register_buffer(own_name, value.to(device), persistent=False)
        for name, parameter in _unpruned(module):
            if name in state["trained"]:
                parameter.requires_grad_(state["trained"][name])
        for name, flag in state.get("tracked", {}).items():  # files of 0.1.0 have none
            if name in owners:
                owners[name].track_running_stats = flag
        for name, mode in state.get("modes", {}).items():
            if name in owners and isinstance(mode, bool):
                owners[name].training = mode
        self.collected = {key: dict(own) for key, own in state.get("collected", {}).items()}
        self.set_elsewhere = state.get("elsewhere", {})
        self.waiting = state.get("numbers", {})
        self.in_place = frozenset(state.get("in_place", ()))
        self.numbers.put(self._parts(module), self.waiting, device, self.in_place)
        self.states, self.replaced = dict(state.get("held", {})), dict(state.get("kinds", {}))
        self.hooked = state.get("hooks", {})
        parts, around = self._around(module)
        self.held.put(parts, module, around, self.states)

    def _roots(self, module: nn.Module) -> dict[str, Any]:
        """From what objects that hooks set something in are reachable."""
        callbacks, _, datamodule, data, _ = self.others()
        return {"module": module, "callbacks": callbacks, "datamodule": datamodule, "data": data}

    def enter_training(self, module: nn.Module, data: Any) -> None:
        """Training is about to begin, or to go on: what hooks had set and collected is put back, and followed from now on.

        The source of the ``data`` keeps what its samplers carry, and is told what hooks set in them.
        """
        carried = [] if data is None else data.carried
        without = [part for each in carried for part, _ in each.parts.values()]
        callbacks, optimizers, *_ = self.others()
        device = getattr(module, "device", None)
        end_adding_once(optimizers)
        collected, self.collected = self.collected, {}
        waiting, self.waiting = self.waiting, {}
        kinds = {type(owner) for _, owner in owners_of(module, callbacks)}
        self.numbers.begin(self._parts(module), frozenset[str]().union(*(set_anew(kind, ("on_train_start",)) for kind in kinds)))
        self.numbers.put(self._parts(module), waiting, device, self.in_place)
        states, self.states = self.states, {}
        parts, around = self._around(module)
        self.held.put(parts, module, around, states)
        hint_unkept(parts)
        self._name_replaced(module)
        self.elsewhere = SetElsewhere([module, *callbacks], self._roots(module), without)
        self.elsewhere.put(self.set_elsewhere, device)
        for each in carried:
            each.set_by_hooks = self.elsewhere.set_in_validation
        put_collected(collected, module, callbacks)

    def _name_replaced(self, module: nn.Module) -> None:
        """Say which layers of the command are of another kind than training had made them."""
        replaced, self.replaced = self.replaced, {}
        kinds = _kinds(module)
        for name, kind in replaced.items():
            now = kinds.get(name, "")
            if now != kind:
                warn_user(
                    f"Training had {'replaced' if now and kind else 'removed' if now else 'added'} the layer {name!r} when the "
                    f"checkpoint was saved: it was {_article(kind)} then, and is {_article(now)} now. Do the same in "
                    f"configure_model or on_load_checkpoint, or this run is not the uninterrupted one.",
                    LeydenWarning,
                )

        hooked, self.hooked, hooks = self.hooked, {}, _hooks(module)
        for name, number in hooked.items():
            if hooks.get(name, number) != number:
                warn_user(
                    f"When the checkpoint was saved, the layer {name or type(module).__name__!r} had {number} forward or "
                    f"backward hooks of your code, which training had changed, and it has {hooks[name]} now: no file can "
                    f"hold them. Register or remove them in on_load_checkpoint or on_train_start too, or this run is not the "
                    f"uninterrupted one.",
                    LeydenWarning,
                )

    def set_by_hooks(self, module: nn.Module) -> dict[str, Any]:
        """What hooks have collected, and set in other objects: with :meth:`state_dict` the whole of this part of a checkpoint."""
        device = getattr(module, "device", None)
        elsewhere = self.set_elsewhere if self.elsewhere is None else self.elsewhere.state_dict(self._roots(module), device)
        return {"collected": collected_by(module, self.others()[0]), "elsewhere": elsewhere}


def _unpruned(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters, by the names that they had before they were pruned, and have again afterwards."""
    ends = "_mask"
    masked = {plain_name(name).removesuffix(ends) for name, _ in module.named_buffers() if name.endswith(ends)}
    named = [(name, name.removesuffix("_orig"), parameter) for name, parameter in named_parameters(module)]
    return [(base if base in masked else name, parameter) for name, base, parameter in named]


def _tracked(module: nn.Module) -> dict[str, bool]:
    """Whether each normalisation keeps running statistics in training, by its name."""
    return {
        plain_name(name): child.track_running_stats
        for name, child in module.named_modules()
        if isinstance(getattr(child, "track_running_stats", None), bool)
    }


def _kinds(module: nn.Module) -> dict[str, str]:
    """The kind of each layer, by its name."""
    layers = ((name, getattr(child, "cls_to_become", None) or type(child)) for name, child in module.named_modules() if name)
    return {plain_name(name): kind.__qualname__ for name, kind in layers}  # a lazy layer is what it is going to be


def _hooks(module: nn.Module) -> dict[str, int]:
    """How many hooks of the user's own code each layer has, by its name."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        plain_name(name): sum(is_users(getattr(hook, "func", hook)) for kind in kinds for hook in getattr(child, kind).values())
        for name, child in module.named_modules()
    }


def _article(kind: str) -> str:
    return f"a {kind}" if kind else "not there"


def _modes(module: nn.Module, known: Mapping[nn.Module, bool]) -> dict[str, bool]:
    """Which submodules are in train mode, by name; of those in ``known`` what that says."""
    return {plain_name(name): known.get(child, child.training) for name, child in module.named_modules()}


def _digest(buffer: Tensor) -> bytes | None:
    """Of its shape and bits; ``None`` where they cannot be read."""
    try:
        bits = bytes_of(buffer.detach().cpu()).numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without values
        return None
    return hashlib.blake2b(bits.data, key=repr((buffer.dtype, tuple(buffer.shape))).encode()[:64]).digest()


def _unkept(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """Buffers that are not persistent: their module, their name in it, and in the whole."""
    for prefix, child in ((plain_name(name), child) for name, child in module.named_modules()):
        for name in sorted(child._non_persistent_buffers_set):
            buffer = child._buffers.get(name)
            if buffer is not None and not hasattr(child, "_defaults"):  # torchmetrics' are kept as such
                yield child, name, f"{prefix}.{name}" if prefix else name, buffer
