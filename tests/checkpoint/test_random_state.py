"""Random states: taken, written, read and put back, the numbers come out as if nothing had been."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.checkpoint import random_state as module
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.random_state import RandomStates, by_device, preserved_random_state, random_state, set_random_state
from leyden.tree import same_bits


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


# -- batch after batch
DRAWS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "python": random.random,
    "python, a normal number": lambda: random.gauss(0, 1),
    "python, many": lambda: [random.random() for _ in range(400)],
    "python, seeded": lambda: random.seed(3),
    "numpy": np.random.rand,
    "numpy, a normal number": np.random.randn,
    "numpy, many": lambda: np.random.rand(700),
    "numpy, seeded": lambda: np.random.seed(3),
    "torch": lambda: torch.rand(1),
}


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    with preserved_random_state():
        yield


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(list(DRAWS)), max_size=12))
def test_whoever_draws_between_two_looks_the_state_is_the_true_one(draws: list[str]) -> None:
    states = RandomStates()
    for name in ["nothing", *draws, "nothing"]:
        DRAWS[name]()
        assert same_bits(states.take().plain(), random_state())


def test_a_state_is_copied_again_only_where_somebody_drew() -> None:
    np.random.seed(1)  # with no normal number in store
    states = RandomStates()
    before = states.take()
    again = states.take()
    assert (again.python is before.python, again.numpy is before.numpy) == (True, True)
    random.random()
    np.random.rand()
    then = states.take()
    assert (then.python is before.python, then.numpy is before.numpy) == (False, False)
    assert same_bits(again.plain(), before.plain())  # nor did the draws change what was taken before them


def test_a_python_or_numpy_that_keeps_its_words_elsewhere_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._knows_python()
    assert module._knows_numpy()
    monkeypatch.setattr(module, "_knows_python", lambda: False)
    monkeypatch.setattr(module, "_knows_numpy", lambda: False)
    states = RandomStates()
    before = states.take()
    again = states.take()
    assert (again.python is before.python, again.numpy is before.numpy) == (False, False)
    assert same_bits(again.plain(), random_state())


def test_another_bit_generator_behind_numpys_functions_is_asked_each_time() -> None:
    before = np.random.get_bit_generator()
    states = RandomStates()
    states.take()
    np.random.set_bit_generator(np.random.MT19937(5))
    try:
        assert same_bits(states.take().plain(), random_state())
        np.random.rand()
        assert same_bits(states.take().plain(), random_state())
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize(("there", "here"), [(0, 0), (0, 1), (2, 0), (1, 4)])
def test_the_state_of_the_device_that_trained_is_that_of_the_one_that_trains(
    there: int, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may see its GPU by another number now, or see it alone."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: here)
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(3)]
    found = by_device({"cuda": list(states), "cuda_at": there})
    assert found[here] is states[there]
    if here < len(states):
        assert found[there] is states[here]
    assert by_device({"cuda": list(states)}) == states  # written before the number was
    assert by_device({"cuda": list(states), "cuda_at": 7}) == states
