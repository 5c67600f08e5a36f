"""The file of a profiler's report as it was said until 1.4: ``output_filename="reports/mine.txt"``."""

import functools
import os
from typing import Any, TypeVar

from leyden.errors import ConflictingOptions, InvalidType
from leyden.notices import notice

C = TypeVar("C", bound=type)


def takes_output_filename(cls: C) -> C:
    """Decorates a profiler: ``output_filename`` stands for its ``dirpath`` and ``filename``."""
    init = cls.__init__  # type: ignore[misc]  # that of the class itself

    @functools.wraps(init)
    def told(self: Any, *args: Any, output_filename: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        if output_filename is not None:
            if not isinstance(output_filename, str | os.PathLike):
                raise InvalidType("output_filename", output_filename, "the path of a file, or None")
            if args or {"dirpath", "filename"} & kwargs.keys():
                raise ConflictingOptions(
                    f"{cls.__name__} was given output_filename={os.fspath(output_filename)!r} and what it stands for, dirpath "
                    "and filename. Leave output_filename out."
                )
            notice(f"{cls.__name__}(output_filename=...)", "dirpath and filename, which say {dirpath}/{stage}-{filename}.txt")
            folder, name = os.path.split(os.fspath(output_filename))
            kwargs |= {"dirpath": folder or os.curdir, "filename": name.removesuffix(".txt")}
        init(self, *args, **kwargs)

    cls.__init__ = told  # type: ignore[misc]  # the wrapper's signature is the wrapped one's
    return cls
