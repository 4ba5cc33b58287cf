"""The part of a section of the settings that stands in a stage's identity: what is not at its default.

So a setting that is added tomorrow, whose default leaves everything as it was, moves no identity; where a default
changes, whoever changes it raises the version of the stages that read it. Settings of the first versions stand in
identities in full, so that stages which were stored then are still found; `ALWAYS` lists them, and grows no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from harness.config_models import Section

_FIRST = {
    "SamplingConfig": "temperature top_p max_tokens",
    "SeedsConfig": "source text_field limit domain licence min_words max_words",
    "GuideConfig": "set n strategy coverage rendering withhold",
    "WarmupConfig": """share batch_size learning_rate epochs schedule warmup_ratio lora_rank lora_alpha lora_dropout
        lora_modules keep""",
    "SftConfig": """tune learning_rate epochs batch_size schedule warmup_ratio warmup_start weight_decay adam_beta2
        max_length lora_rank lora_alpha""",
    "EvalConfig": "apply_chat_template limit",
    "DecontamConfig": """modes parts ngram_size ngram_threshold ngram_tokenizer embedding_threshold embedding_unit
        min_tokens remove_short contained common_share common_documents common_run compat search_size""",
    "GrpoSettings": """prompts_per_step mini_batch_prompts group_size steps epochs learning_rate schedule weight_decay
        max_grad_norm temperature top_p max_tokens kl_coefficient kl_bias_correction clip_epsilon entropy_coefficient
        loss advantage_scale tune lora_rank lora_alpha lora_modules rollouts max_logprob_gap generator reward""",
    "RewardConfig": "scope invalid penalty",
}
ALWAYS: Mapping[str, frozenset[str]] = MappingProxyType({name: frozenset(s.split()) for name, s in _FIRST.items()})
"""By section, the settings that stand in identities at their defaults, too."""


def identity(section: Section, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a section that can change rows, as JSON, less those named in `exclude`, which change none."""
    always = ALWAYS.get(type(section).__name__, frozenset())
    changed = section.model_dump(mode="json", exclude_defaults=True)
    found: dict[str, Any] = {}
    for name, value in section.model_dump(mode="json").items():
        own = getattr(section, name)
        if name in exclude or (name not in always and name not in changed):
            continue
        found[name] = identity(own) if isinstance(own, Section) else value
    return found
