"""The checksum of a stream of tensors: that of its bytes, whether PyTorch has summed them or not."""

from __future__ import annotations

import io
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.checkpoint import checksums
from leyden.checkpoint.checksums import Checksum, joined

LARGE, SMALL = torch.arange(40000.0), torch.arange(5)


class Stream(io.BytesIO):
    """Sums what is written, and notes how much of it went through zlib."""

    def __init__(self) -> None:
        super().__init__()
        self.checksum = Checksum()

    def write(self, data: Any) -> int:
        self.checksum.add(data)
        return super().write(data)


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 9))
def test_two_checksums_make_that_of_both(first: bytes, second: bytes, times: int) -> None:
    second *= 10**times if len(second) == 1 and times < 6 else 1
    assert joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("computed", [True, False])
@pytest.mark.parametrize("tensors", [(LARGE, SMALL, LARGE.view(200, 200)[:, ::2]), (SMALL,), (LARGE,)])
def test_saved_tensors_have_the_checksum_of_their_bytes(
    tensors: tuple[torch.Tensor, ...], computed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    summed = zlib.crc32

    def counted(data: Any, before: int = 0) -> int:
        read.append(memoryview(data).nbytes)
        return summed(data, before)

    monkeypatch.setattr(checksums.zlib, "crc32", counted)
    asked = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(computed)
    try:
        stream = Stream()
        for tensor in tensors:
            torch.save(tensor, stream)
        stream.checksum.end()
    finally:
        torch.serialization.set_crc32_options(asked)
    monkeypatch.undo()
    assert stream.checksum.is_known
    assert stream.checksum.value == zlib.crc32(stream.getvalue())
    assert (max(read) < 65536) is (computed or tensors[0] is SMALL), "large parts are summed once, by PyTorch"


@pytest.mark.parametrize("after", [b"", b"PK\x07\x08" + bytes(12), b"x"])
def test_a_large_part_whose_sum_does_not_follow_is_said(after: bytes) -> None:
    checksum = Checksum()
    checksum.add(bytes(70000))
    if after:
        checksum.add(after)
    checksum.end()
    assert not checksum.is_known
