"""Space groups by name: all settings to which a CIF's Hermann-Mauguin name, Hall symbol or number may refer.

gemmi's table has the settings (International Tables B, 2010, Table A1.4.2.7, and others), spglib's the full names.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
import spglib
from numpy.typing import NDArray

from crysatom.crystals.cif.operations import Operations
from crysatom.crystals.cif.text import (
    HALL_TAGS,
    HERMANN_MAUGUIN_TAGS,
    NUMBER_TAGS,
    SCHOENFLIES_TAGS,
    Block,
    spelled,
)
from crysatom.crystals.quarantine import Reason, Rejection, short

SETTINGS = 530
"""Number of settings in spglib's table."""

_MARKUP = re.compile(r"</?su[bp]>|[~_'\"{}$\\]|\s")
_NUMBER = re.compile(r"(?<!\d)\((?:no\.?|#)?\s*\d{1,3}\)", re.IGNORECASE)
"""Number of International Tables, after a name."""

_SCREW = re.compile(r"(\d)\((\d)\)")
_MONOCLINIC = re.compile(r"(?P<lattice>[A-Z]) (?:1 (?P<b>\S+) 1|1 1 (?P<c>\S+)|(?P<a>\S+) 1 1)")
_MONOCLINIC_NUMBERS, _CUBIC = range(3, 16), range(195, 231)

_ICSD_ORIGINS = {"S": "1", "Z": "2"}
"""ICSD's letters for the two origins."""


@dataclass(frozen=True)
class Setting:
    """Setting of a space group.

    Attributes:
        name: Extended Hermann-Mauguin name, ``F d -3 m:2``.
        number: Number of International Tables, 1 to 230.
        hall: Hall symbol, which defines the operations.

    """

    name: str
    number: int
    hall: str

    @property
    def operations(self) -> Operations:
        """Operations of the setting."""
        return hall_operations(self.hall)

    @property
    def has_unique_axis_b(self) -> bool:
        """Whether this is the monoclinic setting to which the short name refers by convention."""
        match = _MONOCLINIC.fullmatch(self.name)
        return match is not None and match["b"] is not None


@lru_cache(maxsize=1024)
def hall_operations(hall: str) -> Operations:
    """Return the operations of a Hall symbol.

    Raises:
        ValueError: If it is not a Hall symbol.

    """
    try:
        operations = list(gemmi.symops_from_hall(hall))
    except RuntimeError as error:
        raise ValueError(f"{hall!r} is not a Hall symbol") from error
    rotations = np.array([op.rot for op in operations], dtype=np.int64) // gemmi.Op.DEN
    return Operations(rotations, np.array([op.tran for op in operations]) / gemmi.Op.DEN % 1)


def named_settings(block: Block, lattice: NDArray[np.float64]) -> list[Setting] | None:
    """Return the possible settings of a CIF that lists no operations; they fit its cell.

    All given tags must agree. A short monoclinic name (``P 21/c``) has the unique axis b unless the cell contradicts.

    Args:
        block: Data block of the CIF.
        lattice: ``(3, 3)``, rows a, b, c.

    Returns:
        At least one setting; None if the CIF has no symmetry information.

    Raises:
        Rejection: If a name is unknown, the names contradict each other, or no setting fits the cell.

    """
    given = block.first((*HALL_TAGS, *HERMANN_MAUGUIN_TAGS, *NUMBER_TAGS, *SCHOENFLIES_TAGS))
    if not given:
        return None
    meant = [settings for tag, text in given.items() if (settings := _meant(tag, text)) is not None]
    declared = ", ".join(f"{spelled(tag)} {short(text, 40)!r}" for tag, text in given.items())
    if not meant:
        raise Rejection(Reason.SYMMETRY, f"{declared} alone does not determine the symmetry operations; add them")
    common = [setting for setting in meant[0] if all(setting in settings for settings in meant[1:])]
    if not common:
        raise Rejection(Reason.CONTRADICTION, f"{declared} are different space groups; add the symmetry operations")
    fitting = [setting for setting in common if setting.operations.fit(lattice)]
    if not fitting:
        raise Rejection(
            Reason.CONTRADICTION,
            f"the cell does not have the symmetry of {declared}; correct one, or add the operations",
        )
    usual = [setting for setting in fitting if setting.has_unique_axis_b]
    return usual or fitting


