"""Seeding, and random states that can be isolated, collected and restored."""

from __future__ import annotations

import io
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.devices.seed import (
    MOST,
    SEED_VARIABLE,
    WORKERS_VARIABLE,
    isolate_rng,
    reset_seed,
    seed_everything,
)
from leyden.errors import InvalidOption, InvalidType


@pytest.fixture(autouse=True)
def environment_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SEED_VARIABLE, WORKERS_VARIABLE):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever a test sets
        monkeypatch.delenv(name)


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def test_a_switch_that_is_none_is_named() -> None:
    with pytest.raises(InvalidType, match="workers='yes' cannot be used: expected True or False"):
        seed_everything(1, workers="yes")  # type: ignore[arg-type]  # the mistake under test


def test_a_seed_repeats_every_generator() -> None:
    assert seed_everything(7) == 7
    first = draws()
    assert seed_everything(7, verbose=False) == 7
    assert draws() == first
    seed_everything(8)
    assert draws() != first


def test_the_seed_is_noted_for_other_processes() -> None:
    seed_everything(7, workers=True)
    assert (os.environ[SEED_VARIABLE], os.environ[WORKERS_VARIABLE]) == ("7", "1")
    seed_everything(8)
    assert (os.environ[SEED_VARIABLE], os.environ[WORKERS_VARIABLE]) == ("8", "0")


def test_without_a_seed_the_environments_is_taken_else_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seed_everything() == 0
    monkeypatch.setenv(SEED_VARIABLE, "12")
    assert seed_everything() == 12


@given(seed=st.integers(0, MOST), form=st.sampled_from([int, str, np.int64]))
def test_every_seed_in_bounds_is_taken(seed: int, form: Any) -> None:
    with isolate_rng():
        assert seed_everything(form(seed)) == seed


@pytest.mark.parametrize("seed", [-1, MOST + 1, "-1", "--1", "seven", "", "²"])
def test_a_seed_out_of_bounds(seed: Any) -> None:
    with pytest.raises(InvalidOption, match=f"seed={seed!r} cannot be used: expected a whole number from 0 to 4294967295"):
        seed_everything(seed)


@pytest.mark.parametrize("seed", [True, 1.5, [1]])
def test_a_seed_of_another_type(seed: Any) -> None:
    with pytest.raises(InvalidType, match="seed="):
        seed_everything(seed)


def test_a_bad_seed_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEED_VARIABLE, "bad")
    with pytest.raises(InvalidOption, match="the environment's PL_GLOBAL_SEED='bad'"):
        seed_everything()


def test_it_says_what_it_did_if_it_may(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="leyden"):
        seed_everything(3)
        seed_everything(4, verbose=False)
    assert [record.message for record in caplog.records] == ["Seed set to 3"]


def test_reset_starts_again_from_the_last_seed() -> None:
    with isolate_rng():
        before = torch.get_rng_state()
        reset_seed()  # never seeded: nothing
        assert torch.equal(torch.get_rng_state(), before)
        seed_everything(5, workers=True)
        first = draws()
        reset_seed(verbose=False)
        assert draws() == first
        assert os.environ[WORKERS_VARIABLE] == "1"


def test_what_is_drawn_or_seeded_in_isolation_leaves_no_trace() -> None:
    seed_everything(1)
    expected = [*draws(), *draws()]
    seed_everything(1)
    first = draws()
    with isolate_rng():
        draws()
        seed_everything(99)
    assert [*first, *draws()] == expected


def test_isolation_holds_after_an_error() -> None:
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    with pytest.raises(ZeroDivisionError), isolate_rng(include_cuda=False):
        _ = draws()[0] / 0
    assert draws() == expected


def test_a_random_state_goes_through_a_file_without_pickled_code() -> None:
    random.gauss(0, 1)  # half of a pair is kept for the next call
    np.random.randn()
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draws()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert draws() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_generator_is_isolated() -> None:
    seed_everything(1)
    expected = torch.rand(2, device="cuda").tolist()
    seed_everything(1)
    with isolate_rng():
        torch.rand(5, device="cuda")
    assert torch.rand(2, device="cuda").tolist() == expected
