"""Old names are said once per process: here, once per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from leyden import notices


@pytest.fixture(autouse=True)
def nothing_was_noticed_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notices, "noticed", set())
    notices.waiting.clear()
    yield
    notices.waiting.clear()  # what no verb told is not told in another test
