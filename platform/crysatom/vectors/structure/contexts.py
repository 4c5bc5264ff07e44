"""The surroundings of an element in a crystal, as hashes that other elements in the same surroundings share.

A *color* describes a site without its element. A context of element e describes a crystal with e left out. Sites are
counted relative to one another, so a supercell has the colors and contexts of its primitive cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.vectors.structure.keyed import hashed, splitmix, starts, sum_at
from crysatom.vectors.structure.sites import Sites

BIN = 0.12
"""Width of a bin of ln(distance)."""

COLORS = ("distance", "coordination")
KINDS = ("distance_full", "distance_prototype", "coordination_full", "coordination_prototype")
"""Contexts that depend on structure; the fifth, ``formula``, follows from the composition alone."""

Array = NDArray[Any]


def site_colors(of: Sites, kind: str) -> Array:
    """Return ``(N,)`` uint64 colors: what the first shell looks like, and what the shells of its sites look like.

    ``distance``: the multiset of the bins of ln(d / (V/n)^(1/3)), the bond lengths in units of the crystal's mean
    distance between atoms. ``coordination``: their number.

    Bins of width :data:`BIN` are centered at 0, where rocksalt and simple cubic crystals are exactly. In a crystal
    without free parameters the scaled distance is an algebraic number, and the edges of bins are not (the theorem of
    Lindemann and Weierstrass), so no ideal structure lies at an edge. A distorted one may: it has another color than
    its neighbor in the next bin, however similar they are.

    """
    size = len(of.element)
    if kind == "distance":
        scaled = of.distance / np.cbrt(of.volume)[of.crystal[of.center]]
        bins = np.rint(np.log(scaled) / BIN).astype(np.int64)
        color = hashed(1, sum_at(hashed(2, bins), of.center, size))
    else:
        color = hashed(3, of.coordination)
    around = sum_at(splitmix(color)[of.neighbor], of.center, size)
    return hashed(4, color, around)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """K classes of sites with equal crystal, color and element, ordered by crystal.

    Attributes:
        crystal: ``(K,)`` ascending.
        color: ``(K,)`` uint64.
        element: ``(K,)``.
        count: ``(K,)`` number of sites.

    """

    crystal: Array
    color: Array
    element: Array
    count: Array


def site_classes(of: Sites, colors: Array) -> Classes:
    """Return the classes of sites."""
    different, color = np.unique(colors, return_inverse=True)
    key, count = np.unique((of.crystal * len(different) + color) * 128 + of.element, return_counts=True)
    place, element = np.divmod(key, 128)
    crystal, color = np.divmod(place, max(len(different), 1))
    return Classes(crystal=crystal, color=different[color], element=element, count=count)


def reduced(count: Array, crystal: Array) -> Array:
    """Return counts divided by the greatest common divisor of each crystal's counts; crystals ascend."""
    if not len(count):
        return count
    divisor = np.gcd.reduceat(count, starts(crystal))
    return np.asarray(count // np.repeat(divisor, np.diff([*starts(crystal), len(count)])))


def full_contexts(classes: Classes, pair: Array, of_crystal: Array, num_crystals: int) -> Array:
    """Return ``(P,)`` uint64: the crystal's multiset of (color, element), with one element blanked.

    Args:
        classes: Classes of sites.
        pair: ``(K,)`` index of each class's pair of crystal and element.
        of_crystal: ``(P,)`` crystal of each pair.
        num_crystals: B.

    """
    share = reduced(classes.count, classes.crystal)
    named = hashed(5, classes.color, classes.element, share)
    blank = hashed(5, classes.color, 0, share)
    whole = sum_at(named, classes.crystal, num_crystals)
    return hashed(6, whole[of_crystal] + sum_at(blank - named, pair, len(of_crystal)))


def prototype_contexts(classes: Classes, pair: Array, of_crystal: Array, num_crystals: int) -> Array:
    """Return ``(P,)`` uint64: the crystal's multiset of colors without elements, and which of it is the element's.

    Args: as of :func:`full_contexts`.

    """
    key = classes.crystal, classes.color
    order = np.lexsort(key[::-1])
    first = starts(*(column[order] for column in key))
    sites = np.add.reduceat(classes.count[order], first) if len(first) else classes.count[:0]
    crystal, color = (column[order][first] for column in key)
    share = reduced(sites, crystal)
    whole = sum_at(hashed(7, color, share), crystal, num_crystals)
    lengths = np.diff([*first, len(order)])
    total = np.zeros_like(classes.count)
    total[order] = np.repeat(sites // np.maximum(share, 1), lengths)  # what a crystal's counts were divided by
    divisor = np.gcd(classes.count, total)
    own = hashed(8, classes.color, classes.count // divisor, total // divisor)
    return hashed(9, whole[of_crystal], sum_at(own, pair, len(of_crystal)))


def formula_contexts(compound: Array, element: Array, number: Array) -> Array:
    """Return ``(n,)`` uint64: the reduced formula with one element blanked, for each element of each compound.

    Args:
        compound: ``(n,)`` index of the compound, from 0.
        element: ``(n,)`` atomic number.
        number: ``(n,)`` its atoms in the reduced formula.

    """
    named, blank = hashed(10, element, number), hashed(10, 0, number)
    whole = sum_at(named, compound, int(compound.max(initial=-1)) + 1)
    return hashed(11, whole[compound] + blank - named)
