"""Modules and their parts as they are without torch.compile: by which names they are saved, and what a copy of them keeps."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import nn

MARK = "_orig_mod."
"""What ``torch.compile(child)`` adds to the names of all that is in the child: it is a module of its own around it."""
COMPILED = "leyden_compiled"
"""The attribute of a compiled module: by what it was compiled, and which attributes hide the methods of its class."""
LENT = (
    *("log", "log_dict", "manual_backward", "optimizers", "lr_schedulers", "clip_gradients"),
    *("toggle_optimizer", "untoggle_optimizer", "print"),
)
"""Methods that a compiled module is lent while a verb runs: those by which a step speaks to its trainer."""


def plain_name(name: str) -> str:
    """``name`` without what torch.compile has added."""
    return name.replace(MARK, "").removesuffix("._orig_mod") if "_orig_mod" in name else name


def named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """As :meth:`torch.nn.Module.named_parameters`, by plain names."""
    for name, parameter in module.named_parameters():
        yield plain_name(name), parameter


def is_wrapper(model: Any) -> bool:
    """Whether ``model`` is what ``torch.compile(module)`` returns: a module around the module."""
    return "_orig_mod" in getattr(model, "__dict__", {}).get("_modules", ())


def unwrapped(model: Any) -> Any:
    """What stands inside of however many wrappers."""
    while is_wrapper(model):
        model = model._modules["_orig_mod"]
    return model


def eager_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A module's attributes as they were before it was compiled. What compiles is bound to that one module, and no copy's."""
    found = dict(attributes)
    hidden = found.pop(COMPILED, None)
    if hidden is not None:
        _, before = hidden
        for name, value in before.items():
            if value is None:
                del found[name]
            else:
                found[name] = value
    for name in LENT:
        if hasattr(found.get(name), "leyden_lent"):
            del found[name]
    return found


class SavedByPlainNames(nn.Module):
    """A module whose state has the same names whether parts of it are compiled or not, when it is taken and when it is loaded."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's, by names in which no ``_orig_mod`` stands."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        if any(MARK in name[len(prefix) :] for name in state if name.startswith(prefix)):
            _rename(state, plain_name, prefix)
            if hasattr(state, "_metadata"):
                _rename(state._metadata, plain_name, prefix)
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        theirs = [name[len(prefix) :] for name in state_dict if name.startswith(prefix)]
        if any(MARK in name for name in theirs) or any("_orig_mod" in child._modules for child in self.modules()):
            mine = {plain_name(name): name for name in nn.Module.state_dict(self)}
            _rename(state_dict, lambda name: mine.get(plain_name(name), plain_name(name)), prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _rename(named: MutableMapping[str, Any], new: Callable[[str], str], prefix: str) -> None:
    """Give all that begins with ``prefix`` the names that ``new`` makes of what follows it, in the same order."""
    cut = len(prefix)
    renamed = {name[:cut] + new(name[cut:]) if name.startswith(prefix) else name: value for name, value in named.items()}
    named.clear()
    named.update(renamed)
