"""What every test gets: one thread, a folder of its own to stand in, and the same random examples every time."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("leyden", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("leyden")


MEMORY, ROOM = Path("/dev/shm"), 2 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Tests run on the CPU, on machines with a GPU too, but for those that are asked for with ``-m gpu``."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _write_into_memory()


def _write_into_memory() -> None:
    """Temporary files lie in memory, unless ``TMPDIR`` says where: thousands of saves would each wait milliseconds for a disk."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        return
    folder = os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="leyden-tests-", dir=MEMORY)
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)  # after multiprocessing's own folder in it, which is -100


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not look through it again and again."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def kept_out_of_collections() -> Iterator[None]:
    """So does what the tests of a file have imported and made for those that follow: a collection took a third of a second."""
    yield
    gc.collect()
    gc.freeze()


_numbers = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's, which looks through the folders of all tests before to find the number of this one."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = tmp_path_factory.getbasetemp() / f"{name}{next(_numbers)}"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test: empty, and gone afterwards, so that nothing is written into the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
