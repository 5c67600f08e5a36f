"""What a W&B run that was offline has left on disk, and how it is taken up where training goes on in another process.

``wandb`` writes its file block by block, from a process of its own that ends with ours: a killed job loses what the last blocks
were to hold, and keeps rows that were logged after the checkpoint it goes on from. So :class:`Journal` keeps each row of numbers
beside that file, at once; :func:`take_up` cuts the file to the checkpoint, and says which rows it has lost.
"""

from __future__ import annotations

import glob
import importlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import Any

from leyden.checkpoint.durable import put_in_place
from leyden.errors import LeydenWarning, warn_user

STEP = "trainer/global_step"
"""The name under which a row holds its step."""
_JOURNAL = "leyden-rows.jsonl"
_BLOCK, _HEAD = 32768, 7  # bytes: of a block of the file, and of what stands before each piece of a record

Numbers = dict[str, float]


class Journal:
    """The rows of one process's part of a run, as lines ``[number, time, values]`` of JSON.

    ``number`` counts the rows of the whole run from 0.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, _JOURNAL)
        self.number = 1 + max(_cut_journal(self._path), default=-1)  # another logger of this process may have begun it
        self._file: FileIO | None = None

    def note(self, row: Mapping[str, Any], at: float) -> None:
        """Write ``row`` down, if numbers are all that it holds."""
        if not all(isinstance(value, int | float) for value in row.values()):
            return
        try:
            if self._file is None:
                self._file = FileIO(self._path, "a")
            self._file.write((json.dumps([self.number, at, row]) + "\n").encode())
        except OSError as error:
            warn_user(f"{self._path} cannot be written ({error}): a killed job may lose rows.", LeydenWarning)
            return
        self.number += 1

    def sync(self) -> None:
        """Bring it to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file, until the next row."""
        if self._file is not None:
            self._file.close()
            self._file = None


def earlier_folders(folder: str, run: str) -> list[str]:
    """The folders of the parts of ``run`` that other processes wrote offline, beside the present one's ``folder``, in order."""
    pattern = os.path.join(glob.escape(os.path.dirname(folder)), f"offline-run-*-{glob.escape(run)}")
    return sorted(each for each in glob.glob(pattern) if os.path.isdir(each) and not os.path.samefile(each, folder))


def set_aside(folders: list[str]) -> None:
    """Rename the folders, so that ``wandb sync`` passes them by."""
    for each in folders:
        os.replace(each, os.path.join(os.path.dirname(each), os.path.basename(each).replace("offline-", "abandoned-", 1)))


def take_up(folders: list[str], numbered: int, step: int) -> list[tuple[float, Numbers]]:
    """Cut what stands in ``folders`` to a checkpoint: to the rows before ``numbered``, and before wandb's own ``step``.

    Returns the rows until there that were logged and lost, each with its time.
    """
    logged: dict[int, tuple[float, Numbers]] = {}
    there: dict[float, list[Numbers]] = {}
    for folder in folders:
        logged.update(_cut_journal(os.path.join(folder, _JOURNAL), numbered))
        for path in glob.glob(os.path.join(glob.escape(folder), "run-*.wandb")):
            for row in _cut_records(path, step):
                there.setdefault(row.get(STEP, -1.0), []).append(row)
    lost = []
    for number in sorted(logged):
        at, row = logged[number]
        alike = there.get(row.get(STEP, -1.0), [])
        match = next((each for each in alike if all(_same(each.get(name), row[name]) for name in row)), None)
        if match is None:
            lost.append((at, row))
        else:
            alike.remove(match)
    return lost


def _same(one: float | None, other: float) -> bool:
    return one == other or (one is not None and one != one and other != other)


def _cut_journal(path: str, numbered: float = math.inf) -> dict[int, tuple[float, Numbers]]:
    rows: dict[int, tuple[float, Numbers]] = {}
    kept = b""
    try:
        with open(path, "rb") as file:
            lines = file.readlines()
    except OSError:
        return rows
    for line in lines:
        try:
            number, at, row = json.loads(line)
        except ValueError:
            continue  # half a line, of a process that was killed
        if number < numbered:
            rows[number] = (at, {name: float(value) for name, value in row.items()})
            kept += line
    if kept != b"".join(lines):
        put_in_place(path, kept)
    return rows


def _cut_records(path: str, step: int) -> list[Numbers]:
    """The rows of numbers in the file before ``step``. What stands from there on is cut off."""
    form: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    with open(path, "rb") as file:
        content = file.read()
    rows: list[Numbers] = []
    for offset, data in _records(content):
        record = form.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        row: Numbers = {}
        for item in record.history.item:
            try:
                value = json.loads(item.value_json)
            except ValueError:
                continue
            if isinstance(value, int | float):
                row[item.key or "/".join(item.nested_key)] = float(value)
        if row.get("_step", -1.0) >= step:
            os.truncate(path, offset)
            break
        rows.append(row)
    return rows


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each record begins, and what it holds: after seven bytes LevelDB's log format, with records in pieces."""
    at = start = _HEAD
    record = b""
    while at + _HEAD <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:
            at += left  # too little for a piece's head: zeros
            continue
        _, size, piece = struct.unpack_from("<IHB", content, at)
        data = content[at + _HEAD : at + _HEAD + size]
        if not 1 <= piece <= 4 or len(data) < size:
            return  # the end, or what a killed process left
        if piece in (1, 2):  # whole, or first
            start, record = at, b""
        record += data
        at += _HEAD + size
        if piece in (1, 4):  # whole, or last
            yield start, record
