"""Cell: a place below a notebook's cell, in which what is shown is replaced."""

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from leyden.callbacks.progress.screen import behind, is_notebook

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PREFORMATTED = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>\n"
)


def in_notebook() -> bool:
    """Whether what this process prints appears in a notebook, and it can show more there than text.

    A fork can as soon as it has printed something.
    """
    if not is_notebook(sys.stdout):
        return False
    sys.stdout.flush()
    session = getattr(behind(sys.stdout), "session", None)
    return getattr(session, "pid", os.getpid()) == os.getpid()


class Cell:
    """Shows one thing at a time, the first where it is shown first. The notebook keeps the last alone."""

    def __init__(self) -> None:
        self._shown: Any = None

    def put(self, text: str, html: str | None = None) -> None:
        """Show ``text``, or ``html`` where that can be shown."""
        data = {"text/plain": text} if html is None else {"text/plain": text, "text/html": html}
        if self._shown is None:
            self._shown = importlib.import_module("IPython.display").display(data, raw=True, display_id=True)
        else:
            self._shown.update(data, raw=True)


class Canvas:
    """What rich draws for a :class:`Cell`.

    Args:
        console: The console whose width is drawn for.
        options: What it was made of.
    """

    def __init__(self, console: "Console", options: dict[str, Any]) -> None:
        fixed: dict[str, Any] = {"force_jupyter": False, "force_terminal": True, "legacy_windows": False, "record": True}
        own: dict[str, Any] = {"color_system": "truecolor", "width": console.width, "file": io.StringIO()}
        self._console = type(console)(**{**options, **fixed, **own})

    def drawn(self, renderable: "RenderableType") -> tuple[str, str]:
        """As text, and as HTML."""
        self._console.file = io.StringIO()
        self._console.print(renderable)
        html = self._console.export_html(clear=False, inline_styles=True, code_format=_PREFORMATTED)
        return self._console.export_text(), html
