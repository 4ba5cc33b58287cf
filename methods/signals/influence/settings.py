"""The settings of `influence`: which update direction, and what is taken over validation items."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.config_models import Section


class InfluenceSettings(Section):
    """The update direction Γ (`methods.signals.influence.gamma`) and the aggregate over validation items."""

    update: Literal["adam", "sgd"] = "adam"
    """The pair's update direction: Adam's, from the warm-up's moments, or the plain gradient."""
    eps: float = Field(1e-8, gt=0)
    """Adam's ε."""
    eps_mode: Literal["inside", "outside"] = "outside"
    """Where ε stands: beside the root of the second moment, or inside it as in LESS's code."""
    bias_correction: bool = True
    """Divides the moments by 1 − βᵗ, as Adam does."""
    momentum: bool = True
    """Puts the first moment into the direction."""
    own_second_moment: bool = True
    """Puts the pair's own squared gradient into the second moment."""
    aggregate: Literal["mean_cosine", "cosine_of_mean", "max_subtask", "mean_dot"] = "mean_cosine"
    """What is taken over validation items: mean of cosines, cosine of the mean gradient, the best subtask's, or
    mean of products."""
