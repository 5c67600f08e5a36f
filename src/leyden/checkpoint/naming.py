"""What checkpoint files are called: names, without a disk or a run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from leyden.checked import check_text
from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import InvalidOption, PossibleUserWarning, did_you_mean

FILE_EXTENSION = ".ckpt"
_FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")
_LONGEST = 255 - len(FILE_EXTENSION)  # bytes that file systems take
_SEPARATORS = re.compile(r"[/\\]")


def format_name(
    template: str | None,
    metrics: Mapping[str, Any],
    *,
    auto_insert_metric_name: bool = True,
    prefix: str = "",
    version: int | None = None,
    extension: str = FILE_EXTENSION,
    join: str = "-",
    equals: str = "=",
) -> str:
    """The file name that ``template`` stands for, such as ``epoch=3-val_loss=0.12.ckpt``.

    ``{name}`` and ``{name:format}`` are replaced by the metric's value, with ``name=`` before it if
    ``auto_insert_metric_name``. A metric that is not there counts as 0. A ``/`` in a metric's name becomes ``_``, so that
    ``{val/loss}`` makes no folder; a ``/`` in the text of the template does make one, as it says.

    Args:
        template: ``None`` means ``{epoch}-{step}``.
        metrics: Values by name, numbers or 0-dim tensors; ``epoch`` and ``step`` among them.
        auto_insert_metric_name: Whether ``{epoch}`` becomes ``epoch=3``, or ``3``.
        prefix: Text before it, joined by ``join``.
        version: Adds ``-v1``, ``-v2`` ... before the extension where a name is taken.
        extension: What it ends in.
        join, equals: What stands for ``-`` and ``=`` in names that are made here.

    Raises:
        InvalidOption: a format does not fit its value.
    """
    template = f"{{epoch}}{join}{{step}}" if template is None else template

    def value(match: re.Match[str]) -> str:
        name, form = match.group(1), match.group(2) or ":"
        number = _number(metrics.get(name, 0))
        try:
            text = format(number, form[1:])
        except ValueError:
            try:  # `{step:d}` of a step that came as a float, `{epoch:.2f}` of an int
                text = format(int(number), form[1:])
            except (ValueError, OverflowError) as error:
                raise InvalidOption(
                    "filename", template, f"a format that fits {name}={number!r}, which {match.group(0)!r} does not"
                ) from error
        text = _SEPARATORS.sub("_", text)
        return f"{_SEPARATORS.sub('_', name)}{equals}{text}" if auto_insert_metric_name else text

    name = _FIELD.sub(value, template)
    if prefix:
        name = f"{prefix}{join}{name}"
    if version is not None:
        name = f"{name}{join}v{version}"
    return name + extension


def check_template(given: Any) -> str | None:
    """``given`` as a template of :func:`format_name`, or ``None``.

    Raises:
        InvalidType: it is no text.
        InvalidOption: a brace stands alone or around nothing, a format fits no number, or no file can be called so.
    """
    template = check_text("filename", given, "a name such as '{epoch}-{val_loss:.2f}', or None")
    if template is None:
        return None
    alone = _FIELD.sub("", template)
    if "{" in alone or "}" in alone or "\0" in alone or "" in names_in(template):
        raise InvalidOption(
            "filename", given, "a name in which each pair of braces holds a metric, such as '{epoch}-{val_loss:.2f}'"
        )
    longest = max(len(os.fsencode(part)) for part in alone.split("/"))
    if longest > _LONGEST:
        raise InvalidOption("filename", given, f"a name of at most {_LONGEST} bytes, and this has {longest}")
    for name, form in _FIELD.findall(template):
        if not any(_fits(number, form[1:]) for number in (0.5, 1)):
            raise InvalidOption("filename", given, f"a format of numbers for {name}, which {form[1:]!r} is not")
    return template


def _fits(number: float, form: str) -> bool:
    try:
        format(number, form)
    except ValueError:
        return False
    return True


def names_in(template: str) -> list[str]:
    """The names in braces in ``template``."""
    return [name for name, _ in _FIELD.findall(template)]


def doubt_names(template: str, lacking: Iterable[str], metrics: Iterable[str], said: set[str]) -> None:
    """Warn of each name that is ``lacking`` in ``metrics``; once, by ``said``."""
    for name in lacking:
        if name not in said:
            said.add(name)
            rank_zero_warn_user(
                f"The filename {template!r} of ModelCheckpoint names {name!r}, which is not among the logged metrics and "
                f"counts as 0.{did_you_mean(name, metrics)}",
                category=PossibleUserWarning,
            )


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
