"""CIF: from the text of a file to the atoms of a cell. gemmi knows grammar and space groups; nothing is guessed.

``text`` gemmi's document -> the tags that say what a crystal is; ``sites`` which atoms are listed; ``operations`` and
``spacegroups`` how they are repeated; ``orbits`` all atoms of the cell; ``content`` formula, Z, volume and density,
which must agree with them; ``read`` all of these in turn.
"""

from crysatom.crystals.cif.read import CifCrystal, parse_cif
from crysatom.crystals.cif.text import MAX_CIF_BYTES, split_structures

__all__ = ["MAX_CIF_BYTES", "CifCrystal", "parse_cif", "split_structures"]
