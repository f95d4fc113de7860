"""What hypothesis draws in several tests."""

from hypothesis import settings
from hypothesis import strategies as st

untimed = settings(deadline=None)  # a busy machine is no failure


@st.composite
def sizes(draw: st.DrawFn, most: int = 3000) -> tuple[int, int, int]:
    """Any n, s, q, the extremes s = q, s = n and q = 1 often."""
    n = draw(st.integers(1, most))
    s = draw(st.one_of(st.just(n), st.integers(1, n)))
    q = draw(st.one_of(st.just(s), st.just(1), st.integers(1, s)))
    return n, s, q
