"""Revisions of hub models: the commit that a name or branch means on this machine, pinned at first use.

A name such as `main` moves; a stage that was computed with one commit must not be taken for one of another. The
commit is read from the local cache, where the weights have to be before a run starts, so that pinning needs no network
and is the same offline. It stands in the run's `config.yaml`, in `run.json` and in the identities of its stages.
"""

from __future__ import annotations

from harness.config import RunConfig
from harness.models.known import is_hub_id
from harness.resolve.machine import cached_commit


def pin_revisions(config: RunConfig) -> RunConfig:
    """`config` with the commit of every hub model that is in the cache. A model that is not there, or that somebody
    else's server answers for, keeps its revision as it is.
    """
    models = config.models
    pinned = {}
    for role in config.model_roles:
        model = models.of(role)
        if model.base_url is None and is_hub_id(model.id) and model.backend != "extractive":
            commit = cached_commit(model.id, model.revision)
            if commit is not None and commit != model.revision:
                pinned[role] = model.model_copy(update={"revision": commit})
    if not pinned:
        return config
    return config.model_copy(update={"models": models.model_copy(update=pinned)})
