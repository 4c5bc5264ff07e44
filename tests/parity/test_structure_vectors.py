"""Structure vectors against the table of the experiment that they come from, by other code on the same crystals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crysatom.config import FeaturizeConfig, VectorsConfig
from crysatom.crystals.derived_columns import cell_volumes, num_atoms
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import FORMULA, SPLIT_PREFIX, TEST, VAL
from crysatom.pipelines.structure import learned_from_structures
from crysatom.vectors.files import read_vectors
from crysatom.vectors.table import centered_cosine

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "structure_vectors" / "ab_clean.csv"
DATA = os.environ.get("CRYSATOM_TEST_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"the experiment's table is not at {REFERENCE}")
@pytest.mark.skipif(not DATA, reason="needs mp_pool.parquet: set CRYSATOM_TEST_DATA to its folder")
def test_similarities_are_those_of_the_experiment(tmp_path: Path) -> None:
    """It took crystals of up to 30 atoms below 200 cubic angstrom per atom, and no formula of evaluated crystals."""
    folder = Path(str(DATA))
    labeled = pq.read_table(folder / "jarvis_dft_3d.parquet")
    splits = [labeled[name].to_pylist() for name in labeled.column_names if name.startswith(SPLIT_PREFIX)]
    evaluated = [{VAL, TEST} & set(parts) for parts in zip(*splits, strict=True)]
    known = {formula for formula, parts in zip(labeled[FORMULA].to_pylist(), evaluated, strict=True) if parts}
    pool = pq.read_table(folder / "mp_pool.parquet")
    fresh = np.array([formula not in known for formula in pool[FORMULA].to_pylist()])
    dense = cell_volumes(pool) / num_atoms(pool) < 200
    pq.write_table(pool.filter(pa.array(fresh & dense & (num_atoms(pool) <= 30))), tmp_path / "pool.parquet")
    shards = tmp_path / "graphs"
    featurize_plain(FeaturizeConfig.of(data=str(tmp_path / "pool.parquet"), out=str(shards)))
    config = VectorsConfig.of(method="structure", max_expansion=0, data=str(shards), num_workers=0)
    _, vectors, _ = learned_from_structures(config, shards)
    expected = read_vectors(REFERENCE)
    pairs = np.triu_indices(len(expected.atomic_numbers), 1)
    ours, theirs = (
        centered_cosine(rows)[pairs] for rows in (vectors.lookup(expected.atomic_numbers), expected.vectors)
    )
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99
