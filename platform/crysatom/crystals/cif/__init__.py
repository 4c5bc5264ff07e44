"""CIF: from the text of a file to the atoms of a cell. gemmi provides grammar and space groups; nothing is guessed.

``text``: from gemmi's document to the tags that describe a crystal; ``sites``: the listed atoms; ``operations`` and
``spacegroups``: their symmetry; ``orbits``: all atoms of the cell; ``content``: formula, Z, volume and density, which
must agree with the atoms; ``read``: all of these in turn.
"""

from crysatom.crystals.cif.read import CifCrystal, parse_cif
from crysatom.crystals.cif.text import MAX_CIF_BYTES, split_structures

__all__ = ["MAX_CIF_BYTES", "CifCrystal", "parse_cif", "split_structures"]
