"""The file system behind a path or an URL."""

from __future__ import annotations

import os
from typing import Any

from leyden.checkpoint.files import reach


def get_filesystem(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The fsspec file system of ``path``: the local one, or the one that the URL's scheme names. ``kwargs`` are its options.

    Raises :class:`MissingPackage` and :class:`InvalidOption`, as :func:`reach`.
    """
    return reach(os.fspath(path), kwargs)[0]
