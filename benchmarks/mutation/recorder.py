"""A pytest plugin: coverage.py learns which test runs, and the outcome and the seconds of each are written down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

from mutation.reach import OUTCOMES

seconds: dict[str, float] = {}
unfit: set[str] = set()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running = coverage.Coverage.current()
    if running is not None:
        running.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        if running is not None:
            running.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
    if report.outcome == "failed":
        unfit.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    running = coverage.Coverage.current()
    if running is not None:
        running.save()
    if not hasattr(session.config, "workerinput"):
        Path(os.environ[OUTCOMES]).write_text(json.dumps({"seconds": seconds, "unfit": sorted(unfit)}))
