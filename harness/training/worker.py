"""One of several processes that fine-tune together; started by `harness.training.launch`, never by hand.

It ends as soon as the process that launched it is gone. Only the first worker reports.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from harness.errors import HarnessError
from harness.training.launch import PREFIX, born, job_from_json

POLL_SECONDS = 2.0


def _end_with(launcher: int, birth: str) -> None:
    # Its number alone would not do: it may be a zombie's by now, or another process's.
    while born(launcher) == birth:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _tell(**message: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(PREFIX + json.dumps(message), flush=True)


def main(path: str) -> int:
    """Carry out the job in this file; the exit status is 0 where it was finished."""
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(value.pop("launcher"), value.pop("born")), daemon=True).start()
    from harness.training.sft import run_job

    job = job_from_json(value)
    try:
        tuned = run_job(job, lambda step, total: _tell(step=step, total=total))
    except HarnessError as error:
        _tell(error=str(error), kind=type(error).__name__)
        return error.exit_status
    _tell(tuned=asdict(tuned))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
