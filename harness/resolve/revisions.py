"""Revisions of hub models: the commit that a name or branch means on this machine, pinned at first use.

A name such as `main` moves; a stage that was computed with one commit must not be taken for one of another. The
commit is read from the local cache, where the weights have to be before a run starts, so that pinning needs no network
and is the same offline. It stands in the run's `config.yaml`, in `run.json` and in the identities of its stages.
"""

from __future__ import annotations

from typing import Any

from harness.config import ModelConfig, RunConfig
from harness.models.known import is_hub_id
from harness.resolve.machine import cached_commit


def pin_revisions(config: RunConfig) -> RunConfig:
    """`config` with the commit of every hub model that is in the cache. A model that is not there, or that somebody
    else's server answers for, keeps its revision as it is.
    """
    models = config.models
    names = [role for role in config.model_roles if role not in models.student_roles]
    pinned: dict[str, Any] = {role: _pinned(models.of(role)) for role in names}
    pinned["students"] = tuple(_pinned(student) for student in models.students)
    changed = {role: model for role, model in pinned.items() if model != getattr(models, role)}
    if not changed:
        return config
    return config.model_copy(update={"models": models.model_copy(update=changed)})


def _pinned(model: ModelConfig) -> ModelConfig:
    """The model with the commit that is in the cache, where it is a hub's and runs here."""
    if model.base_url is not None or not is_hub_id(model.id) or model.backend == "extractive":
        return model
    commit = cached_commit(model.id, model.revision)
    return model if commit in (None, model.revision) else model.model_copy(update={"revision": commit})
