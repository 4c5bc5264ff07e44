"""Text of a CIF: decode it, parse it by gemmi, and look up tags in any spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gemmi import cif

from crysatom.crystals.quarantine import Reason, Rejection, short

MAX_CIF_BYTES = 5_000_000
"""Limit on the file size; larger CIFs contain reflections or trajectories, not a crystal."""

COORDINATES = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")

OPERATION_TAGS = (
    *("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz"),
    *("_space_group_symop_operation_xyz_", "_symmetry_equiv_pos_as_xyz_"),
)
"""The last two are misspellings that some programs write."""

MAGNETIC_OPERATIONS = "_space_group_symop_magn_operation_xyz"
MAGNETIC_CENTERINGS = "_space_group_symop_magn_centering_xyz"

HERMANN_MAUGUIN_TAGS = (
    *("_space_group_name_h-m_alt", "_space_group_name_h-m_ref", "_space_group_name_h-m_full", "_space_group_name_h-m"),
    *("_symmetry_space_group_name_h-m", "_symmetry_space_group_name_h-m_full", "_symmetry_space_group_name_h-m_alt"),
)
HALL_TAGS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NUMBER_TAGS = ("_space_group_it_number", "_symmetry_int_tables_number")
SCHOENFLIES_TAGS = ("_space_group_name_schoenflies",)

SITE_TAGS = tuple(
    f"_atom_site_{name}"
    for name in (
        *("label", "type_symbol", "occupancy", "calc_flag", "attached_hydrogens"),
        *("disorder_group", "label_alt_id"),
    )
)
FORMULA_TAG, UNITS_TAG = "_chemical_formula_sum", "_cell_formula_units_z"
VOLUME_TAG, DENSITY_TAG = "_cell_volume", "_exptl_crystal_density_diffrn"
MODULATION_TAG = "_cell_modulation_dimension"

_KNOWN = frozenset(
    (
        *(*COORDINATES, *LENGTHS, *ANGLES, *OPERATION_TAGS, MAGNETIC_OPERATIONS, MAGNETIC_CENTERINGS),
        *(*HERMANN_MAUGUIN_TAGS, *HALL_TAGS, *NUMBER_TAGS, *SCHOENFLIES_TAGS, *SITE_TAGS),
        *(FORMULA_TAG, UNITS_TAG, VOLUME_TAG, DENSITY_TAG, MODULATION_TAG),
    )
)
"""Tags that are read from a block."""

_MINUS_AND_SPACES = dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"), "-") | dict.fromkeys(
    (*range(0x2000, 0x200C), 0xA0, 0x202F, 0x205F, 0x3000, 0xFEFF), " "
)
_OVERLINED = re.compile("([1-6])[\u0304\u0305]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PLACE = re.compile(r"^string:(\d+):\d+\(\d+\): ")
"""Prefix of gemmi's messages: line, column, byte."""

_HEADING = re.compile(rb"^[ \t]*data_", re.IGNORECASE | re.MULTILINE)

_CAPITALS = {"h-m": "H-M", "hall": "Hall", "_it_": "_IT_", "int_tables": "Int_Tables", "units_z": "units_Z"}
"""Capital letters in names of core CIF."""

NULL = ("", ".", "?")
"""Null values: missing, inapplicable, unknown."""


@dataclass(frozen=True)
class Column:
    """Values of a tag: one value outside of a loop, else a column of the loop with this number."""

    loop: int | None
    values: list[str]


