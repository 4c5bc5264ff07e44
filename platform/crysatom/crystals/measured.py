"""Combine measured and calculated labels in one crystal table, for the study of DFT's bias (the paper's Table 8).

Every split is by reduced formula. The calculated crystals of all measured compounds are left out, whatever their
structure, so no run of the study sees a calculated value of a test compound. Measured compounds are assigned to folds,
so each is tested exactly once by a model fine-tuned on others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crysatom.crystals.splits import PARTS, hash_uniform, reduced_compositions
from crysatom.crystals.table import STRUCTURE_COLUMNS
from crysatom.crystals.targets import unit_of
from crysatom.names import MATERIAL_ID, SPACEGROUP_NUMBER, SPLIT_PREFIX, TEST, TRAIN, VAL

Array = NDArray[Any]

FOLDS = 5
PREFIX = "exp_"
"""Prefix of the column of a measured property (``exp_formation_energy_peratom``), and of the ids of measured crystals,
which may equal those of calculated ones."""

CALCULATED = f"{SPLIT_PREFIX}calculated"
"""Split column of calculated crystals; all measured ones are in test."""

VAL_FRACTION = 0.1


def folds_of(folds_to_learn: int) -> tuple[str, ...]:
    """Return the split columns with this many folds of measured crystals for training; one per test fold."""
    return tuple(f"{SPLIT_PREFIX}measured_{100 * folds_to_learn // FOLDS}_{fold}" for fold in range(FOLDS))


def with_measured(calculated: pa.Table, measured: pa.Table, name: str, *, seed: int = 0) -> pa.Table:
    """Return a table of both, with the labels of each in a column and the splits of the study in further columns.

    Args:
        calculated: Crystal table with the property.
        measured: Crystal table with ``exp_<property>``, one crystal per compound.
        name: The property.
        seed: Seed of folds and validation crystals.

    Raises:
        ValueError: If a table lacks its labels, the units differ, a compound occurs twice among the measured ones, or
            there are too few.

    """
    labels = [_labels(calculated, name, "calculated"), _labels(measured, PREFIX + name, "measured")]
    units = [unit_of(calculated, name), unit_of(measured, PREFIX + name)]
    if all(units) and units[0] != units[1]:
        raise ValueError(f"{name} is in {units[0]}, and {PREFIX}{name} in {units[1]}: bring both to one unit")
    ids = pc.binary_join_element_wise(PREFIX, measured[MATERIAL_ID], "")
    measured = measured.set_column(measured.schema.get_field_index(MATERIAL_ID), MATERIAL_ID, ids)
    columns = [
        c
        for c in (*STRUCTURE_COLUMNS, SPACEGROUP_NUMBER)
        if c in calculated.schema.names and c in measured.schema.names
    ]
    both = pa.concat_tables([t.select(columns).cast(calculated.select(columns).schema) for t in (calculated, measured)])
    is_measured = np.arange(both.num_rows) >= calculated.num_rows
    kinds, which = reduced_compositions(both)
    counts = np.bincount(which[is_measured], minlength=len(kinds))
    if counts.max() > 1:
        twice = both[MATERIAL_ID].filter(pa.array(is_measured & (counts[which] > 1)))
        raise ValueError(
            f"a compound was measured twice, as {twice[0]} and others; keep one value for each reduced formula"
        )
    names = [kind.tobytes().hex() for kind in kinds]
    is_free = ~is_measured & (counts[which] == 0)
    fold = np.where(is_measured, np.floor(hash_uniform(names, f"measured/{seed}")[which] * FOLDS), -1).astype(np.int64)
    for_val = np.zeros(len(fold), dtype=bool)
    order = hash_uniform(names, f"measured-val/{seed}")[which]
    for members in [is_free, *(fold == k for k in range(FOLDS))]:  # each must have some
        if not members.any():
            raise ValueError(f"{is_measured.sum()} measured compounds, or the calculated ones beside them, are too few")
        for_val[members] = order[members] <= np.quantile(order[members], VAL_FRACTION, method="lower")
    parts = {CALCULATED: _parts(is_free & ~for_val, is_free & for_val, is_measured)}
    for learned in (1, FOLDS - 1):
        for test, column in enumerate(folds_of(learned)):
            learn = is_measured & ((fold - test - 1) % FOLDS < learned)
            parts[column] = _parts(learn & ~for_val, learn & for_val, is_measured & (fold == test))
    field = pa.field(name, pa.float64(), metadata=calculated.schema.field(name).metadata)
    both = both.append_column(field, pa.chunked_array([c.cast(pa.float64()) for label in labels for c in label.chunks]))
    for column, part in parts.items():
        both = both.append_column(column, part)
    return both


def _labels(table: pa.Table, column: str, what: str) -> pa.ChunkedArray:
    if column not in table.schema.names:
        raise ValueError(
            f"the table of {what} crystals has no column {column!r}; it has {', '.join(table.schema.names)}"
        )
    return table[column]


def _parts(train: Array, val: Array, test: Array) -> pa.Array:
    part = np.select([train, val, test], [PARTS.index(p) for p in (TRAIN, VAL, TEST)], default=-1)
    return pa.array([*PARTS, None]).take(pa.array(np.where(part < 0, len(PARTS), part)))
