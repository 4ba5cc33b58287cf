"""Carries several runs out one after another in this process: what `lab calibrate` starts for an arm in a world.

Torch and the trainers take longer to import than a tiny target takes to train. A failure ends it with one line.
"""

from __future__ import annotations

import json
import sys

from harness.errors import HarnessError
from harness.resolve.layers import resolve_run


def carry_out_all(text: str) -> int:
    """Carry out runs given as a JSON list of `argv` and `options` (of `resolve_run`); returns the exit status."""
    from harness.runtime.run import carry_out, create_run

    try:
        for wanted in json.loads(text):
            run = create_run(resolve_run(target="nano", **wanted["options"]), wanted["argv"])
            carry_out(run, quiet=True)
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(carry_out_all(sys.argv[1]))
