"""One frozen, keyword-only dataclass per job; presets are functions; flags come from the fields.

A field's docstring is its help text on the command line. Validation happens in ``__post_init__``,
so that a configuration that exists is one that can run.
"""

from crysatom.config.chemistry import ChemistryConfig
from crysatom.config.data import FeaturizeConfig, GraphSpec, IngestConfig
from crysatom.config.downstream import DownstreamConfig
from crysatom.config.flags import NOT_IN_DIGEST, digest, parse, parse_study, recorded
from crysatom.config.grid import GridConfig
from crysatom.config.predicting import PredictConfig
from crysatom.config.pretraining import RECIPES, PretrainConfig, default, paper
from crysatom.config.report import ReportConfig
from crysatom.config.spaces import Choice, LogUniform, SearchSpace, Uniform, load_space
from crysatom.config.tuning import TuneConfig
from crysatom.config.vectors import VectorsConfig

__all__ = [
    "NOT_IN_DIGEST",
    "RECIPES",
    "ChemistryConfig",
    "Choice",
    "DownstreamConfig",
    "FeaturizeConfig",
    "GraphSpec",
    "GridConfig",
    "IngestConfig",
    "LogUniform",
    "PredictConfig",
    "PretrainConfig",
    "ReportConfig",
    "SearchSpace",
    "TuneConfig",
    "Uniform",
    "VectorsConfig",
    "default",
    "digest",
    "load_space",
    "paper",
    "parse",
    "parse_study",
    "recorded",
]
