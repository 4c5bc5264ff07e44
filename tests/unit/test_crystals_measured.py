"""Measured and calculated labels: the role of each crystal."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crysatom.crystals.measured import CALCULATED, FOLDS, folds_of, with_measured
from crysatom.crystals.table import to_table
from tests.unit.test_crystals_splits import crystal

METALS = list(range(3, 83))
NAME = "formation_energy_peratom"


def tables() -> tuple[pa.Table, pa.Table]:
    """Two polymorphs of 80 oxides; 60 were measured under the id of the first."""
    calculated = [crystal(f"{z}-{k}", [z, 8] * (k + 1), **{NAME: -float(z)}) for z in METALS for k in range(2)]
    measured = [crystal(f"{z}-0", [z, 8], **{f"exp_{NAME}": -float(z) - 0.5}) for z in METALS[:60]]
    return to_table(calculated), to_table(measured)


def test_no_calculated_value_of_a_measured_compound_is_learned_and_each_is_judged_once() -> None:
    table = with_measured(*tables(), NAME)
    frame = table.select(["material_id", NAME, CALCULATED, *folds_of(1), *folds_of(FOLDS - 1)]).to_pandas()
    frame["z"] = frame["material_id"].str.extract(r"(\d+)-")[0].astype(int)
    frame["measured"] = frame["material_id"].str.startswith("exp_")
    known = frame["z"].isin(METALS[:60]) & ~frame["measured"]
    assert frame.loc[known, [CALCULATED, *folds_of(1), *folds_of(FOLDS - 1)]].isna().all(axis=None)
    assert (frame.loc[frame["measured"], CALCULATED] == "test").all()
    assert set(frame.loc[frame["z"].isin(METALS[60:]), CALCULATED]) <= {"train", "val"}
    np.testing.assert_array_equal(frame.loc[frame["measured"], NAME], -frame.loc[frame["measured"], "z"] - 0.5)
    np.testing.assert_array_equal(frame.loc[~frame["measured"], NAME], -frame.loc[~frame["measured"], "z"])

    for learned in (1, FOLDS - 1):
        parts = frame.loc[frame["measured"], list(folds_of(learned))]
        assert ((parts == "test").sum(axis=1) == 1).all(), "each measured compound is judged once"
        assert (parts.isin(["train", "val"]).sum(axis=1) == learned).all()
        assert frame.loc[~frame["measured"], list(folds_of(learned))].isna().all(axis=None)
    tests = [set(frame.loc[frame[column] == "test", "z"]) for column in folds_of(1)]
    assert tests == [set(frame.loc[frame[column] == "test", "z"]) for column in folds_of(FOLDS - 1)]


def test_what_cannot_be_joined_is_refused() -> None:
    calculated, measured = tables()
    with pytest.raises(ValueError, match="calculated crystals has no column 'gap'; it has material_id"):
        with_measured(calculated, measured, "gap")
    with pytest.raises(ValueError, match=f"measured crystals has no column 'exp_{NAME}'"):
        with_measured(calculated, measured.drop_columns([f"exp_{NAME}"]), NAME)
    position = measured.schema.get_field_index(f"exp_{NAME}")
    other = measured.schema.field(position).with_metadata({"unit": "kJ/mol"})
    with pytest.raises(ValueError, match=r"is in eV/atom, and exp_\S+ in kJ/mol: bring both to one unit"):
        with_measured(calculated, measured.set_column(position, other, measured.column(position)), NAME)
    with pytest.raises(ValueError, match="1 measured compounds, or the calculated ones beside them, are too few"):
        with_measured(calculated, measured.slice(0, 1), NAME)
    with pytest.raises(ValueError, match="a compound was measured twice, as exp_"):
        with_measured(calculated, pa.concat_tables([measured, measured.slice(3, 1)]), NAME)
