"""A registry: classes by the names under which the Trainer is asked for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.errors import ConflictingOptions, InvalidType, NotRegistered, did_you_mean


class Registry(dict[str, dict[str, Any]]):
    """Names, and how to make what each means: entered with :meth:`register`, made with :meth:`get`.

    An entry is a dict: ``description``, ``init_params``, and the class under :attr:`kind`.
    """

    kind: str = "class"
    """What the classes are."""

    def register(
        self, name: str, cls: Callable[..., Any] | None = None, description: str = "", override: bool = False, **init_params: Any
    ) -> Callable[..., Any]:
        """Let ``name`` mean ``cls(**init_params)``. Without ``cls``, a decorator of it.

        Raises :class:`ConflictingOptions` where the name means something already, unless ``override``.
        """
        if not isinstance(name, str):
            raise InvalidType("name", name, f"the name of a {self.kind}")
        if name in self and not override:
            raise ConflictingOptions(f"{name!r} is registered already. Take another name, or pass override=True.")

        def entered(cls: Callable[..., Any]) -> Callable[..., Any]:
            self[name] = {"description": description, "init_params": init_params, self.kind: cls, f"{self.kind}_name": name}
            return cls

        return entered if cls is None else entered(cls)

    def get(self, name: str, default: Any = None) -> Any:
        """What ``name`` means, made; ``default`` where it means nothing. Raises :class:`NotRegistered` without a default."""
        if name in self:
            entry = self[name]
            return entry[self.kind](**entry["init_params"])
        if default is not None:
            return default
        raise NotRegistered(
            f"No {self.kind} is registered under {name!r}.{did_you_mean(str(name), self)} "
            f"Registered are: {', '.join(sorted(self)) or 'none'}."
        )

    def remove(self, name: str) -> None:
        """Let ``name`` mean nothing. Raises :class:`NotRegistered` where it does already."""
        if name not in self:
            raise NotRegistered(f"No {self.kind} is registered under {name!r}.{did_you_mean(str(name), self)}")
        del self[name]

    def __str__(self) -> str:
        return f"Registered: {', '.join(self)}"


class Accelerators(Registry):
    """Accelerators by name."""

    kind = "accelerator"

    def register(  # type: ignore[override]  # the second is called what it is
        self,
        name: str,
        accelerator: Callable[..., Any] | None = None,
        description: str = "",
        override: bool = False,
        **init_params: Any,
    ) -> Callable[..., Any]:
        """Let ``accelerator=name`` of the Trainer mean ``accelerator(**init_params)``; see :meth:`Registry.register`."""
        return super().register(name, accelerator, description, override, **init_params)

    def available_accelerators(self) -> list[str]:
        """The names."""
        return list(self)


class Strategies(Registry):
    """Strategies by name."""

    kind = "strategy"

    def register(  # type: ignore[override]  # the second is called what it is
        self,
        name: str,
        strategy: Callable[..., Any] | None = None,
        description: str = "",
        override: bool = False,
        **init_params: Any,
    ) -> Callable[..., Any]:
        """Let ``strategy=name`` of the Trainer mean ``strategy(**init_params)``; see :meth:`Registry.register`."""
        return super().register(name, strategy, description, override, **init_params)

    def available_strategies(self) -> list[str]:
        """The names."""
        return list(self)
