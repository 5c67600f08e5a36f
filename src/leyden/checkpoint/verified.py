"""Read a torch file only after every record's checksum was found right."""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import torch

from leyden.checkpoint.folders import REST, is_folder
from leyden.checkpoint.outline import Implausible, outline
from leyden.errors import CheckpointDamaged, CheckpointError, CheckpointForeign, CheckpointMissing, DeviceUnavailable, LeydenError

_CHUNK = 1 << 20
_SMALLEST = 22  # bytes of a zip file without records
_LOCAL_HEADER = b"PK\x03\x04"
_TAIL_SIGNATURE = b"PK\x05\x06"
# The first object of a torch file of the time before zip is a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Smaller contents are checked before the load, not beside it: a thread costs more than it saves.
_WORTH_A_THREAD = 4 << 20
# torch compresses nothing; who packed a file of zeros again with a zip program may still read it.
_MOST_UNPACKED, _MOST_RATIO = 64 << 20, 20
_ALLOW = "If you trust where it comes from, load it with weights_only=False: that runs code which stands in the file."
_WHAT_TO_DO = "Take another checkpoint, or a copy of this one."


class Record(NamedTuple):
    """One record of a zip file: where its bytes stand and what their checksum must be."""

    name: str
    offset: int
    size: int
    unpacked: int
    crc: int
    compressed: bool


def load_verified(path: str, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """The content of the torch file at a local ``path``. ``weights_only=None`` means ``True``.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointDamaged: it is truncated, or a record's checksum does not match. Names the file and the record.
        CheckpointForeign: it is no torch file, or cannot be read without running code that stands in it.
        DeviceUnavailable: its tensors stood on a device that this machine lacks, and ``map_location`` does not say otherwise.
    """
    if os.path.isdir(path):
        raise CheckpointForeign(f"{path!r} is a folder. Expected the path of a checkpoint file.")
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe is to wait for whoever writes into it
        raise CheckpointForeign(f"{path!r} is a pipe or a device. Expected the path of a checkpoint file.")
    try:
        with open(path, "rb") as content, open(path, "rb", buffering=0) as check:
            if os.path.sameopenfile(content.fileno(), check.fileno()):
                return read_verified(content, check, path, map_location, weights_only)
        return load_verified(path, map_location, weights_only)  # replaced between the two opens
    except FileNotFoundError:
        raise CheckpointMissing(f"There is no checkpoint at {path!r}. {_neighbours(path)}") from None
    except LeydenError:
        raise
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path!r} cannot be read: {error.strerror or error}.") from error


def read_verified(content: IO[bytes], check: IO[bytes], name: str, map_location: Any, weights_only: bool | None) -> Any:
    """As :func:`load_verified`, from two open views of the same bytes; ``name`` stands in errors."""
    weights_only = weights_only is None or bool(weights_only)
    if not _is_zip(check, name):
        return _load_legacy(content, check, name, map_location, weights_only)
    records = _records(check, name)
    if _pickle_of(records) is None:
        raise CheckpointForeign(f"{name!r} is a zip file, but no checkpoint: torch's record 'data.pkl' is missing.")
    if all(record.crc == 0 for record in records):
        _outline(check, records, name, weights_only)
        return _load(content, name, map_location, weights_only)  # torch was told to write no checksums
    bulk = [record for record in records if "/data/" in record.name]
    if sum(record.size for record in bulk) < _WORTH_A_THREAD:
        _check(check, records, name)
        _outline(check, records, name, weights_only)
        return _load(content, name, map_location, weights_only)
    _check(check, [record for record in records if "/data/" not in record.name], name)
    _outline(check, records, name, weights_only)
    beside = _Beside(lambda: _check(check, bulk, name))
    try:
        loaded = _load(content, name, map_location, weights_only)
    except Exception as error:
        beside.join()
        if beside.error is not None:
            raise beside.error from error
        raise
    except BaseException:
        beside.join()
        raise
    beside.join()
    if beside.error is not None:
        raise beside.error
    return loaded


def peek(path: str) -> Any:
    """What the file at a local ``path`` says besides its tensors, which are not read; ``None`` where that cannot be told."""
    if is_folder(path):
        path = os.path.join(path, REST)
    try:
        with open(path, "rb") as file:
            if not _is_zip(file, path):
                return None
            records = _records(file, path)
            pickled = _pickle_of(records)
            if pickled is None:
                return None
            _check(file, [pickled], path)
            return _outline(file, records, path, weights_only=True)
    except (OSError, LeydenError):
        return None


