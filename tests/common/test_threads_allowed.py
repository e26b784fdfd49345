"""OMP_NUM_THREADS: what it may hold."""

import pytest
from segtwin import threads


@pytest.mark.parametrize(
    ("text", "count"),
    [("3", 3), (" 2 ", 2), ("4,2,1", 4), ("", None), ("0", None), ("-1", None), ("two", None), ("²", None)],
)
def test_the_first_number_counts(monkeypatch: pytest.MonkeyPatch, text: str, count: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.allowed() == count


def test_nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.allowed() is None
