"""What every test gets: one thread, a folder of its own to stand in, and the same random examples every time."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("leyden", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("leyden")


def pytest_configure(config: pytest.Config) -> None:
    """Tests run on the CPU, on machines with a GPU too, but for those that are asked for with ``-m gpu``."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not look through it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test: empty, and gone afterwards, so that nothing is written into the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
