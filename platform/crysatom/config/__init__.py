"""One frozen, keyword-only dataclass per job, made of groups that jobs share; recipes are functions.

Flags are the fields, by their flat names (:mod:`crysatom.config.base`). A field's docstring is its help text on the
command line. ``__post_init__`` validates, so an existing configuration can run.
"""

from crysatom.config.base import Group, Role
from crysatom.config.chemistry import ChemistryConfig
from crysatom.config.downstream import DownstreamConfig, config_of
from crysatom.config.few_labels import FewLabelsConfig
from crysatom.config.flags import default_settings, defaults_beside, digest, parse, parse_study, recorded
from crysatom.config.grid import GridConfig
from crysatom.config.groups import GraphSpec, Limits, Optimization, Source, TrainingWorkers, Workers
from crysatom.config.ingesting import FeaturizeConfig, IngestConfig
from crysatom.config.predicting import PredictConfig
from crysatom.config.pretraining import RECIPES, PretrainConfig, default, paper
from crysatom.config.report import ReportConfig
from crysatom.config.spaces import Choice, LogUniform, SearchSpace, Uniform, load_space
from crysatom.config.tuning import TuneConfig
from crysatom.config.vectors import VectorsConfig

__all__ = [
    "RECIPES",
    "ChemistryConfig",
    "Choice",
    "DownstreamConfig",
    "FeaturizeConfig",
    "FewLabelsConfig",
    "GraphSpec",
    "GridConfig",
    "Group",
    "IngestConfig",
    "Limits",
    "LogUniform",
    "Optimization",
    "PredictConfig",
    "PretrainConfig",
    "ReportConfig",
    "Role",
    "SearchSpace",
    "Source",
    "TrainingWorkers",
    "TuneConfig",
    "Uniform",
    "VectorsConfig",
    "Workers",
    "config_of",
    "default",
    "default_settings",
    "defaults_beside",
    "digest",
    "load_space",
    "paper",
    "parse",
    "parse_study",
    "recorded",
]
