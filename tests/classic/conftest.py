"""Old names are said once per process: here, once per test."""

from __future__ import annotations

import pytest

from leyden import notices


@pytest.fixture(autouse=True)
def nothing_was_noticed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "noticed", set())
    notices.waiting.clear()
