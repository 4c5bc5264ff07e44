"""Fixtures of several unit tests."""

from __future__ import annotations

import numpy as np
import pytest

from crysatom.vectors.table import AtomVectors


@pytest.fixture
def learned() -> AtomVectors:
    """Table as after pretraining: counts, errors, a large common component."""
    rng = np.random.default_rng(3)
    vectors = (5 + rng.normal(size=(6, 4))).astype(np.float32)
    return AtomVectors(
        atomic_numbers=np.array([1, 8, 11, 17, 26, 92]),
        vectors=vectors,
        site_counts=np.array([10, 20, 30, 40, 50, 60]),
        standard_errors=np.abs(vectors) / 10,
        provenance={"data_digest": "abc"},
    )
