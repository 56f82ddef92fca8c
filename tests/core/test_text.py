"""Numbers in words."""

import pytest

from heimdall_lab.core.text import length_text


@pytest.mark.parametrize(
    ("length_m", "text"), [(0.0, "0.00 m"), (999.6, "1.00 km"), (12345.0, "12.3 km"), (1.5e6, "1,500 km")]
)
def test_lengths_have_three_digits(length_m: float, text: str) -> None:
    assert length_text(length_m) == text
