"""Silhouettes: how well classes separate the rows of a table (Rousseeuw, J. Comput. Appl. Math. 20, 53 (1987))."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_BATCH = 250
"""Number of relabelings processed at a time."""


def silhouette(distance: Array, labels: Array) -> Array:
    """Return the mean silhouette for each of B labelings of n rows: 1 separated, 0 no structure, below 0 mixed.

    The silhouette of a row is (b - a) / max(a, b), where a is its mean distance to its own class and b that to the
    nearest other class; it is 0 for the only row of a class.

    Args:
        distance: ``(n, n)``, symmetric, 0 on the diagonal.
        labels: ``(B, n)`` integers.

    Raises:
        ValueError: If all rows have one label.

    """
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError("a silhouette needs at least two classes")
    parts = [labels[start : start + _BATCH] for start in range(0, len(labels), _BATCH)]
    return np.concatenate([_silhouettes(distance, part, classes) for part in parts])


def _silhouettes(distance: Array, labels: Array, classes: Array) -> Array:
    member = (labels[:, :, None] == classes).astype(np.float64)  # (B, n, c)
    sizes = member.sum(axis=1, keepdims=True)
    sums = distance @ member
    own_size = (member * sizes).sum(axis=2)
    inside = (member * sums).sum(axis=2) / np.maximum(own_size - 1, 1)
    elsewhere = np.where((member > 0) | (sizes == 0), np.inf, sums / np.maximum(sizes, 1))
    outside = elsewhere.min(axis=2)
    larger = np.maximum(inside, outside)
    values = np.divide(outside - inside, larger, out=np.zeros_like(larger), where=(larger > 0) & (own_size > 1))
    return np.asarray(values.mean(axis=1))
