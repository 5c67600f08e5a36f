"""Random states: taken, written, read and put back, the numbers come out as if nothing had been."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.random_state import preserved_random_state, random_state, set_random_state


def draw() -> list[Any]:
    numbers = [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.normal(),
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
    ]
    if torch.cuda.is_available():
        numbers.append(torch.rand(3, device="cuda").tolist())
    return numbers


@pytest.mark.parametrize("drawn_before", [0, 1, 5])  # an odd number leaves half a Gaussian pair behind
def test_the_state_survives_a_file(tmp_path: Path, drawn_before: int):
    for _ in range(drawn_before):
        random.gauss(0, 1), np.random.normal()
    TorchCheckpointIO().save_checkpoint({"random": random_state()}, tmp_path / "a.ckpt")
    expected = [draw() for _ in range(3)]
    set_random_state(TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["random"])
    assert [draw() for _ in range(3)] == expected


def test_taking_the_state_changes_nothing():
    with preserved_random_state():
        expected = draw()
    random_state()
    assert draw() == expected


def seed_and_fail() -> None:
    with preserved_random_state():
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        draw()
        raise KeyError


def test_what_is_drawn_inside_is_not_seen_outside():
    with preserved_random_state():
        expected = draw()
    with pytest.raises(KeyError):
        seed_and_fail()
    assert draw() == expected


def test_another_numpy_generator_keeps_its_state():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        state = random_state()
        expected = np.random.rand(4).tolist()
        set_random_state(state)
        assert np.random.rand(4).tolist() == expected
    finally:
        np.random.set_bit_generator(before)


def test_devices_that_are_not_there_are_left_out():
    if torch.cuda.is_available():
        pytest.skip("this machine has them")
    state = random_state()
    assert "cuda" not in state
    expected = draw()
    set_random_state({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)], "mps": torch.zeros(16, dtype=torch.uint8)})
    assert draw() == expected
