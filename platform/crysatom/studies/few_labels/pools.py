"""Pools of labeled crystals by a hash of their ids, and disjoint draws of training crystals from them.

The pool of a crystal depends on the salt and its id (or its formula) alone: not on other crystals, their order or the
property. A crystal that is a test crystal for one property is one for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysatom.crystals.splits import Split, hash_uniform
from crysatom.names import SYMBOLS
from crysatom.vectors.elements import element_table

Array = NDArray[Any]

TEST_SHARE, SCREEN_SHARE, SELECT_SHARE = 0.2, 0.1, 0.1
"""Shares of the crystals for the report, for choices between variants, and for the choice of a training's epoch."""

FEWEST_SELECT, MOST_SELECT = 50, 250
"""Bounds of the number of validation crystals of a training; in between it is a fifth of its training crystals."""

FEWEST_WITH_ELEMENT = 20
"""Crystals with an element that are needed to draw it as one that is held out."""


@dataclass(frozen=True, kw_only=True)
class Pools:
    """Labeled crystals of a property by their use, as positions among all crystals, each pool in order of its hash.

    Attributes:
        train: Pool of the training crystals.
        select: Pool of the validation crystals, which choose the epoch of a training.
        evaluated: Crystals whose errors are compared: of the test pool, or of the pool for choices between variants.

    """

    train: Array
    select: Array
    evaluated: Array


def by_hash(
    material_ids: Array, labeled: Array, salt: str, *, test: bool, groups: Sequence[str] | None = None
) -> Pools:
    """Return the pools of labeled crystals.

    Args:
        material_ids: ``(M,)`` ids of all crystals.
        labeled: ``(M,)`` bool, crystals with a label of the property.
        salt: Any text; another one gives another split.
        test: Evaluate the test pool; otherwise the pool for choices between variants.
        groups: ``(M,)`` names of the groups of crystals that stay together in a pool; None: each crystal by itself.

    """
    chosen = np.flatnonzero(labeled)
    uniform = hash_uniform(map(str, material_ids[chosen]), f"few_labels/{salt}")
    place = uniform if groups is None else hash_uniform((groups[int(i)] for i in chosen), f"few_labels/group/{salt}")
    order = np.argsort(uniform, kind="stable")
    pool = np.searchsorted(np.cumsum([TEST_SHARE, SCREEN_SHARE, SELECT_SHARE]), place[order], side="right")
    tested, screened, select, train = (chosen[order][pool == number] for number in range(4))
    return Pools(train=train, select=select, evaluated=tested if test else screened)


