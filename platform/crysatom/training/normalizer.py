"""What a predictor need not learn: the mean and spread of the targets, and each element's contribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.names import MAX_ATOMIC_NUMBER

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Maps a property to a number with mean 0 and standard deviation 1 over the training crystals.

    Attributes:
        mean: Mean of the training targets, in the unit of the property.
        std: Their standard deviation, in the same unit.

    """

    mean: float
    std: float

    @classmethod
    def of(cls, targets: Array) -> Normalizer:
        """Return the normalizer of ``(T,)`` training targets.

        Raises:
            ValueError: If they are all equal: there is nothing to learn.

        """
        mean, std = float(np.mean(targets)), float(np.std(targets))
        if not std > 0:
            raise ValueError(
                f"all {len(targets)} training crystals have the same target, {mean:g}; take more crystals, or "
                "another property"
            )
        return cls(mean=mean, std=std)


def composition_reference(atomic_numbers: Array, atom_ptr: Array, targets: Array) -> Array:
    """Return each element's contribution to an intensive property, by least squares.

    The mean of the contributions over a crystal's atoms is the linear function of composition that fits best. If
    several fit equally well, the one nearest to the mean target is taken. The mean target is also the contribution of
    elements that no training crystal contains.

    Args:
        atomic_numbers: ``(N,)``, atoms of the training crystals, crystal after crystal.
        atom_ptr: ``(T + 1,)``, index of each crystal's first atom; the last entry is N.
        targets: ``(T,)`` targets of the training crystals.

    Returns:
        ``(119,)`` float64 by atomic number, in the unit of the property.

    """
    count = len(targets)
    crystal = np.repeat(np.arange(count), np.diff(atom_ptr))
    cell = crystal * (MAX_ATOMIC_NUMBER + 1) + atomic_numbers.astype(np.int64)
    share = np.bincount(cell, minlength=count * (MAX_ATOMIC_NUMBER + 1)).reshape(count, -1).astype(np.float64)
    share /= np.diff(atom_ptr)[:, None]
    mean = float(np.mean(targets))
    return np.asarray(mean + np.linalg.lstsq(share, targets - mean, rcond=None)[0])
