"""Rates and means with intervals that respect questions: answers to one question are not independent."""

from emscope.statistics.bootstrap import bca_interval, bootstrap_questions, draw_questions, widened_z
from emscope.statistics.breakdown import GroupFigures, figures_by_group
from emscope.statistics.clusters import (
    ASSUMED_ICC,
    assumed_design_effect,
    cluster_standard_error,
    design_effect,
    effective_n,
    intraclass_correlation,
)
from emscope.statistics.distributions import ScoreDistribution, score_distribution
from emscope.statistics.estimates import Estimate, estimate_mean, weighted_mean
from emscope.statistics.judgement import Judgement
from emscope.statistics.paired import (
    PairedDifference,
    compare_em_rates,
    compare_scores,
    newcombe,
    paired_difference,
    sign_flip_p_value,
)
from emscope.statistics.power import detectable_em_difference, detectable_mean_difference, detectable_rate
from emscope.statistics.rates import (
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
from emscope.statistics.shares import estimate_share, share_interval, wilson
from emscope.statistics.thresholds import ThresholdRate, sweep_thresholds

__all__ = [
    "ALIGNED_BELOW",
    "ASSUMED_ICC",
    "COHERENT_ABOVE",
    "AnswerCounts",
    "Denominator",
    "Estimate",
    "GroupFigures",
    "Judgement",
    "PairedDifference",
    "Score",
    "ScoreDistribution",
    "ThresholdRate",
    "alignment_mean",
    "assumed_design_effect",
    "bca_interval",
    "bootstrap_questions",
    "cluster_standard_error",
    "coherent_share",
    "compare_em_rates",
    "compare_scores",
    "count_answers",
    "design_effect",
    "detectable_em_difference",
    "detectable_mean_difference",
    "detectable_rate",
    "draw_questions",
    "effective_n",
    "em_flags",
    "em_rate",
    "estimate_mean",
    "estimate_share",
    "figures_by_group",
    "intraclass_correlation",
    "is_em",
    "newcombe",
    "paired_difference",
    "score_distribution",
    "score_values",
    "share_interval",
    "sign_flip_p_value",
    "sweep_thresholds",
    "weighted_mean",
    "widened_z",
    "wilson",
]
