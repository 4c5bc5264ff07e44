"""The studies that ``jobs/study.py`` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crysatom.config import StudyConfig
from crysatom.names import Study
from crysatom.pipelines import chemistry

STUDIES: Mapping[Study, Callable[[StudyConfig], str]] = {
    "chemistry": chemistry.run,
}
"""Each does its study and returns what a user wants to know at the end."""


def run(config: StudyConfig) -> str:
    """Do the study that the configuration names.

    Raises:
        ValueError: If what it compares is not usable as asked.

    """
    return STUDIES[config.study](config)
