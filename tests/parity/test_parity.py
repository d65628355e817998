"""The numbers of a few steps are TRL's; `make parity` compares all cases over 50 steps."""

from pathlib import Path

import pytest
from tests.parity import cases, harness

pytestmark = [pytest.mark.parity, pytest.mark.slow]


def test_a_few_steps_have_the_numbers_of_trl(tmp_path: Path) -> None:
    if not harness.TRL_PYTHON.exists():
        pytest.skip("TRL is not installed: make .tools/trl/.stamp")
    for name, found in harness.compare(cases.QUICK, 5, tmp_path).items():
        assert found.largest < cases.TOLERANCE, (name, found)
