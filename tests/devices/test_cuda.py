"""What CUDA is told through the environment, and that it is told no longer than it has to be."""

from __future__ import annotations

import os

import pytest
import torch

from leyden.devices.precision import MixedPrecision

NAME = "PYTORCH_NVML_BASED_CUDA_CHECK"


@pytest.mark.parametrize(("given", "told"), [(None, "1"), ("0", "0")])
def test_a_scaler_asks_for_a_gpu_without_beginning_it(given: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has begun CUDA cannot be forked any more, and ddp_notebook forks."""
    asked: list[str | None] = []
    monkeypatch.delenv(NAME, raising=False)
    if given is not None:
        monkeypatch.setenv(NAME, given)

    def is_available() -> bool:
        asked.append(os.environ.get(NAME))
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with pytest.warns(UserWarning, match="GradScaler is enabled, but CUDA is not available"):
        MixedPrecision("16-mixed", "cuda")
    assert asked
    assert set(asked) == {told}
    assert os.environ.get(NAME) == given
