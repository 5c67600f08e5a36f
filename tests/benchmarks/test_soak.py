"""The soak: what it is asked to kill has to be there."""

from __future__ import annotations

import sys

import pytest
import soak


def test_a_configuration_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak.py", "--only", "sync", "nosuch"])
    with pytest.raises(SystemExit) as left:
        soak.main()
    assert left.value.code == 2
    assert "no configuration's name contains 'nosuch'. There are: map, 0 workers" in capsys.readouterr().err
