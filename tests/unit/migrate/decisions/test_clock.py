"""Tests of migrate/decisions/clock.py: the difference between the clocks of two hosts."""

from hypothesis import given
from hypothesis import strategies as st

from migrate.decisions.clock import Sample, estimate


@given(
    st.integers(-(10**15), 10**15),
    st.lists(
        st.tuples(st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1
    ),
)
def test_the_true_offset_is_within_the_error(
    offset: int, trips: list[tuple[int, int, int]]
) -> None:
    samples = [
        Sample(asked_ns=start, answered_ns=start + there + back, theirs_ns=start + there + offset)
        for start, there, back in trips
    ]
    found = estimate(samples)
    assert abs(found.offset_ns - offset) <= found.error_ns
    assert abs(found.to_ours(offset + 5) - 5) <= found.error_ns
