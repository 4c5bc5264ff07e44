"""Quarantine: every input that did not become a crystal, with its id, source, reason and advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from crysatom.names import DETAIL, MATERIAL_ID, REASON, SOURCE

QUARANTINE_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in (MATERIAL_ID, SOURCE, REASON, DETAIL)]
)
"""Columns of quarantine.parquet."""


class Reason(StrEnum):
    """Machine-readable reason of a rejection."""

    UNREADABLE = "unreadable"
    EMPTY = "empty"
    SEVERAL_STRUCTURES = "several_structures"
    NO_LATTICE = "no_lattice"
    NOT_PERIODIC = "not_periodic"
    NAN_LATTICE = "nan_lattice"
    ZERO_VOLUME = "zero_volume"
    ABSURD_VOLUME = "absurd_volume"
    NAN_COORDINATES = "nan_coordinates"
    ABSURD_COORDINATES = "absurd_coordinates"
    OVERLAPPING_ATOMS = "overlapping_atoms"
    DISORDERED = "disordered"
    IMPLICIT_HYDROGENS = "implicit_hydrogens"
    UNKNOWN_SPECIES = "unknown_species"
    FORMULA_MISMATCH = "formula_mismatch"
    SYMMETRY = "symmetry"
    CONTRADICTION = "contradiction"
    TOO_LARGE = "too_large"
    MISSING_ID = "missing_id"
    DUPLICATE_ID = "duplicate_id"
    MISSING_FILE = "missing_file"
    UNLISTED_FILE = "unlisted_file"
    NO_VECTOR = "no_vector"
    NOT_FINITE = "not_finite"


class Rejection(ValueError):  # noqa: N818 - a verdict on an input, not an error of the program
    """Raised for an input that cannot become a crystal; recorded where its source is known."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Store the reason and the message, which says what is wrong and what to do."""
        super().__init__(message)
        self.reason = reason


def short(what: object, limit: int = 160) -> str:
    """Return a text on one line, truncated: file contents and parser messages may have any length."""
    text = " ".join(str(what).split())
    return text if len(text) <= limit else text[:limit] + "..."


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Row of the quarantine.

    Attributes:
        material_id: Identifier the crystal would have had.
        source: File, or file and position in it, or database entry.
        reason: A value of :class:`Reason`.
        detail: Sentence for the user: where, what, and what to do.

    """

    material_id: str
    source: str
    reason: str
    detail: str

    @classmethod
    def because(cls, rejection: Rejection, *, material_id: str, source: str) -> Rejected:
        """Return the row for a rejected input from ``source``."""
        return cls(
            material_id=material_id,
            source=source,
            reason=str(rejection.reason),
            detail=f"{short(source, 1000)}: {short(rejection, 1000)}",
        )


def quarantine_table(rejected: Iterable[Rejected]) -> pa.Table:
    """Return the rows as a table with :data:`QUARANTINE_SCHEMA`."""
    rows = [{MATERIAL_ID: r.material_id, SOURCE: r.source, REASON: r.reason, DETAIL: r.detail} for r in rejected]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


class FirstOfEachId:
    """Keeps the first accepted input of each id: remembers used ids and their sources."""

    def __init__(self) -> None:
        self._origin: dict[str, str] = {}

    def claim(self, material_id: str, source: str) -> Rejected | None:
        """Claim an id; return a row of the quarantine if another input already has it."""
        if material_id not in self._origin:
            self._origin[material_id] = source
            return None
        message = (
            f"its id {material_id} was already read from {self._origin[material_id]}, which is kept; "
            "give one of them another id"
        )
        return Rejected.because(Rejection(Reason.DUPLICATE_ID, message), material_id=material_id, source=source)

    def __len__(self) -> int:
        return len(self._origin)


def describe_reasons(reasons: Mapping[str, int]) -> str:
    """Return the counts as aligned lines of text, one per reason."""
    return "\n".join(f"  {count:>8,}  {reason}" for reason, count in reasons.items())
