"""Old names are said once per process: here, once per test."""

from __future__ import annotations

import pytest

from leyden.classic.notices import noticed


@pytest.fixture(autouse=True)
def nothing_was_noticed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.classic.notices.noticed", set())


@pytest.fixture
def said() -> set[str]:
    """What this process was told before the test began: untouched by it."""
    return noticed
