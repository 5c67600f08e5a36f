"""README: its pieces of code run as they stand, one after another, and the files that it names are there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
PIECES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_pieces_of_code_run_one_after_another(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PIECES) >= 4
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "readme"}
    sys.modules["readme"] = type(sys)("readme")  # where the classes of the pieces say that they are
    try:
        for piece in PIECES:
            exec(compile(piece, "README.md", "exec"), names)
            if piece is PIECES[0]:
                shown = capsys.readouterr().out
    finally:
        del sys.modules["readme"]
    assert shown.startswith("Training on ")
    assert re.search(r"test_acc +\| +0\.9\d", shown)
    there = {
        os.path.join(folder, name) for folder, _, files in os.walk(own_folder / "lightning_logs" / "version_0") for name in files
    }
    found = {os.path.basename(name) for name in there}
    tree = README.split("lightning_logs/version_0/\n")[1].split("```")[0]
    for name in re.findall(r"^    (?:checkpoints/)?([\w.=-]+)", tree, re.MULTILINE):
        assert name == "crash" or any(each.startswith(name.rstrip(".")) for each in found), (name, found)
    assert names["logits"].shape == (4, 3)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[\w./-]+)\)", README))))
def test_what_it_links_to_is_there(path: str) -> None:
    assert (Path(__file__).resolve().parents[1] / path).exists()
