"""The record of a check: its line, its rows, and the one line of one that failed."""

from __future__ import annotations

import pytest

from harness.errors import StageError
from harness.training.checks import Check, judge, require, to_rows


def test_the_first_failed_check_ends_the_work_in_one_line() -> None:
    passed = Check("same tokens", "passed", None, None, "40 conversations")
    failed = judge("packed equals plain", 0.3, 0.02, "bfloat16", "Set sft.packing=false")
    require([passed], "training of the target")
    with pytest.raises(StageError) as caught:
        require([passed, failed], "training of the target")
    assert str(caught.value) == (
        "training of the target failed the check 'packed equals plain': bfloat16, measured 0.3, limit 0.02. "
        "Set sft.packing=false"
    )


def test_what_is_not_a_number_fails() -> None:
    assert judge("x", float("nan"), 1.0, "").status == "failed"
    assert judge("x", 1.0, 1.0, "").status == "passed"


def test_rows_hold_what_was_measured() -> None:
    assert to_rows([judge("x", 0.1, 1.0, "d", "do y")]) == [
        {"name": "x", "status": "passed", "measured": 0.1, "limit": 1.0, "detail": "d"}
    ]
