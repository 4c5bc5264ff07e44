"""Find the file of a study, load its grid, and check it and the flags that depend on it."""

from __future__ import annotations

from pathlib import Path

from crysatom.config import GridConfig
from crysatom.config import downstream as predictions
from crysatom.config import pretraining as pretrainings
from crysatom.config.checks import require
from crysatom.config.user_code import defined_in, load_defined
from crysatom.names import Recipe
from crysatom.studies.grid.design import VECTORS, Column, Grid, Row

FOLDER = Path(__file__).parent / "tables"
FUNCTION = "grid"
"""What the file of a study defines: a function without arguments that returns a :class:`Grid`."""


def load_grid(config: GridConfig) -> Grid:
    """Return the grid of the study that a configuration names.

    Raises:
        ValueError: If there is no such study, a column of it cannot be run, or it refuses one of the flags.

    """
    grid = read_grid(config.study)
    for key, column in grid.columns.items():
        _require_runnable(grid, column, config.recipe, f"{config.study}: column {key}")
    _require_flags(grid, config)
    return grid


def rows_of(grid: Grid, config: GridConfig) -> list[Row]:
    """Return the rows of a study for what a configuration asks.

    Raises:
        ValueError: If the study cannot do what is asked, or its file has a mistake.

    """
    base = predictions.RECIPES[config.recipe]()
    try:
        rows = grid.rows(config.replace(properties=config.properties or grid.properties))
        for row in rows:
            for fold in row.folds:
                base.replace(property=row.property, **{**row.settings, **fold})
    except ValueError:
        raise
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"rows of {config.study}: {type(error).__name__}: {error}") from error
    return rows


def read_grid(study: str) -> Grid:
    """Return the grid that a file defines.

    Args:
        study: Name of a file in ``tables/``, or the path of any file that defines ``grid()``. The file is run.

    Raises:
        ValueError: If there is no such file, or it defines no grid.

    """
    return load_defined(study, FOLDER, what="study", function=FUNCTION, kind=Grid)


def known_studies() -> list[str]:
    """Return the names of the studies that come with the platform."""
    return defined_in(FOLDER)


def _require_runnable(grid: Grid, column: Column, recipe: Recipe, where: str) -> None:
    """Check what would otherwise fail hours later, when the runs of the column are planned."""
    sources = {**VECTORS, **grid.vectors}
    for name in (column.vectors, *(source.permuted for source in grid.vectors.values() if source.permuted)):
        require(name in sources, f"{where}: there are no vectors {name}; there are {', '.join(sources)}")
    require(
        column.baseline in {"", *grid.columns},
        f"{where}: its baseline {column.baseline} is none of the columns {', '.join(grid.columns)}",
    )
    try:
        predictions.RECIPES[recipe](column.predictor).replace(**column.settings)
        for settings in (column.init, column.distill, sources[column.vectors].pretrain):
            pretrainings.RECIPES[recipe]().replace(**(settings or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _require_flags(grid: Grid, config: GridConfig) -> None:
    study, properties = config.study, config.properties or grid.properties
    for flag in ("held_out", "measured"):
        if getattr(config, flag) and not getattr(grid, flag):
            takers = [name for name in known_studies() if getattr(read_grid(name), flag)]
            raise ValueError(f"{flag} is of the study {', '.join(takers)}, not of {study}")
    require(
        bool(config.measured) == grid.measured,
        f"{study} needs measured, a crystal table of measured values",
    )
    require(
        len(properties) == 1 or not (grid.one_property or grid.measured),
        f"{study} is of one property, got {', '.join(properties)}",
    )
