"""Progress on stderr: how far, how fast, how long still."""

import re

import pytest

from nuratio.parallel.progress import progress_bar, rate_text


@pytest.mark.parametrize(
    ("rounds", "seconds", "text"), [(10, 2.0, "5/s"), (1000, 0.3, "3.33e+03/s"), (1, 20.0, "3/min"), (0, 0.0, "")]
)
def test_rates(rounds, seconds, text):
    assert rate_text(rounds, seconds) == text


def test_the_bar_counts_from_what_was_done_before(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("toys", 10, True, done=7) as advance:
        for n in range(3):
            advance(f"{n} failed")
    lines = capsys.readouterr().err
    assert "10/10" in lines
    assert "2 failed" in lines
    assert re.search(r"\d/s", lines)


def test_nothing_is_drawn_unasked_where_nobody_looks(capsys):
    with progress_bar("toys", 1) as advance:
        advance("")
    assert capsys.readouterr().err == ""
