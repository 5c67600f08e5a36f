"""Guarantee 2 where features meet: whatever is on together, a run that is broken off and given again ends with the same bits."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from kit import differences
from together_job import ENDS, FEATURES, Breaks, Features, ended

from leyden.errors import LeydenError


@pytest.mark.filterwarnings("ignore::leyden.errors.LeydenWarning")
@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")  # where the first window is skipped
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FEATURES.items()}),
    st.lists(st.tuples(st.integers(1, 160), st.sampled_from(ENDS)), min_size=1, max_size=3),
)
def test_whatever_is_on_together(features: Features, breaks: Breaks) -> None:
    try:
        expected = ended(features, [])
    except LeydenError:
        reject()  # these exclude each other
    assert differences(expected, ended(features, breaks)) == []
