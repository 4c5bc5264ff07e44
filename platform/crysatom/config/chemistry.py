"""Configuration of the study of what atom vectors know about the periodic table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from crysatom.config.base import Group, reads
from crysatom.config.checks import require, require_each
from crysatom.config.groups import Output, Tracking

MIN_DRAWS = 99
"""Smallest number of relabelings; with fewer, no p-value can be below 0.01."""

_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)")


@dataclass(frozen=True, kw_only=True)
class ChemistryConfig(Group):
    """Compare what atom vectors know about the periodic table (the paper's Figure 5)."""

    study: Literal["chemistry"] = "chemistry"
    """Name of this study; ``--study table7 --help`` shows the flags of the studies that are grids of runs."""

    vectors: tuple[str, ...] = reads(())
    """Tables to compare, each as TABLE or NAME=TABLE. TABLE is as in the downstream job: a file, a folder, onehot92,
    random:SEED, permuted:OTHER, skipatom, models:/NAME/VERSION, ... Only elements that all tables have are compared;
    the first table is the reference."""

    output: Output = Output()

    vector_scale: Literal["rms", "standardize"] = "rms"
    """Scaling before the analysis: 'rms': one factor for all columns, which keeps the table's geometry (one large
    column, such as Magpie's in kelvin, then dominates); 'standardize': each column to variance 1 (nearly constant
    columns then count as much as others)."""

    draws: int = 9999
    """Relabelings of the elements for the p-values of statements and silhouettes."""

    probe_draws: int = 999
    """Relabelings for the p-values of leave-one-element-out predictions."""

    seed: int = 0
    """Seed of relabelings, bootstrap and maps."""

    maps: Literal["all", "components", "none"] = "all"
    """Maps of each table: principal components, t-SNE and UMAP; only the first; or none. t-SNE and UMAP need
    scikit-learn and umap-learn (crysatom[report])."""

    tracking: Tracking = Tracking(experiment="crysatom-studies")

    def __post_init__(self) -> None:
        require(bool(self.vectors), "give the tables to compare: --vectors mine=runs/NAME/vectors onehot92 random:0")
        require_each(self, ("draws", "probe_draws"), lambda value: value >= MIN_DRAWS, f"be at least {MIN_DRAWS}")
        require_each(self, ("seed",), lambda value: value >= 0, "not be negative")
        repeated = {name for name, _ in self.tables if [n for n, _ in self.tables].count(name) > 1}
        require(not repeated, f"two tables are called {', '.join(sorted(repeated))}; write NAME=TABLE")

    @property
    def tables(self) -> tuple[tuple[str, str], ...]:
        """Name and source of each table, in order."""
        matches = [(_NAMED.fullmatch(text), text) for text in self.vectors]
        return tuple((match[1], match[2]) if match else (text, text) for match, text in matches)
