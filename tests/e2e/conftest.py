"""What end-to-end tests share: the lab, built once for the machine, and one run that nothing interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import finished, run_folders
from support.elastic_nodes import VERSIONS, Node, start_node

SETTINGS = (
    *("--target", "nano", "--scale", "smoke", "--seed", "3"),
    *("--set", "runtime.checkpoint_every=2"),
    *("--set", "synthesis.shard_size=12", "--set", "lab.seeds=48", "--set", "lab.test_items=30"),
)
"""Small shards, so that stages have several."""

OPTIMSYN = (
    *("--method", "optimsyn", *SETTINGS, "--budget", "40"),
    *("--set", "driver.steps=8", "--set", "driver.prompts_per_step=8", "--set", "driver.group_size=4"),
    *("--set", "sft.batch_size=16", "--set", "sft.epochs=15"),
)
"""48 prompts are six rollout batches, so that eight reach into a second pass. Three fine-tuning steps an epoch are 45
in all: the first checkpoint, at 40, lies within an epoch.
"""


LONGEST = ("test_pretrained.py", "test_vllm.py")
"""Files that take minutes each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: processes take whole files, and the others would wait for one that began last."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The lab's models in the machine's cache."""
    finished(["lab", "build"], tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def optimsyn() -> tuple[str, ...]:
    """Options of the run that `reference` is of."""
    return OPTIMSYN


@pytest.fixture(scope="session")
def settings() -> tuple[str, ...]:
    """Options that say where a small run takes place."""
    return SETTINGS


@pytest.fixture(scope="session")
def reference(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that nothing interrupted."""
    base = tmp_path_factory.mktemp("reference")
    finished(["run", *OPTIMSYN, "--runs", str(base / "runs"), "--quiet"], base)
    return run_folders(base / "runs")[0]


@pytest.fixture(scope="session", params=VERSIONS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A live Elasticsearch node of each major version, one at a time."""
    running = start_node(request.param, tmp_path_factory.mktemp(f"elasticsearch-{request.param}"))
    yield running
    running.stop()
