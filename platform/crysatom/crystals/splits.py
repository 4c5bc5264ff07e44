"""Splits of crystals for training, model selection (val) and test.

Random choices are made per crystal, by a hash of seed and id. They depend neither on the order of the crystals nor on
the other crystals, so a test crystal remains one when a table grows.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crysatom.crystals.derived_columns import cell_volumes, element_counts, num_atoms
from crysatom.crystals.targets import Ids, first_rows
from crysatom.names import MATERIAL_ID, SPACEGROUP_NUMBER, SPLIT_PREFIX, SYMBOLS, TEST, TRAIN, VAL

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Fractions = tuple[float, float, float]
"""Fractions of train, val and test."""

DEFAULT_FRACTIONS: Fractions = (0.8, 0.1, 0.1)
PARTS = (TRAIN, VAL, TEST)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Disjoint sets of crystals, by their position among M ids.

    Attributes:
        name: Description of the split.
        material_ids: ``(M,)`` distinct ids of all crystals, in the order of the graphs.
        train: Ascending positions of the training crystals.
        val: Ascending positions of the validation crystals, for model selection.
        test: Ascending positions of the test crystals, evaluated once.

    """

    name: str
    material_ids: Array
    train: Array
    val: Array
    test: Array

    def __post_init__(self) -> None:
        used = np.concatenate([self.train, self.val, self.test])
        twice = len(used) - len(np.unique(used))
        if twice:
            raise ValueError(f"split {self.name}: {twice} crystals are in more than one part, or twice in one")
        if len(used) and not (used.min() >= 0 and used.max() < len(self.material_ids)):
            raise ValueError(f"split {self.name}: a position lies outside the {len(self.material_ids)} crystals")

    def ids(self, part: str) -> Array:
        """Return the ids of the crystals of ``train``, ``val`` or ``test``."""
        return np.asarray(self.material_ids[getattr(self, part)])

    def digest(self) -> str:
        """Return the hexadecimal SHA-256 of the ids of the three parts, independent of their order."""
        parts = [sorted(map(str, self.ids(part))) for part in (TEST, VAL, TRAIN)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def where(self, chosen: Array) -> Split:
        """Return the split restricted to the chosen crystals ``(M,)``, such as those with a label.

        Raises:
            ValueError: If no crystal of a part remains.

        """
        parts = {part: getattr(self, part)[chosen[getattr(self, part)]] for part in PARTS}
        for part, crystals in parts.items():
            if len(getattr(self, part)) and not len(crystals):
                raise ValueError(
                    f"split {self.name}: none of the {len(getattr(self, part))} {part} crystals is left, as when "
                    "none of them has a label; choose another split or property"
                )
        return replace(self, **parts)


def ids_digest(material_ids: Iterable[Any]) -> str:
    """Return the hexadecimal SHA-256 of ids, independent of their order."""
    return hashlib.sha256(json.dumps(sorted(map(str, material_ids))).encode()).hexdigest()


def official(table: pa.Table, name: str, material_ids: Ids) -> Split:
    """Return the published split of a property, from the table's column ``split_<property>``.

    Published splits are keyed by id. An id with rows in several parts (JARVIS has such) is in test, else in val: all
    test crystals are evaluated, and none is used for training.

    Args:
        table: The crystal table that the graphs were made of, with all its rows: ``jobs/ingest.py`` removes repeated
            ids, and with them the parts of the removed rows.
        name: The property.
        material_ids: ``(M,)`` ids of the crystals in the graphs.

    Raises:
        ValueError: If the table lacks the column, or a part of it is called otherwise.

    """
    return replace(by_column(table, SPLIT_PREFIX + name, material_ids), name=f"official:{name}")


def by_column(table: pa.Table, column: str, material_ids: Ids) -> Split:
    """Return the split in a column of the table: train, val, test or null; see :func:`official`.

    Raises:
        ValueError: If the table lacks the column, or a part of it is called otherwise.

    """
    parts = _parts_in(table, column)
    crystals = pc.index_in(table[MATERIAL_ID], value_set=pa.array(material_ids, pa.string()))
    has_graph = crystals.is_valid().to_numpy()
    _warn_missing(table, column, (parts == PARTS.index(TEST)) & ~has_graph)
    part = np.full(len(material_ids), -1)
    np.maximum.at(part, crystals.drop_null().to_numpy(), parts[has_graph])
    return _of_parts(f"column:{column}", material_ids, part)


def random(material_ids: Ids, *, seed: int = 0, fractions: Fractions = DEFAULT_FRACTIONS) -> Split:
    """Return a random split; crystals are assigned independently, so fractions hold on average.

    Raises:
        ValueError: If the fractions are invalid, or there are too few crystals for a part.

    """
    uniform = hash_uniform(map(str, material_ids), f"random/{seed}")
    return _by_fractions(f"random:seed={seed}", material_ids, uniform, fractions)


def grouped_by_composition(
    table: pa.Table, material_ids: Ids, *, seed: int = 0, fractions: Fractions = DEFAULT_FRACTIONS
) -> Split:
    """Return a random split in which no reduced formula is in two parts; fractions refer to formulas.

    Raises:
        ValueError: If the table lacks an id, the fractions are invalid, or there are too few formulas for a part.

    """
    compositions, which = reduced_compositions(_crystals(table, material_ids))
    uniform = hash_uniform((c.tobytes().hex() for c in compositions), f"composition/{seed}")[which]
    return _by_fractions(f"composition:seed={seed}", material_ids, uniform, fractions)


def held_out_elements(
    table: pa.Table, material_ids: Ids, elements: Sequence[str], *, seed: int = 0, val_fraction: float = 0.1
) -> Split:
    """Return the split with every crystal of the given elements in test; val is drawn from the others.

    Raises:
        ValueError: If a symbol is not an element, or a part has no crystal.

    """
    unknown = [symbol for symbol in elements if symbol not in SYMBOLS]
    if unknown or not elements:
        raise ValueError(f"elements to hold out must be symbols such as Fe; {', '.join(unknown) or 'none was given'}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must lie in [0, 1), got {val_fraction}")
    columns = [SYMBOLS.index(symbol) for symbol in elements]
    has_one = (element_counts(_crystals(table, material_ids))[:, columns] > 0).any(axis=1)
    in_val = hash_uniform(map(str, material_ids), f"held-out/{seed}") < val_fraction
    part = np.where(has_one, PARTS.index(TEST), np.where(in_val, PARTS.index(VAL), PARTS.index(TRAIN)))
    split = _of_parts(f"held_out:{','.join(sorted(set(elements)))}:seed={seed}", material_ids, part)
    return _require_parts(split, (1 - val_fraction, val_fraction, 1.0))


def train_fraction(split: Split, fraction: float, *, seed: int = 0) -> Split:
    """Return the split with a random fraction of its train crystals, for learning curves.

    With the same seed, a smaller fraction is a subset of a larger one.

    Raises:
        ValueError: If the fraction does not lie in (0, 1].

    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of train crystals must lie in (0, 1], got {fraction}")
    order = np.argsort(hash_uniform(map(str, split.ids(TRAIN)), f"fraction/{seed}"), kind="stable")
    chosen = split.train[np.sort(order[: max(1, round(fraction * len(order)))])]
    return replace(split, name=f"{split.name}:train={fraction:g}:seed={seed}", train=chosen)


@dataclass(frozen=True, kw_only=True)
class TwinFree:
    """Test crystals without a twin in the training set.

    Attributes:
        mask: ``(len(split.test),)`` bool, those without a twin among the train crystals.
        criteria: Criteria that define twins.

    """

    mask: Array
    criteria: tuple[str, ...]


def twin_free(table: pa.Table, split: Split, *, volume_tolerance: float = 0.03) -> TwinFree:
    """Mark the test crystals without a twin in train.

    Twins have the same reduced formula, number of atoms in the cell and space group, and the larger cell volume exceeds
    the smaller by at most ``volume_tolerance`` (relative). Without ``spacegroup_number`` in the table, the space group
    is ignored; ``criteria`` and a warning say so.

    Raises:
        ValueError: If the table lacks an id.

    """
    crystals = _crystals(table, split.material_ids)
    kinds = [reduced_compositions(crystals)[1], num_atoms(crystals)]
    criteria = ["reduced formula", "atoms in the cell", f"volume within {volume_tolerance:.0%}"]
    if SPACEGROUP_NUMBER in table.schema.names:
        kinds.append(np.asarray(crystals[SPACEGROUP_NUMBER].fill_null(0).to_numpy()))
        criteria.append("space group")
    else:
        logger.warning("twins are crystals of equal %s; the table has no %s", ", ".join(criteria), SPACEGROUP_NUMBER)
    kind = np.unique(np.stack(kinds, axis=1), axis=0, return_inverse=True)[1].ravel()
    # Kinds are further apart on one axis than volumes within a kind, so one sorted search finds all twins.
    with np.errstate(divide="ignore", invalid="ignore"):  # a cell without volume has no twin
        log_volume = np.log(cell_volumes(crystals))
        place = kind * (np.ptp(log_volume) + 1) + log_volume
    train, test, width = np.sort(place[split.train]), place[split.test], np.log1p(volume_tolerance)
    has_twin = np.searchsorted(train, test - width, "left") < np.searchsorted(train, test + width, "right")
    return TwinFree(mask=~has_twin, criteria=tuple(criteria))


def _crystals(table: pa.Table, material_ids: Ids) -> pa.Table:
    return table.take(pa.array(first_rows(table, material_ids)))


def reduced_compositions(crystals: pa.Table) -> tuple[Array, Array]:
    """Return the distinct reduced compositions ``(F,)`` as bytes, and the index of each crystal's one, ``(M,)``.

    They come from the atoms, not from the column ``formula``, which may have any content.
    """
    counts = element_counts(crystals)
    reduced = (counts // np.gcd.reduce(counts, axis=1, keepdims=True)).astype("<u2")
    rows = reduced.view(f"V{reduced.itemsize * reduced.shape[1]}").ravel()  # bytes sort much faster than rows
    return np.unique(rows, return_inverse=True)


def _parts_in(table: pa.Table, column: str) -> Array:
    """Return the position in :data:`PARTS` of each row's part, ``(R,)`` int64, -1 for null."""
    if column not in table.schema.names:
        has = [name for name in table.schema.names if name.startswith(SPLIT_PREFIX)]
        raise ValueError(
            f"the crystal table has no column {column}, so no such split; of splits it has "
            f"{', '.join(has) or 'none at all'}"
        )
    parts = pc.index_in(table[column], value_set=pa.array(PARTS))
    unknown = table[column].filter(pc.and_(parts.is_null(), table[column].is_valid()))
    if len(unknown):
        raise ValueError(f"column {column} holds {unknown[0].as_py()!r}; the parts are {', '.join(PARTS)}, or null")
    return np.asarray(parts.fill_null(-1).to_numpy())


def _warn_missing(table: pa.Table, column: str, rows: Array) -> None:
    missing = table[MATERIAL_ID].filter(pa.array(rows)).unique().to_pylist()
    if missing:
        logger.warning(
            "%d test crystals of %s have no graph and are left out, the first of them %s",
            len(missing),
            column,
            missing[0],
        )


def hash_uniform(names: Iterable[str], purpose: str) -> Array:
    """Return numbers in [0, 1) from a hash of purpose and name; cf. :func:`crysatom.graphs.shards.is_held_out`."""
    heads = b"".join(hashlib.sha256(f"{purpose}/{name}".encode()).digest()[:8] for name in names)
    return (np.frombuffer(heads, dtype=">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53


def _by_fractions(name: str, material_ids: Ids, uniform: Array, fractions: Fractions) -> Split:
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions of train, val and test must not be negative and add up to 1, got {fractions}")
    name = f"{name}:{'/'.join(f'{f:g}' for f in fractions)}"
    part = np.searchsorted(np.cumsum(fractions[:2]), uniform, side="right")
    return _require_parts(_of_parts(name, material_ids, part), fractions)


def _of_parts(name: str, material_ids: Ids, part: Array) -> Split:
    """Return the split in which crystal i is in part ``PARTS[part[i]]``, or in none if ``part[i]`` is -1."""
    members = {which: np.flatnonzero(part == number) for number, which in enumerate(PARTS)}
    return Split(name=name, material_ids=np.asarray(material_ids, dtype=object), **members)


def _require_parts(split: Split, fractions: Fractions) -> Split:
    for part, fraction in zip(PARTS, fractions, strict=True):
        if fraction > 0 and not len(getattr(split, part)):
            raise ValueError(
                f"split {split.name} of {len(split.material_ids)} crystals leaves none for {part}; "
                "take more crystals, other fractions or elements, or another seed"
            )
    return split