def of_official(split: Split, labeled: Array, salt: str, *, test: bool) -> Pools:
    """Return the pools of a published split; half of its validation crystals are for choices between variants."""
    parts = [part[labeled[part]] for part in (split.train, split.val, split.test)]
    hashes = [hash_uniform(map(str, split.material_ids[part]), f"few_labels/{salt}") for part in parts]
    train, val, tested = (part[np.argsort(uniform, kind="stable")] for part, uniform in zip(parts, hashes, strict=True))
    select, screened = np.split(val, [np.searchsorted(np.sort(hashes[1]), 0.5)])
    return Pools(train=train, select=select, evaluated=tested if test else screened)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The crystals of one training, as ascending positions; no crystal of one draw is for training in another.

    Attributes:
        number: Number of the draw.
        train: Training crystals.
        val: Validation crystals, which choose the epoch.
        evaluated: Crystals whose errors are compared.
        held_out: Symbols of the elements that train and val lack and evaluated crystals have one of; empty: no such.

    """

    number: int
    train: Array
    val: Array
    evaluated: Array
    held_out: tuple[str, ...] = ()


class Wanted(NamedTuple):
    """Sizes of a draw.

    Attributes:
        labels: Training crystals; 0: the whole pool, in one draw.
        validation: Validation crystals; 0: a fifth of ``labels`` within bounds, or the whole pool with ``labels`` 0.
        max_test: Most crystals to evaluate; 0: no limit.

    """

    labels: int
    validation: int = 0
    max_test: int = 0

    def of(self, pools: Pools) -> dict[str, int]:
        """Return the most crystals to take from the pools for training and for validation."""
        if not self.labels:
            return {"training": len(pools.train), "validation": self.validation or len(pools.select)}
        fifth = min(max(FEWEST_SELECT, self.labels // 5), MOST_SELECT)
        return {"training": self.labels, "validation": self.validation or fifth}


def draws_of(
    pools: Pools,
    wanted: Wanted,
    numbers: Sequence[int],
    held_out: Sequence[tuple[str, ...]] = (),
    holds: Array | None = None,
) -> list[Draw]:
    """Return the draws of some numbers, 0 or larger; draw k does not depend on how many there are.

    Draw k takes the first training crystals in order of the hash that no draw before it has taken, and likewise its
    validation crystals.

    Args:
        pools: Crystals to draw from.
        wanted: Sizes of a draw.
        numbers: Numbers of the draws to return.
        held_out: Symbols of the elements held out of each draw from 0 to the largest number; empty: none.
        holds: ``(M, 118)`` bool, elements of all crystals; needed with ``held_out``.

    Raises:
        ValueError: If the pools are too small; the message says how many draws are possible.

    """
    free = {"training": pools.train, "validation": pools.select}
    numbers = numbers if wanted.labels else [0]
    sizes = wanted.of(pools)
    draws = []
    for number in range(max(numbers) + 1):
        elements = held_out[number] if held_out else ()
        taken = {name: _without(pool, elements, holds)[: sizes[name]] for name, pool in free.items()}
        for name, pool in taken.items():
            if not len(pool) or (wanted.labels and len(pool) < sizes[name]):
                raise ValueError(
                    f"{max(numbers) + 1} draws of {sizes['training']} training and {sizes['validation']} validation "
                    f"crystals are needed, {number} are possible: of the {len(pools.train)} training and "
                    f"{len(pools.select)} validation crystals {len(pool)} are left for {name}"
                    + (f" without {','.join(elements)}" if elements else "")
                )
        evaluated = _with(pools.evaluated, elements, holds)[: wanted.max_test or None]
        if not len(evaluated):
            raise ValueError("no crystal to evaluate" + (f" holds one of {','.join(elements)}" if elements else ""))
        free = {name: pool[~np.isin(pool, taken[name])] for name, pool in free.items()}
        draws.append(
            Draw(
                number=number,
                train=np.sort(taken["training"]),
                val=np.sort(taken["validation"]),
                evaluated=np.sort(evaluated),
                held_out=tuple(elements),
            )
        )
    return [draws[number] for number in numbers]


def _without(pool: Array, elements: Sequence[str], holds: Array | None) -> Array:
    return pool if not elements else pool[~_has(pool, elements, holds)]


def _with(pool: Array, elements: Sequence[str], holds: Array | None) -> Array:
    return pool if not elements else pool[_has(pool, elements, holds)]


def _has(pool: Array, elements: Sequence[str], holds: Array | None) -> Array:
    assert holds is not None, "elements of the crystals are needed to hold some out"
    return np.asarray(holds[pool][:, [SYMBOLS.index(symbol) for symbol in elements]].any(axis=1))


def elements_held_out(text: str, count: int, *, salt: str, pools: Pools, holds: Array) -> list[tuple[str, ...]]:
    """Return the elements to hold out of each of the first draws.

    Args:
        text: 'Fe,Co'; 'group:17', a column of the periodic table; 'random:8', different elements in each draw; or
            'none'.
        count: Number of draws.
        salt: Decides about random elements, which occur in at least :data:`FEWEST_WITH_ELEMENT` crystals to evaluate.
        pools: Crystals of the property.
        holds: ``(M, 118)`` bool, elements of all crystals.

    Raises:
        ValueError: If too few elements occur.

    """
    if text == "none":
        return []
    kind, _, which = text.partition(":")
    if not which:
        return [tuple(text.split(","))] * count
    if kind == "group":
        return [tuple(_column(int(which)))] * count
    common = np.flatnonzero(holds[pools.evaluated].sum(axis=0) >= FEWEST_WITH_ELEMENT)
    symbols = [SYMBOLS[z] for z in common]
    if len(symbols) < 2 * int(which):
        raise ValueError(
            f"held_out {text}: only {len(symbols)} elements occur in {FEWEST_WITH_ELEMENT} crystals to evaluate; "
            "hold fewer out"
        )
    sets = []
    for number in range(count):
        uniform = hash_uniform(symbols, f"few_labels/{salt}/held_out/{number}")
        sets.append(tuple(sorted((symbols[i] for i in np.argsort(uniform)[: int(which)]), key=SYMBOLS.index)))
    return sets


def _column(group: int) -> list[str]:
    """Return the elements of a column of the periodic table, 1 to 18, in order of Z."""
    return [SYMBOLS[z - 1] for z, facts in element_table().items() if facts["group"] == str(group)]
