"""What all tests share: the real test data, and what the absence of these and of servers means.

Real data are optional on a developer's machine and mandatory where `HARNESS_REQUIRE_DATA` is set: there a test that
skips because of `HARNESS_TEST_DATA` fails, so that a check cannot pass by testing nothing. vLLM likewise, with
`HARNESS_REQUIRE_VLLM`, and the pretrained model of a package, with `HARNESS_REQUIRE_MODEL`.

The lab's models are trained on the machine, so what they write belongs to its processor, and no test may name a count
that follows from it (valid pairs, steps, scores): it is read from the run. `HARNESS_LAB_DISTURB=1 pytest tests/e2e`
runs the tests with models of other training seeds, which is how to see whether one does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A shell has its background jobs ignore interrupts, and children inherit that; tests interrupt both.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is one of the machine's speed: hypothesis' time limits fail where cores are shared.
settings.register_profile("shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared cores")

DATA_VARIABLE = "HARNESS_TEST_DATA"
REQUIRED = {
    "HARNESS_REQUIRE_DATA": DATA_VARIABLE,
    "HARNESS_REQUIRE_VLLM": "make setup-vllm",
    "HARNESS_REQUIRE_MODEL": "make setup-model",
}
"""Variables that make a skip a failure, by what its reason then holds."""


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data (`eval/`, `seeds/`); skips where there is none."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{DATA_VARIABLE} does not name a folder with real data")
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip for want of something into a failure where it is required."""
    report = yield
    reason = str(call.excinfo.value) if call.excinfo is not None else ""
    for variable, words in REQUIRED.items():
        if report.skipped and os.environ.get(variable) and words in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped although {variable} is set: {reason}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no GPU; torch is imported only when there is such a test."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
