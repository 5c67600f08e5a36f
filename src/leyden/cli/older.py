"""Words of 1.4 to 1.9's command line: arguments that stand elsewhere today, and registries of classes."""

import functools
import inspect
from types import ModuleType
from typing import Any, TypeVar

from leyden.errors import InvalidType
from leyden.notices import notice

C = TypeVar("C", bound=type)

ARGUMENTS = {
    "save_config_filename": ("save_config_kwargs", "config_filename"),
    "save_config_overwrite": ("save_config_kwargs", "overwrite"),
    "save_config_multifile": ("save_config_kwargs", "multifile"),
    "description": ("parser_kwargs", "description"),
    "env_prefix": ("parser_kwargs", "env_prefix"),
    "env_parse": ("parser_kwargs", "default_env"),
}
"""By its old name: the argument that holds it today, and its key there."""


def takes_older_arguments(cls: C) -> C:
    """Decorates a command line: its constructor takes :data:`ARGUMENTS` too, each with a notice. Today's words win."""
    init = cls.__init__  # type: ignore[misc]  # that of the class itself

    @functools.wraps(init)
    def told(self: Any, *args: Any, **kwargs: Any) -> None:
        for name, (holder, key) in ARGUMENTS.items():
            if name not in kwargs:
                continue
            notice(f"{cls.__name__}({name}=...)", f"{holder}={{{key!r}: ...}}")
            kwargs[holder] = {key: kwargs.pop(name), **(kwargs.get(holder) or {})}
        init(self, *args, **kwargs)

    cls.__init__ = told  # type: ignore[misc]  # the wrapper's signature is the wrapped one's
    return cls


class Registry(dict[str, type]):
    """Classes by name, for a command line of 1.5 to 1.7. Today's finds every class that is imported, so none need be entered."""

    def __call__(self, cls: Any = None, key: str | None = None, override: bool = False) -> Any:
        """Enter ``cls`` under its name, or under ``key``; without ``cls``, a decorator of it."""
        if cls is None:
            return functools.partial(self, key=key, override=override)
        if not isinstance(cls, type):
            raise InvalidType("cls", cls, "a class")
        notice("a registry of the command line", "nothing: every class that is imported is found by its name")
        if override or (key or cls.__name__) not in self:
            self[key or cls.__name__] = cls
        return cls

    def register_classes(self, module: ModuleType, base_cls: type, override: bool = False) -> None:
        """Enter the subclasses of ``base_cls`` that stand in ``module``."""
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, base_cls) and cls is not base_cls:
                self(cls, override=override)

    @property
    def names(self) -> list[str]:
        """The names."""
        return list(self)

    @property
    def classes(self) -> tuple[type, ...]:
        """The classes."""
        return tuple(self.values())


CALLBACK_REGISTRY = Registry()
DATAMODULE_REGISTRY = Registry()
LOGGER_REGISTRY = Registry()
LR_SCHEDULER_REGISTRY = Registry()
MODEL_REGISTRY = Registry()
OPTIMIZER_REGISTRY = Registry()
