"""What a long command says while it works."""

import pytest

from train.system.terminal import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.4, "9s"), (59.6, "1m 00s"), (247, "4m 07s"), (11_100, "3h 05m"), (183_700, "2d 03h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
