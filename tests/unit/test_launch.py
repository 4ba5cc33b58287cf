"""Workers end with the process that launched them, however that ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from harness.training.launch import born

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_a_launcher_that_is_killed_and_not_buried_has_ended() -> None:
    """Its number can still be sent signals: whoever started it has not asked how it ended, and may never."""
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    birth = born(launcher.pid)
    assert birth and born(launcher.pid) == birth
    launcher.kill()
    deadline = time.monotonic() + 20
    while born(launcher.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(launcher.pid, 0)
    assert born(launcher.pid) == ""
    launcher.wait()
    assert born(launcher.pid) == ""


def test_another_process_of_the_same_number_has_another_birth() -> None:
    mine = born(os.getpid())
    time.sleep(0.05)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        theirs = born(other.pid)
        other.kill()
    assert mine != theirs and int(theirs) > int(mine)
