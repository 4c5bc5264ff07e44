"""Atom2Vec from compositions. Zhou, Tang, Liu, Pan, Yan & Zhang, PNAS 115, E6411 (2018).

Each element has a row of zeros and ones, one for each environment in which it occurs. Rows are scaled to unit length;
the leading singular vectors times their singular values are the atom vectors. There are about a hundred elements and
hundreds of thousands of environments, so the small matrix of inner products is decomposed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from crysatom.vectors.counts import environments

Array = NDArray[Any]


def decompose(compounds: Array) -> tuple[Array, Array]:
    """Return atomic numbers ``(M,)``, ascending, and vectors ``(M, M)`` float64, the largest component first.

    The sign of a component makes its value of largest magnitude positive.

    Args:
        compounds: ``(C, 118)`` distinct reduced compositions.

    """
    element, environment, number = environments(compounds)
    rows, row = np.unique(element, return_inverse=True)
    length = np.sqrt(np.bincount(row))  # a row has ones only
    found = sparse.csr_matrix((1 / length[row], (row, environment)), shape=(len(rows), number))
    squares, vectors = np.linalg.eigh((found @ found.T).toarray())
    scaled = vectors[:, ::-1] * np.sqrt(np.clip(squares[::-1], 0, None))
    largest = np.abs(scaled).argmax(axis=0)
    signs = np.sign(scaled[largest, np.arange(len(rows))])
    return rows + 1, scaled * np.where(signs == 0, 1, signs)