def _pickle_of(records: list[Record]) -> Record | None:
    return next((record for record in records if record.name.endswith("/data.pkl") or record.name == "data.pkl"), None)


def _outline(file: IO[bytes], records: list[Record], name: str, weights_only: bool) -> Any:
    """The pickle run dry; raises :class:`CheckpointDamaged` where it asks for memory that the file does not fill."""
    pickled = _pickle_of(records)
    if pickled is None or not weights_only:
        return None  # it may run any code that it holds
    file.seek(pickled.offset)
    content = file.read(pickled.size)
    if pickled.compressed:
        content = zlib.decompress(content, -15)
    folder = pickled.name.removesuffix("data.pkl") + "data/"
    sizes = {record.name.removeprefix(folder): record.unpacked for record in records if record.name.startswith(folder)}
    try:
        return outline(content, sizes)
    except Implausible as error:
        raise CheckpointDamaged(f"The checkpoint {name!r} is damaged: {error}. {_WHAT_TO_DO}") from error


class _Beside:
    """A check that runs in a thread of its own. ``error`` is what it raised."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self._check = check
        self._thread = threading.Thread(target=self._run, name="leyden-checksums", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._check()
        except Exception as error:
            self.error = error

    def join(self) -> None:
        self._thread.join()


def _is_zip(file: IO[bytes], name: str) -> bool:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise CheckpointDamaged(f"The file {name!r} is empty: if it is a checkpoint, its writing failed. {_WHAT_TO_DO}")
    file.seek(0)
    head = file.read(4)
    if size < _SMALLEST:
        if any(head) and not any(begin.startswith(head) for begin in (_LOCAL_HEADER, _TAIL_SIGNATURE, _LEGACY_MAGIC)):
            return False
        raise CheckpointDamaged(f"The checkpoint {name!r} is truncated: {size} bytes are left of it. {_WHAT_TO_DO}")
    file.seek(max(0, size - 22))
    tail = file.read(22)
    if head == _LOCAL_HEADER:
        return True
    if tail.startswith(_TAIL_SIGNATURE) or not any(head):
        raise CheckpointDamaged(f"The checkpoint {name!r} is damaged: its first bytes were changed. {_WHAT_TO_DO}")
    return False


def _records(file: IO[bytes], name: str) -> list[Record]:
    try:
        listed = zipfile.ZipFile(file).infolist()
        records = []
        for info in listed:
            file.seek(info.header_offset)
            header = file.read(30)
            length = int.from_bytes(header[26:28], "little")
            extra = int.from_bytes(header[28:30], "little")
            title = file.read(length)
            if header[:4] != _LOCAL_HEADER or title != (info.orig_filename.encode()):
                raise zipfile.BadZipFile(f"the header of record {info.filename!r} was changed")
            compressed = info.compress_type == zipfile.ZIP_DEFLATED
            # torch's reader takes what bears a folder's mark for empty, and reads as many bytes as the file's size says
            if (
                (not compressed and (info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size))
                or info.external_attr & 0x10
                or info.flag_bits & 0x1
            ):
                raise zipfile.BadZipFile(f"the entry of record {info.filename!r} was changed")
            offset = info.header_offset + 30 + length + extra
            records.append(Record(info.filename, offset, info.compress_size, info.file_size, info.CRC, compressed))
        _refuse_tricks(records, file.seek(0, os.SEEK_END))
    except Exception as error:  # whatever a parser meets in bytes that no writer ever wrote
        raise CheckpointDamaged(
            f"The checkpoint {name!r} is truncated or damaged: its table of contents cannot be read ({error}). {_WHAT_TO_DO}"
        ) from error
    return records


def _refuse_tricks(records: list[Record], size: int) -> None:
    """No writer makes these: what is read would be another record than what was checked, or far more than the file holds."""
    names = [record.name for record in records]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise zipfile.BadZipFile(f"it has two records {twice!r}")
    outside = next((n for n in names if n.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", n) or ":" in n), None)
    if outside is not None:
        raise zipfile.BadZipFile(f"the name of its record {outside!r} leads out of the file")
    end = 0
    for record in sorted(records, key=lambda record: record.offset):
        if record.offset < end:
            raise zipfile.BadZipFile(f"its record {record.name!r} overlaps another")
        end = record.offset + record.size
    unpacked = sum(record.unpacked for record in records)
    if unpacked > _MOST_UNPACKED + size * _MOST_RATIO:
        raise zipfile.BadZipFile(f"of its {size} bytes {unpacked} would be unpacked")


def _check(file: IO[bytes], records: list[Record], name: str) -> None:
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    for record in records:
        inflate = zlib.decompressobj(-15) if record.compressed else None
        left, crc, unpacked = record.size, 0, 0
        file.seek(record.offset)
        while left:
            count = file.readinto(view[: min(left, _CHUNK)])  # type: ignore[attr-defined]  # every binary file has it
            if not count:
                break
            left -= count
            if inflate is None:
                crc, unpacked = zlib.crc32(view[:count], crc), unpacked + count
                continue
            try:
                packed: Any = view[:count]
                while packed and unpacked <= record.unpacked:  # in steps: little may unpack to very much
                    data = inflate.decompress(packed, _CHUNK)
                    packed = inflate.unconsumed_tail
                    crc, unpacked = zlib.crc32(data, crc), unpacked + len(data)
            except zlib.error:
                left = -1
                break
        if left or unpacked != record.unpacked or crc != record.crc:
            raise CheckpointDamaged(
                f"The checkpoint {name!r} is damaged: the checksum of its record {record.name!r} does not match. {_WHAT_TO_DO}"
            )


def _load(file: IO[bytes], name: str, map_location: Any, weights_only: bool) -> Any:
    file.seek(0)
    try:
        return torch.load(file, map_location=map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        if not weights_only:
            raise CheckpointForeign(f"{name!r} cannot be read: {error}.") from error
        raise CheckpointForeign(
            f"{name!r} holds more than tensors and plain values{_foreign_names(file)}, and reading them would run code. {_ALLOW}"
        ) from None
    except Exception as error:
        raise _explained(error, name, weights_only) from error


def _explained(error: Exception, name: str, weights_only: bool) -> Exception:
    text = str(error)
    if "deserialize object on" in text:
        return DeviceUnavailable(
            f"{name!r} holds tensors of a device that this machine lacks ({text.splitlines()[0]}). Pass map_location='cpu'."
        )
    if "TorchScript" in text:
        return CheckpointForeign(f"{name!r} is a TorchScript archive, not a checkpoint. Load it with torch.jit.load.")
    if isinstance(error, ImportError | AttributeError) and not weights_only:
        return CheckpointForeign(f"{name!r} needs a class that cannot be found: {text}. Install or import what defines it.")
    return CheckpointDamaged(f"The checkpoint {name!r} is damaged: {text.splitlines()[0] if text else error!r}. {_WHAT_TO_DO}")


def _foreign_names(file: IO[bytes]) -> str:
    file.seek(0)
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # only to say more in an error that is raised anyway
        return ""
    return f" ({', '.join(names)})" if names else ""


def _load_legacy(content: IO[bytes], check: IO[bytes], name: str, map_location: Any, weights_only: bool) -> Any:
    check.seek(0)
    if check.read(len(_LEGACY_MAGIC)) != _LEGACY_MAGIC:
        raise CheckpointForeign(f"{name!r} is no checkpoint: it was not written by torch.save.")
    if weights_only:
        raise CheckpointForeign(
            f"{name!r} has torch's format of the time before 1.6, which carries no checksums and is made of pickles. {_ALLOW}"
        )
    content.seek(0)
    try:
        return torch.load(content, map_location=map_location, weights_only=False)
    except Exception as error:
        raise _explained(error, name, weights_only) from error


def _neighbours(path: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        names = sorted(entry for entry in os.listdir(folder) if entry.endswith(".ckpt"))
    except OSError:
        return f"The folder {folder!r} does not exist either."
    if not names:
        return "The folder holds no file that ends in .ckpt."
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"The folder holds {', '.join(names[:5])}{more}."


def bytes_verified(data: bytes, name: str, map_location: Any, weights_only: bool | None) -> Any:
    """As :func:`load_verified`, from bytes that came over the network."""
    return read_verified(io.BytesIO(data), io.BytesIO(data), name, map_location, weights_only)