class Block:
    """Tags of one data block by their names in core CIF.

    Names are lower-case, with ``_`` for the ``.`` of mmCIF and of the DDLm dictionaries: ``_cell.length_A`` is
    ``_cell_length_a``.
    """

    def __init__(self, block: cif.Block) -> None:
        self.name = block.name.strip()
        self._columns: dict[str, list[Column]] = {}
        for number, item in enumerate(block):
            if isinstance(pair := item.pair, tuple):
                self._add(pair[0], None, [pair[1]])
            elif (loop := item.loop) is not None:
                self._add_loop(number, loop)

    def _add_loop(self, number: int, loop: cif.Loop) -> None:
        tags = loop.tags
        wanted = [i for i, tag in enumerate(tags) if _core_name(tag) in _KNOWN]
        values = loop.values if wanted else []
        for i in wanted:
            self._add(tags[i], number, values[i :: len(tags)])

    def _add(self, tag: str, loop: int | None, values: list[str]) -> None:
        if (name := _core_name(tag)) in _KNOWN:
            self._columns.setdefault(name, []).append(Column(loop, [_unquoted(value) for value in values]))

    def column(self, name: str) -> Column | None:
        """Return the values of a tag; None if the block lacks it.

        Raises:
            Rejection: If the tag occurs twice with different values.

        """
        columns = self._columns.get(name)
        if columns is None:
            return None
        if any(column.values != columns[0].values for column in columns[1:]):
            raise Rejection(Reason.CONTRADICTION, f"{name} is given twice, with different values; keep the right one")
        return columns[0]

    def text(self, name: str) -> str | None:
        """Return the single value of a tag; None if it is missing, inapplicable or unknown.

        Raises:
            Rejection: If the tag has several values.

        """
        column = self.column(name)
        if column is None or all(value in NULL for value in column.values):
            return None
        if len(column.values) > 1:
            raise Rejection(Reason.CONTRADICTION, f"{name} has {len(column.values)} values; keep the right one")
        return column.values[0].strip()

    def first(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return the present tags among several, with their values."""
        return {name: text for name in names if (text := self.text(name)) is not None}

    @property
    def has_atoms(self) -> bool:
        """Whether the block has fractional coordinates."""
        return any(name in self._columns for name in COORDINATES)

    @property
    def has_cell(self) -> bool:
        """Whether the block has a cell length."""
        return any(name in self._columns for name in LENGTHS)


def spelled(name: str) -> str:
    """Return the name of a tag as core CIF spells it, for messages."""
    for small, large in _CAPITALS.items():
        name = name.replace(small, large)
    return name


def _core_name(tag: str) -> str:
    return tag.lower().replace(".", "_")


def _unquoted(value: str) -> str:
    return cif.as_string(value) if value[:1] in {"'", '"', ";"} else value


def decode(content: bytes) -> str:
    """Return the text of a CIF in ASCII: Unicode minus signs and spaces become ASCII, other characters ``~``.

    Raises:
        Rejection: If it is empty, too large or binary.

    """
    if len(content) > MAX_CIF_BYTES:
        message = (
            f"the file has more than {MAX_CIF_BYTES // 1_000_000} MB, the limit for a CIF; remove "
            "reflection data, or use JSON or Parquet"
        )
        raise Rejection(Reason.TOO_LARGE, message)
    if not content.strip():
        raise Rejection(Reason.UNREADABLE, "the file is empty; download or write it again")
    try:
        text = content.decode("utf-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        raise Rejection(Reason.UNREADABLE, "the file is binary, not the text of a CIF; was it compressed or renamed?")
    if not text.isascii():
        text = _OVERLINED.sub(r"-\1", text.translate(_MINUS_AND_SPACES))
        text = _NOT_ASCII.sub("~", text)
    return _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


def read_blocks(text: str) -> list[tuple[Block, cif.Block]]:
    """Return the data blocks of a CIF, each as our and as gemmi's object.

    Raises:
        Rejection: If the text is not a CIF, with the position of the error.

    """
    try:
        document = cif.read_string(text, 0)
    except (ValueError, RuntimeError) as error:
        if _HEADING.search(text.encode()) is None:
            raise Rejection(
                Reason.UNREADABLE, "not a CIF, it has no data_ block; is it a web page or another format?"
            ) from error
        where = _PLACE.sub(r"line \1: ", short(error))
        message = f"the grammar of CIF is broken ({where}); correct the file, with the help of a CIF validator"
        raise Rejection(Reason.UNREADABLE, message) from error
    return [(Block(block), block) for block in document]


def structure_block(text: str) -> tuple[Block, tuple[str, ...]]:
    """Return the block of the only crystal in a CIF, and notes on its other blocks.

    Raises:
        Rejection: If there is none, or more than one.

    """
    blocks = [block for block, _ in read_blocks(text)]
    with_atoms = [block for block in blocks if block.has_atoms]
    if len(with_atoms) > 1:
        message = f"the file holds {len(with_atoms)} structures; write each to a file of its own"
        raise Rejection(Reason.SEVERAL_STRUCTURES, message)
    if not with_atoms:
        message = f"no atoms: the CIF lacks {', '.join(COORDINATES)}; export it with fractional coordinates"
        raise Rejection(Reason.EMPTY, message)
    left_out = [short(block.name, 60) for block in blocks if block.has_cell and not block.has_atoms]
    notes = (f"data blocks without atoms were left out: {', '.join(left_out[:3])}",) if left_out else ()
    return with_atoms[0], notes


def split_structures(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the text of each data block with a crystal, if there are several; else nothing.

    A block with a cell but no atoms counts, so that it is recorded as read.
    """
    if sum(1 for _ in zip(_HEADING.finditer(content), range(2), strict=False)) < 2:
        return
    try:
        blocks = read_blocks(decode(content))
    except Rejection:
        return  # the parser reports the reason
    if sum(block.has_atoms for block, _ in blocks) < 2:
        return
    for block, original in blocks:
        if block.has_atoms or block.has_cell:
            document = cif.Document()
            document.add_copied_block(original)
            yield block.name, document.as_string().encode()
