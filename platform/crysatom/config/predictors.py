"""Defaults of each predictor by name: sizes, graphs and optimization, where they differ from CGCNN's.

Sources: the paper and released code of each, named in its module in :mod:`crysatom.predictors`. The two recipes differ
as for all predictors (:mod:`crysatom.config.downstream`), and as given here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE_CYCLE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "lr": 1e-3,
    "batch_size": 64,
    "weight_decay": 1e-5,
}
"""Graph rule of ALIGNN and of code based on it."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # Choudhary & DeCost, npj Comput. Mater. 7, 185 (2021)
    "alignn": {
        **ONE_CYCLE,
        "width": 256,
        "num_layers": 4,
        "epochs": 300,
        "reverse_edges": "add",
        "directions": True,
    },
    # Yan, Liu, Lin & Ji, NeurIPS 2022, arXiv 2209.11807
    "matformer": {
        **ONE_CYCLE,
        "width": 128,
        "num_layers": 5,
        "epochs": 500,
        "reverse_edges": "add",
        "lattice_edges": "primitive",
    },
    # Lin et al., ICML 2023, arXiv 2306.10045
    "potnet": {
        **ONE_CYCLE,
        "width": 256,
        "num_layers": 3,
        "hidden_dim": 256,
        "epochs": 500,
        "weight_decay": 0.0,
        "num_neighbors": 16,
        "reverse_edges": "add",
        "potentials": "exact",
    },
    # Ruff et al., Digital Discovery 3, 594 (2024), arXiv 2302.14102
    "cogn": {
        "width": 128,
        "num_layers": 5,
        "epochs": 800,
        "optimizer": "adam",
        "schedule": "linear",
        "lr": 5e-4,
        "batch_size": 64,
        "weight_decay": 0.0,
        "num_neighbors": 24,
    },
}
"""Settings of the recipe 'default'."""

_NO_CUTOFF: Mapping[str, Any] = {
    "ties": "complete",
    "tie_tolerance": 0.0,
    "pad_short_lists": False,
    "cutoff": 50.0,
    "reverse_edges": "published",
}
"""Effectively no cutoff, because ALIGNN's code enlarges the cutoff until each atom has all its neighbors."""

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "alignn": {**SETTINGS["alignn"], **_NO_CUTOFF},
    "matformer": {**SETTINGS["matformer"], **_NO_CUTOFF, "lattice_edges": "cell"},
    "potnet": {**SETTINGS["potnet"], **_NO_CUTOFF, "potentials": "published"},
    "cogn": {**SETTINGS["cogn"], "ties": "truncate", "pad_short_lists": False, "cutoff": 50.0, "criterion": "mae"},
}
"""Settings of the recipe 'paper'."""
