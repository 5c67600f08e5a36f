"""PyTorch's switches hold within, and are put back without."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leyden
from leyden.devices.cuda import CUBLAS_VARIABLE, prepare_deterministic
from leyden.devices.switches import torch_switches
from leyden.options import Behaviour


def switches() -> dict[str, Any]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "anomaly": torch.is_anomaly_enabled(),
        "check_nan": torch.is_anomaly_check_nan_enabled(),
        "environment": dict(os.environ),
    }


def within(**asked: Any) -> dict[str, Any]:
    with torch_switches(Behaviour(**asked)):
        return switches()


def test_nothing_asked_changes_nothing() -> None:
    assert within() == switches()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"deterministic": True}, {"deterministic": True, "warn_only": False, "benchmark": False}),
        ({"deterministic": "warn"}, {"deterministic": True, "warn_only": True, "benchmark": False}),
        ({"deterministic": False}, {"deterministic": False}),
        ({"deterministic": True, "benchmark": True}, {"deterministic": True, "benchmark": True}),
        ({"benchmark": True}, {"benchmark": True, "deterministic": False}),
        ({"detect_anomaly": True}, {"anomaly": True, "check_nan": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_what_is_asked_holds_within(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    found = within(**asked)
    assert {name: found[name] for name in expected} == expected


def test_cublas_is_asked_for_a_fixed_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    leyden.Trainer(deterministic=True)
    assert CUBLAS_VARIABLE not in os.environ
    assert within(deterministic=True)["environment"][CUBLAS_VARIABLE] == ":4096:8"
    assert CUBLAS_VARIABLE not in os.environ
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        prepare_deterministic()  # PyTorch reads it once, and a product of matrices may come before the first fit
        assert within(deterministic=True)["environment"][CUBLAS_VARIABLE] == ":4096:8"
    assert os.environ[CUBLAS_VARIABLE] == ":4096:8"
    monkeypatch.setenv(CUBLAS_VARIABLE, ":16:8")
    assert within(deterministic=True)["environment"][CUBLAS_VARIABLE] == ":16:8"
    assert os.environ[CUBLAS_VARIABLE] == ":16:8"


@given(
    deterministic=st.sampled_from([None, True, False, "warn"]),
    benchmark=st.sampled_from([None, True, False]),
    fails=st.booleans(),
    earlier=st.booleans(),
)
def test_everything_is_put_back(deterministic: Any, benchmark: Any, fails: bool, earlier: bool) -> None:
    torch.use_deterministic_algorithms(earlier, warn_only=earlier)
    torch.backends.cudnn.benchmark = earlier
    try:
        before = switches()
        try:
            with torch_switches(Behaviour(deterministic=deterministic, benchmark=benchmark)):
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert fails
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.filterwarnings("ignore:Error detected in SqrtBackward0")
def test_anomaly_mode_names_the_operation_and_is_put_back() -> None:
    weight = torch.tensor(-1.0, requires_grad=True)
    with torch_switches(Behaviour(detect_anomaly=True)), pytest.raises(RuntimeError, match="SqrtBackward0"):
        weight.sqrt().backward()
    assert not torch.is_anomaly_enabled()
