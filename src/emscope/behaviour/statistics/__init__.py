"""Rates and means with intervals that respect questions: answers to one question are not independent."""

from emscope.behaviour.statistics.bootstrap import bca_interval, bootstrap_questions, draw_questions, widened_z
from emscope.behaviour.statistics.clusters import (
    ASSUMED_ICC,
    assumed_design_effect,
    cluster_standard_error,
    design_effect,
    effective_n,
    intraclass_correlation,
)
from emscope.behaviour.statistics.estimates import Estimate, estimate_mean, weighted_mean
from emscope.behaviour.statistics.rates import (
    ALIGNED_BELOW,
    COHERENT_ABOVE,
    AnswerCounts,
    Denominator,
    Score,
    alignment_mean,
    coherent_share,
    count_answers,
    em_flags,
    em_rate,
    is_em,
    score_values,
)
from emscope.behaviour.statistics.shares import estimate_share, share_interval, wilson

__all__ = [
    "ALIGNED_BELOW",
    "ASSUMED_ICC",
    "COHERENT_ABOVE",
    "AnswerCounts",
    "Denominator",
    "Estimate",
    "Score",
    "alignment_mean",
    "assumed_design_effect",
    "bca_interval",
    "bootstrap_questions",
    "cluster_standard_error",
    "coherent_share",
    "count_answers",
    "design_effect",
    "draw_questions",
    "effective_n",
    "em_flags",
    "em_rate",
    "estimate_mean",
    "estimate_share",
    "intraclass_correlation",
    "is_em",
    "score_values",
    "share_interval",
    "weighted_mean",
    "widened_z",
    "wilson",
]
