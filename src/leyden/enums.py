"""Enumerations of strings, which compare with plain strings."""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypeVar

from leyden.errors import InvalidOption, did_you_mean, warn_user

Member = TypeVar("Member", bound="LightningEnum")
Source = Literal["key", "value", "any"]


class LightningEnum(str, Enum):
    """A string enum that compares with plain strings, whatever their case."""

    @classmethod
    def from_str(cls: type[Member], value: str, source: Source = "key") -> Member:
        """The member that ``value`` names, whatever its case: by its key, its value, or ``"any"`` (the key first).

        Raises :class:`InvalidOption`, a ``ValueError``, where there is none.
        """
        if source not in ("key", "value", "any"):
            raise InvalidOption("source", source, '"key", "value" or "any"')
        known: dict[str, Member] = {}
        if source in ("value", "any"):
            known.update({member.value: member for member in cls})
        if source in ("key", "any"):
            known.update({member.name: member for member in cls})
        for name, member in reversed(known.items()):
            if name.lower() == str(value).lower():
                return member
        expected = f"one of {', '.join(map(repr, known))}"
        raise InvalidOption(cls.__name__, value, expected, did_you_mean(str(value), known).strip())

    @classmethod
    def try_from_str(cls: type[Member], value: str, source: Source = "key") -> Member | None:
        """:meth:`from_str`, with a warning and ``None`` where there is none."""
        try:
            return cls.from_str(value, source)
        except InvalidOption as error:
            warn_user(str(error), UserWarning)
            return None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Enum):
            return self is other
        return isinstance(other, str) and self.value.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.value.lower())

    def __str__(self) -> str:
        return str(self.value)


class GradClipAlgorithmType(LightningEnum):
    """What ``Trainer(gradient_clip_algorithm=...)`` may be."""

    VALUE = "value"
    NORM = "norm"

    @staticmethod
    def supported_type(val: str) -> bool:
        """Whether ``val`` names one of them."""
        return val in GradClipAlgorithmType.supported_types()

    @staticmethod
    def supported_types() -> list[str]:
        """Their names."""
        return [kind.value for kind in GradClipAlgorithmType]