def _meant(tag: str, text: str) -> list[Setting] | None:
    """Return the settings to which a value may refer; None if it does not restrict them.

    Raises:
        Rejection: If it refers to none.

    """
    if tag in SCHOENFLIES_TAGS:
        return None
    if tag in NUMBER_TAGS:
        found = [s for s in _table() if text.isdecimal() and s.number == int(text)]
    elif tag in HALL_TAGS:
        found = _by_hall(text)
    else:
        found = [_table()[i] for i in _by_name().get(_key(text), ())]
    if not found:
        raise Rejection(
            Reason.SYMMETRY,
            f"{spelled(tag)} {short(text)!r} is not a known space group; add the symmetry operations",
        )
    return found


def _by_hall(text: str) -> list[Setting]:
    try:
        wanted = _fingerprint(" ".join(text.replace("_", " ").split()))
    except ValueError:
        return []
    return [s for s in _table() if _fingerprint(s.hall) == wanted] or [_unlisted(text)]


def _unlisted(hall: str) -> Setting:
    """Return a setting that is in no table: a Hall symbol with a change of axes."""
    group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
    return Setting(f"Hall {hall}", group.number if group else 0, hall)


@lru_cache(maxsize=2048)
def _fingerprint(hall: str) -> frozenset[tuple[int, ...]]:
    group = hall_operations(hall)
    shifts = np.rint(group.translations * gemmi.Op.DEN).astype(np.int64) % gemmi.Op.DEN
    return frozenset(map(tuple, np.hstack([group.rotations.reshape(-1, 9), shifts]).tolist()))


@lru_cache(maxsize=1)
def _table() -> tuple[Setting, ...]:
    """Return all settings with distinct operations."""
    settings: dict[frozenset[tuple[int, ...]], Setting] = {}
    for group in gemmi.spacegroup_table():
        settings.setdefault(_fingerprint(group.hall), Setting(group.xhm(), group.number, group.hall))
    return tuple(settings.values())


@lru_cache(maxsize=1)
def _by_name() -> dict[str, tuple[int, ...]]:
    """Return, by the key of a name, the table positions of the settings to which it may refer."""
    place = {_fingerprint(setting.hall): i for i, setting in enumerate(_table())}
    found: dict[str, set[int]] = defaultdict(set)
    for group in gemmi.spacegroup_table():
        extension = group.qualifier if group.ext == "\0" else group.ext
        short = {group.short_name()} if group.number not in _MONOCLINIC_NUMBERS else set()
        for name in _spellings(group.hm, group.number, extension) | short:
            found[_key(name)].add(place[_fingerprint(group.hall)])
    for kind in _full_names():
        if (i := place.get(_fingerprint(kind.hall_symbol))) is not None:
            extension = kind.choice if kind.choice in {"1", "2", "H", "R"} else ""
            full = kind.international_full
            for name in {full, _without_e(full, _table()[i].name), _short_name(kind)}:
                for spelling in _spellings(name, kind.number, extension):
                    found[_key(spelling)].add(i)
    return {name: tuple(sorted(places)) for name, places in found.items()}


def _full_names() -> list[spglib.SpaceGroupType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on error handling in spglib 3
        return [kind for i in range(1, SETTINGS + 1) if (kind := spglib.get_spacegroup_type(i)) is not None]


def _without_e(full: str, name: str) -> str:
    """Return a full name as written before the symbol e for glide planes; its letter comes from another name."""
    parts = list(zip(full.split(), name.partition(":")[0].split(), strict=False))
    return " ".join(new[:-1] + old[-1] if new.endswith("e") else new for new, old in parts)


def _short_name(kind: spglib.SpaceGroupType) -> str:
    """Return the short name of a setting; for monoclinic ones, spglib's is that of the standard setting."""
    match = _MONOCLINIC.fullmatch(kind.international_full)
    return f"{match['lattice']}{match['a'] or match['b'] or match['c']}" if match else kind.international_short


def _spellings(name: str, number: int, extension: str) -> set[str]:
    """Return a name with and without its extension, and as written before 1935 (``F m 3 m``)."""
    names = {name, name.replace("-3", "3")} if number in _CUBIC else {name}
    endings = {"", f":{extension}"} if extension else {""}
    if extension in {"H", "R"}:
        endings.add(extension)
    endings |= {letter for letter, origin in _ICSD_ORIGINS.items() if origin == extension}
    return {f"{each}{ending}" for each in names for ending in endings}


def _key(name: str) -> str:
    """Return a key that is equal for all spellings of a name: ``P 2(1)/c``, ``P2_1/c``, ``p 21/c``."""
    return _SCREW.sub(r"\1\2", _NUMBER.sub("", _MARKUP.sub("", name))).lower()
