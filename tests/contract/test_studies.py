"""What every study must satisfy: it can be planned by both recipes, and the documentation lists it."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from crysatom.config import GridConfig
from crysatom.config.pretraining import RECIPES
from crysatom.names import Recipe
from crysatom.predictors.base import PredictorSpec
from crysatom.studies.grid.loading import known_studies, load_grid, read_grid, rows_of
from tests.conftest import REPOSITORY


def asked(study: str, recipe: Recipe = "default") -> GridConfig:
    """Return the configuration of a study with what it needs."""
    return GridConfig.of(study=study, recipe=recipe, measured="x.parquet" if read_grid(study).measured else "")


@pytest.mark.parametrize("recipe", get_args(Recipe))
@pytest.mark.parametrize("study", known_studies())
def test_a_study_can_be_planned(study: str, recipe: Recipe) -> None:
    """Loading checks vectors, baselines and all settings."""
    config = asked(study, recipe)
    grid = load_grid(config)
    rows = rows_of(grid, config)
    keys = [row.key for row in rows]
    assert keys
    assert len(set(keys)) == len(keys)
    assert {row.start for row in rows} <= {"", *keys}
    assert {row.property for row in rows} == set(grid.properties)


@pytest.mark.parametrize("study", known_studies())
def test_an_encoder_to_start_from_has_the_width_and_depth_of_the_predictor(study: str) -> None:
    for column in read_grid(study).columns.values():
        if column.init is not None:
            encoder = RECIPES["default"]().replace(**column.init).encoder
            spec = PredictorSpec(num_layers=column.settings.get("num_layers", PredictorSpec.num_layers))
            assert (encoder.embedding_dim, encoder.num_layers) == (spec.width, spec.num_layers)


def test_documentation_lists_the_studies() -> None:
    text = (REPOSITORY / "docs" / "studies.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted([*known_studies(), "chemistry", "few_labels"])
