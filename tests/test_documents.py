"""The pages of docs/ that have pieces of code: they run as they stand, one after another."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PAGES = Path(__file__).resolve().parents[1] / "docs"
RUN = ("averaging", "compile", "export", "finetuning", "notebooks", "plugins", "profilers", "pruning", "tuner")
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # what torch says of its own ways out
@pytest.mark.filterwarnings("ignore::leyden.errors.PossibleUserWarning")  # a page's program is smaller than its reader's
@pytest.mark.parametrize("page", [f"{name}.md" for name in RUN])
def test_the_pieces_of_code_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = page.removesuffix(".md")
    module = type(sys)(name)
    monkeypatch.setitem(sys.modules, name, module)  # where the classes of the pieces say that they are
    torch.manual_seed(0)
    names: dict[str, Any] = vars(module)
    pieces = FENCED.findall((PAGES / page).read_text())
    assert pieces
    for piece in pieces:
        exec(compile(piece, page, "exec"), names)
