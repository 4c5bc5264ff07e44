"""Crystals that take far more space than their composition does elsewhere: expanded cells, molecules in vacuum.

Large collections hold some. In 154,921 crystals of the Materials Project, the ratio of a crystal's volume to the one
predicted here has two peaks: at 1, and at 10 (2,000 crystals, most of them Heusler compounds, with bonds twice as long
as chemistry allows). They would dominate the spread of volumes and shift the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from crysatom.vectors.structure.geometry import VOLUME_RIDGE, ridge
from crysatom.vectors.structure.tally import ELEMENTS

OUTLYING = 0.25
"""Residuals of ln(V/n) above this weigh less in the fit (Huber, Ann. Math. Stat. 35, 73 (1964)): twice their usual
size."""

STEPS = 20

Array = NDArray[Any]


def expansion(volume: Array, atom_ptr: Array, atomic_numbers: Array) -> Array:
    """Return ``(B,)`` ratios of the volume per atom to the geometric mean of volumes of the elements.

    ln(V/n) = mu + sum_i x_i v_i with fractions x of elements, by iteratively reweighted least squares.

    Args:
        volume: ``(B,)`` volume per atom.
        atom_ptr: ``(B + 1,)`` first atom of each crystal.
        atomic_numbers: ``(N,)``.

    """
    atoms = np.diff(atom_ptr)
    crystal = np.repeat(np.arange(len(atoms)), atoms)
    fractions = sparse.csr_matrix(
        ((1 / atoms)[crystal], (crystal, atomic_numbers.astype(np.int64))), shape=(len(atoms), ELEMENTS)
    )
    target = np.log(volume) - np.median(np.log(volume)) if len(volume) else volume
    residual = np.zeros(len(atoms))
    for _ in range(STEPS):
        weight = 1 / np.maximum(1, np.abs(residual) / OUTLYING)
        residual = target - fractions @ ridge(fractions, target, weight, VOLUME_RIDGE)
    return np.asarray(np.exp(residual))
