"""Names that a module's author cannot give to something of his own: those of Trainer's facts, and of what is called."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from leyden.callback import Callback
from leyden.errors import TakenName
from leyden.hook_facts import hooks_of

_CALLED = (
    *("parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children"),
    *("train", "eval", "to", "apply", "zero_grad", "state_dict", "load_state_dict", "requires_grad_"),
)
"""Methods of every torch module that are called by us or by torch. Others may be hidden: nobody but the author calls them."""

_SHARED = tuple(name for name, shared in hooks_of(Callback).items() if shared)


def read_only(cls: type[nn.Module]) -> Any:
    """Decorates a class: a property of it that cannot be set says so where somebody tries, and what to do."""
    for name, value in list(vars(cls).items()):
        if isinstance(value, property) and value.fset is None:
            setattr(cls, name, value.setter(_refusing(name)))
    return cls


def _refusing(name: str) -> Any:
    def refuse(self: Any, value: Any) -> None:
        raise taken(self, name, value)

    return refuse


def taken(module: nn.Module, name: str, value: Any) -> TakenName:
    return TakenName(
        f"{type(module).__name__} sets self.{name} to a {type(value).__name__}, but self.{name} is LightningModule's own. "
        f"Give yours another name, such as self.my_{name.lstrip('_')}."
    )


class TakenNames(nn.Module):
    """Refuses what would be hidden by a name of the class, or hide one that is called. Nothing is looked at in a step."""

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        self._refuse_taken(name, param)
        super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        self._refuse_taken(name, tensor)
        super().register_buffer(name, tensor, persistent)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        self._refuse_taken(name, module)
        super().add_module(name, module)

    def _refuse_taken(self, name: str, value: Any) -> None:
        if _is_ours(type(self), name):
            raise taken(self, name, value)

    def _check_names_taken(self) -> None:
        """Raise :class:`TakenName` for what was assigned past the checks above: a submodule, or a value in a method's place."""
        state = self.__dict__
        for name, value in state.get("_modules", {}).items():
            self._refuse_taken(name, value)
        called = [name for owner in type(self).__mro__ for name in hooks_of(owner)]
        for name in (*called, *_SHARED, *_CALLED):
            if state.get(name) is not None and not callable(state[name]):
                raise taken(self, name, state[name])


def _is_ours(cls: type, name: str) -> bool:
    """Whether ``name`` stands for something of ours or of torch's, also where a class of the user's overrides that method."""
    owners = [base for base in cls.__mro__ if name in vars(base)]
    ours = [base for base in owners if base.__module__.split(".")[0] in ("leyden", "torch")]
    return bool(ours) and (owners[0] is ours[0] or inspect.isfunction(vars(owners[0])[name]))
