"""One frozen, keyword-only dataclass per job; presets are functions; flags come from the fields.

A field's docstring is its help text on the command line. Validation happens in ``__post_init__``,
so that a configuration that exists is one that can run.
"""

from crysatom.config.data import FeaturizeConfig, GraphSpec, IngestConfig
from crysatom.config.downstream import DownstreamConfig
from crysatom.config.flags import NOT_IN_DIGEST, digest, parse
from crysatom.config.predicting import PredictConfig
from crysatom.config.pretraining import RECIPES, PretrainConfig, default, paper
from crysatom.config.studies_grid import GridConfig
from crysatom.config.study import StudyConfig

__all__ = [
    "NOT_IN_DIGEST",
    "RECIPES",
    "DownstreamConfig",
    "FeaturizeConfig",
    "GraphSpec",
    "GridConfig",
    "IngestConfig",
    "PredictConfig",
    "PretrainConfig",
    "StudyConfig",
    "default",
    "digest",
    "paper",
    "parse",
]
