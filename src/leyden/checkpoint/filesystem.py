"""The file system behind a path or an URL."""

from __future__ import annotations

import os
from typing import Any


def get_filesystem(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The fsspec file system of ``path``: the local one, or the one that the URL's scheme names. ``kwargs`` are its options."""
    import fsspec  # type: ignore[import-untyped]  # it has no type information

    return fsspec.core.url_to_fs(os.fspath(path), **kwargs)[0]
