"""CIFs that some readers get wrong, with the correct values or the reason of their rejection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysatom.config import Limits
from crysatom.crystals.cif import CifCrystal
from crysatom.crystals.derived_columns import GRAMS_PER_CM3, atomic_masses
from crysatom.crystals.quarantine import Reason

LIMITS = Limits(max_atoms=500, min_distance=0.5)
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
NACL = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"
ROCK_SALT = (5.64, 5.64, 5.64, 90, 90, 90)
FACE_CENTERED = ("x,y,z", "x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "x+1/2,y+1/2,z")


def cif(
    sites: str = NACL,
    extra: str = "",
    *,
    cell: tuple[float, ...] = ROCK_SALT,
    columns: tuple[str, ...] = COLUMNS,
    prefix: str = "_",
) -> str:
    names = ["length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"]
    lines = ["data_a", *(f"_cell_{name} {value}" for name, value in zip(names, cell, strict=True)), extra, "loop_"]
    return "\n".join([*lines, *(f"{prefix}atom_site_{name}" for name in columns), sites])


def operations(*texts: str, tag: str = "_symmetry_equiv_pos_as_xyz") -> str:
    return "\n".join(["loop_", tag, *(f"'{text}'" for text in texts)])


def named(name: str, *further: str) -> str:
    return "\n".join([f"_symmetry_space_group_name_H-M '{name}'", *further])


def number(z: int) -> str:
    return f"_symmetry_Int_Tables_number {z}"


def units(formula: str, z: int) -> str:
    return f"_chemical_formula_sum '{formula}'\n_cell_formula_units_Z {z}"


def density(crystal: CifCrystal) -> float:
    mass = atomic_masses()[crystal.atomic_numbers - 1].sum()
    return float(GRAMS_PER_CM3 * mass / abs(np.linalg.det(crystal.lattice)))


class Read(NamedTuple):
    title: str
    text: str
    num_atoms: int
    density: float
    note: str = ""


SI = (5.431, 5.431, 5.431, 90, 90, 90)
BI = (4.746, 4.746, 4.746, 57.23, 57.23, 57.23)
BI_HEXAGONAL = (4.5457, 4.5457, 11.862, 90, 90, 120)
HELD = (
    Read(
        "origin 2 by Z and formula",
        cif("Si1 Si 0.125 0.125 0.125", named("F d -3 m", units("Si", 8)), cell=SI),
        8,
        2.329,
        "F d -3 m:2",
    ),
    Read(
        "origin 1 by Z and formula",
        cif("Si1 Si 0 0 0", named("F d -3 m", units("Si", 8)), cell=SI),
        8,
        2.329,
        "F d -3 m:1",
    ),
    Read("origin in the name", cif("Si1 Si 0.125 0.125 0.125", named("F d -3 m :2", number(227)), cell=SI), 8, 2.329),
    Read("origin by ICSD's letter", cif("Si1 Si 0.125 0.125 0.125", named("F d -3 m Z"), cell=SI), 8, 2.329),
    Read("origin by ICSD's other letter", cif("Si1 Si 0 0 0", named("F d -3 m S"), cell=SI), 8, 2.329),
    Read(
        "origin by Hall symbol",
        cif("Si1 Si 0.125 0.125 0.125", "_symmetry_space_group_name_Hall '-F 4vw 2vw 3'", cell=SI),
        8,
        2.329,
    ),
    Read(
        "Hall symbol beside an ambiguous name",
        cif("Si1 Si 0 0 0", named("F d -3 m", "_symmetry_space_group_name_Hall 'F 4d 2 3 -1d'"), cell=SI),
        8,
        2.329,
    ),
    Read("rhombohedral axes by the cell", cif("Bi1 Bi 0.234 0.234 0.234", named("R -3 m"), cell=BI), 2, 9.81),
    Read("hexagonal axes by the cell", cif("Bi1 Bi 0 0 0.234", named("R -3 m"), cell=BI_HEXAGONAL), 6, 9.81),
    Read("hexagonal axes in the name", cif("Bi1 Bi 0 0 0.234", named("R -3 m H"), cell=BI_HEXAGONAL), 6, 9.81),
    Read("old name", cif(extra=named("F m 3 m")), 8, 2.164),
    Read("full name", cif(extra=named("F 4/m -3 2/m")), 8, 2.164),
    Read("name without spaces", cif(extra=named("Fm-3m")), 8, 2.164),
    Read("name in capitals", cif(extra=named("FM-3M")), 8, 2.164),
    Read("name with an overline", cif(extra=named("F m 3\u0305 m")), 8, 2.164),
    Read(
        "short name of a cell with right angles",
        cif("Na1 Na 0.1 0.2 0.3", named("P 21/c"), cell=(5, 6, 7, 90, 90, 90)),
        4,
        0.727,
    ),
    Read(
        "full name from before the glide plane e",
        cif("Na1 Na 0.1 0.2 0.3", named("C 2/m 2/c 21/a"), cell=(5, 6, 7, 90, 90, 90)),
        16,
        2.909,
    ),
    Read(
        "name with the glide plane e",
        cif("Na1 Na 0.1 0.2 0.3", named("C m c e"), cell=(5, 6, 7, 90, 90, 90)),
        16,
        2.909,
    ),
    Read("name with its number", cif(extra=named("F m -3 m (No. 225)")), 8, 2.164),
    Read(
        "name with the choice of a cell",
        cif("Na1 Na 0.1 0.2 0.3", named("P 1 21/c 1 :b1"), cell=(5, 6, 7, 90, 100, 90)),
        4,
        0.738,
    ),
    Read(
        "formula that cannot be read",
        cif(extra="_chemical_formula_sum NACL"),
        2,
        0.541,
        "could not be read and was not compared: 'NACL'",
    ),
    Read("name of reference", cif(extra="_space_group_name_H-M_ref 'F m -3 m'"), 8, 2.164),
    Read("name alternative", cif(extra="_space_group_name_H-M_alt 'F m -3 m'"), 8, 2.164),
    Read("number of one setting", cif(extra=number(225)), 8, 2.164),
    Read("dotted number", cif(extra="_space_group.IT_number 225"), 8, 2.164),
    Read("dotted operations", cif(extra=operations(*FACE_CENTERED, tag="_space_group_symop.operation_xyz")), 8, 2.164),
    Read("operations before a name of more", cif(extra=operations("x,y,z") + "\n" + named("F m -3 m")), 2, 0.541),
    Read("unknown operations beside a name", cif(extra="_symmetry_equiv_pos_as_xyz ?\n" + named("F m -3 m")), 8, 2.164),
    Read("one operation that is not in a loop", cif(extra="_symmetry_equiv_pos_as_xyz 'x,y,z'"), 2, 0.541),
    Read(
        "minus signs of Unicode",
        cif("Na1 Na 0.1 0.2 0.3\nCl1 Cl 0.4 0.35 0.15", operations("x,y,z", "\u2212x,\u2212y,\u2212z")),
        4,
        1.082,
    ),
    Read(
        "decimals of thirds",
        cif("Na1 Na 0.1 0 0.1\nCl1 Cl 0.6 0 0.1", operations("x,y,z", "x,y,z+0.3333", "x,y,z+.66667")),
        6,
        1.623,
    ),
    Read(
        "magnetic operations",
        cif(
            extra=operations("x,y,z,+1", "-x,-y,-z,-1", tag="_space_group_symop_magn_operation.xyz")
            + "\n"
            + operations("x,y,z,+1", "x+1/2,y+1/2,z,-1", tag="_space_group_symop_magn_centering.xyz")
        ),
        4,
        1.082,
    ),
    Read(
        "occupancy by default", cif("Na1 Na 0 0 0 .\nCl1 Cl 0.5 0.5 0.5 .", columns=(*COLUMNS, "occupancy")), 2, 0.541
    ),
    Read(
        "unknown occupancy that Z confirms",
        cif("Na1 Na 0 0 0 ?\nCl1 Cl 0.5 0.5 0.5 1", units("Na Cl", 1), columns=(*COLUMNS, "occupancy")),
        2,
        0.541,
    ),
    Read(
        "dummy atom",
        cif("Na1 Na 0 0 0 d\nX1 C 0.3 0.3 0.3 dum\nCl1 Cl 0.5 0.5 0.5 d", columns=(*COLUMNS, "calc_flag")),
        2,
        0.541,
        "dummy atoms (calc_flag dum) were left out: 1",
    ),
    Read("capitals", cif().upper().replace("NA1 NA", "Na1 Na").replace("CL1 CL", "Cl1 Cl"), 2, 0.541),
    Read("symbols in capitals", cif("NA1 NA 0 0 0\nCL1 CL 0.5 0.5 0.5"), 2, 0.541),
    Read("dots", cif().replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site."), 2, 0.541),
    Read(
        "text field with a data_ line", cif(extra="_refine_special_details\n;\ndata_ reduction was done\n;"), 2, 0.541
    ),
    Read("text field with an old structure", cif(extra="_note\n;\n_atom_site_fract_x\nloop_\n;"), 2, 0.541),
    Read(
        "single atom that is not in a loop",
        cif().split("loop_")[0]
        + "_atom_site_label Po1\n_atom_site_fract_x 0\n_atom_site_fract_y 0\n_atom_site_fract_z 0",
        1,
        1.944,
    ),
    Read("elements by label", cif("Na1 ? 0 0 0\nCl1 . 0.5 0.5 0.5"), 2, 0.541),
    Read(
        "charges and isotopes",
        cif("Na1 Na1+ 0 0 0\nD1 2H 0.5 0.5 0.5\nO1 O2- 0.5 0 0\nC1 Cval 0 0.5 0\nFe1 Fe+3 0 0 0.5"),
        5,
        0.998,
    ),
    Read(
        "deuterium by label, by the formula",
        cif("D1 0.5 0.5 0.5\nO1 0 0 0", "_chemical_formula_sum 'D O'", columns=("label", *COLUMNS[2:])),
        2,
        0.157,
    ),
    Read("spaces of Unicode", cif().replace(" 5.64", "\u00a0 5.64"), 2, 0.541),
    Read("a name with letters of other languages", cif(extra="_publ_author_name M\u00fcller"), 2, 0.541),
    Read("powder pattern", cif().replace("data_a", "data_powder_pattern"), 2, 0.541),
    Read("end of file of DOS", cif() + "\x1a", 2, 0.541),
    Read("lines of Macintosh", cif().replace("\n", "\r"), 2, 0.541),
    Read(
        "rounded coordinates of a special position",
        cif(
            "Na1 Na 0.333 0.667 0\nCl1 Cl 0 0 0.5",
            operations("x,y,z", "-y,x-y,z", "-x+y,-x,z"),
            cell=(4, 4, 6, 90, 90, 120),
        ),
        2,
        1.167,
        "special positions: 1 sites, moved by at most 0.00",
    ),
    Read(
        "coordinates cut off",
        cif("Cs1 Cs 0 0 0\nCl1 Cl 0.4999 0.4999 0.4999", named("P m -3 m"), cell=(4, 4, 4, 90, 90, 90)),
        2,
        4.368,
        "moved by at most 0.0007",
    ),
    Read("pymatgen's Z of the formula of a whole cell", cif(extra=units("Na1 Cl1", 1)), 2, 0.541),
    Read("pymatgen's Z of a cell of one nitrogen", cif("N1 N 0 0 0", units("N1", 0)), 1, 0.130),
    Read(
        "pymatgen's Z of a peroxide",
        cif("Li1 Li 0 0 0\nLi2 Li 0.5 0 0\nO1 O 0 0.5 0\nO2 O 0 0 0.5", units("Li2 O2", 1)),
        4,
        0.425,
    ),
    Read(
        "cell of another block",
        cif() + "\ndata_powder\n_cell_length_a 5\n",
        2,
        0.541,
        "data blocks without atoms were left out: powder",
    ),
)


class Refused(NamedTuple):
    title: str
    text: str
    reason: Reason
    said: str


REFUSED = (
    Refused(
        "two origins, no Z",
        cif("Si1 Si 0.1 0.1 0.1", named("F d -3 m"), cell=SI),
        Reason.SYMMETRY,
        "F d -3 m:1 or F d -3 m:2",
    ),
    Refused(
        "Z of neither origin",
        cif("Si1 Si 0.1 0.1 0.1", named("F d -3 m", units("Si", 8)), cell=SI),
        Reason.FORMULA_MISMATCH,
        "mean 8 atoms",
    ),
    Refused(
        "number of several settings",
        cif(extra=number(14), cell=(5, 6, 7, 90, 100, 90)),
        Reason.SYMMETRY,
        "P 1 21/c 1 or P 1 21/n 1",
    ),
    Refused(
        "name against number", cif(extra=named("F m -3 m", number(227))), Reason.CONTRADICTION, "different space groups"
    ),
    Refused(
        "name against Hall symbol",
        cif(extra=named("F m -3 m", "_space_group_name_Hall 'P 1'")),
        Reason.CONTRADICTION,
        "different",
    ),
    Refused(
        "name that is not known",
        cif(extra=named("F m 5 m", number(225))),
        Reason.SYMMETRY,
        "'F m 5 m' is not a known space group",
    ),
    Refused(
        "Hall symbol that is none",
        cif(extra="_space_group_name_Hall 'zzz'"),
        Reason.SYMMETRY,
        "not a known space group",
    ),
    Refused("Schoenflies symbol alone", cif(extra="_space_group_name_Schoenflies 'Oh.5'"), Reason.SYMMETRY, "add them"),
    Refused(
        "name against cell",
        cif(extra=named("F m -3 m"), cell=(5.64, 5.64, 6, 90, 90, 90)),
        Reason.CONTRADICTION,
        "does not have the symmetry",
    ),
    Refused(
        "operations against cell",
        cif(extra=operations("x,y,z", "y,x,z"), cell=(5, 6, 7, 90, 90, 90)),
        Reason.CONTRADICTION,
        "do not keep",
    ),
    Refused("letter that is none", cif(extra=operations("x,y,z", "x+1/2,u+1/2,z")), Reason.SYMMETRY, "u+1/2"),
    Refused(
        "dot among operations", cif(extra=operations("x,y,z", ".")), Reason.SYMMETRY, "'.' is not a symmetry operation"
    ),
    Refused("scaling", cif(extra=operations("x,y,z", "2x,y,z")), Reason.SYMMETRY, "2x"),
    Refused("half rotation", cif(extra=operations("x,y,z", "1/2*x,y,z")), Reason.SYMMETRY, "1/2*x"),
    Refused(
        "translation of no space group",
        cif(extra=operations("x,y,z", "-x+123/662,y,z")),
        Reason.SYMMETRY,
        "within a tolerance",
    ),
    Refused(
        "images nearly at one place",
        cif("U1 U 0 0 0.00440000", operations("x,y,z", "x,y,-z")),
        Reason.OVERLAPPING_ATOMS,
        "nearer than atoms can be",
    ),
    Refused("two components", cif(extra=operations("x,y")), Reason.SYMMETRY, "x,y"),
    Refused("division by zero", cif(extra=operations("x+1/0,y,z")), Reason.SYMMETRY, "1/0"),
    Refused("missing product", cif(extra=operations("x,y,z", "-x,y,z", "x,-y,z")), Reason.SYMMETRY, "not form a group"),
    Refused("missing identity", cif(extra=operations("-x,-y,-z")), Reason.SYMMETRY, "not form a group"),
    Refused("shear without end", cif(extra=operations("x,y,z", "x+y,y,z")), Reason.SYMMETRY, "not form a group"),
    Refused(
        "two lists of operations",
        cif(extra=operations("x,y,z") + "\n" + operations("x,y,z", "-x,-y,-z", tag="_space_group_symop_operation_xyz")),
        Reason.CONTRADICTION,
        "different operations",
    ),
    Refused("Z against sites", cif(extra=units("Na Cl", 4)), Reason.FORMULA_MISMATCH, "mean 8 atoms"),
    Refused(
        "element of the formula only", cif(extra="_chemical_formula_sum 'Na300 Cl300 H'"), Reason.FORMULA_MISMATCH, "H"
    ),
    Refused("element of the sites only", cif(extra="_chemical_formula_sum 'Na'"), Reason.FORMULA_MISMATCH, "100.0% Na"),
    Refused("volume", cif(extra="_cell_volume 190"), Reason.CONTRADICTION, "_cell_volume is 190"),
    Refused("density", cif(extra="_exptl_crystal_density_diffrn 2.16"), Reason.CONTRADICTION, "2.16 g/cm^3"),
    Refused(
        "density that matter does not have",
        cif("Os1 Os 0.1 0.2 0.3", named("F m -3 m")),
        Reason.CONTRADICTION,
        "g/cm^3, more than",
    ),
    Refused("negative Z", cif(extra=units("Na Cl", -1)), Reason.CONTRADICTION, "_cell_formula_units_Z is -1"),
    Refused("dot in a coordinate", cif("Na1 Na . 0 0"), Reason.UNREADABLE, "_atom_site_fract_x of site 1 is '.'"),
    Refused(
        "question mark in a coordinate", cif("Na1 Na 0 ? 0"), Reason.UNREADABLE, "_atom_site_fract_y of site 1 is '?'"
    ),
    Refused("fraction in a coordinate", cif("Na1 Na 1/3 0 0"), Reason.UNREADABLE, "'1/3'"),
    Refused("comma in a coordinate", cif("Na1 Na 0,5 0 0"), Reason.UNREADABLE, "'0,5'"),
    Refused(
        "unknown occupancy",
        cif("Na1 Na 0 0 0 ?", columns=(*COLUMNS, "occupancy")),
        Reason.DISORDERED,
        "occupancy is unknown",
    ),
    Refused("two elements", cif("M1 Fe/Mn 0 0 0"), Reason.UNKNOWN_SPECIES, "Fe/Mn"),
    Refused("two elements with shares", cif("M1 Fe0.5Mn0.5 0 0 0"), Reason.UNKNOWN_SPECIES, "Fe0.5Mn0.5"),
    Refused("vacancy", cif("V1 Va 0 0 0"), Reason.UNKNOWN_SPECIES, "Va"),
    Refused(
        "tetrahedral site",
        cif("T1 0 0 0\nO1 0.5 0.5 0.5", columns=("label", *COLUMNS[2:])),
        Reason.UNKNOWN_SPECIES,
        "D or T",
    ),
    Refused("metal site", cif("M1 0 0 0", columns=("label", *COLUMNS[2:])), Reason.UNKNOWN_SPECIES, "'M1'"),
    Refused("no label", cif("0 0 0", columns=COLUMNS[2:]), Reason.UNKNOWN_SPECIES, "neither"),
    Refused(
        "attached hydrogens",
        cif("C1 C 0 0 0 3", columns=(*COLUMNS, "attached_hydrogens")),
        Reason.IMPLICIT_HYDROGENS,
        "3 hydrogens",
    ),
    Refused("water", cif("O1 H2O 0 0 0"), Reason.IMPLICIT_HYDROGENS, "H2O"),
    Refused(
        "disorder group",
        cif("F1 F 0 0 0 A 1\nF2 F 0.3 0 0 A 2", columns=(*COLUMNS, "disorder_assembly", "disorder_group")),
        Reason.DISORDERED,
        "disorder group 1",
    ),
    Refused(
        "alternative of mmCIF", cif("F1 F 0 0 0 A", columns=(*COLUMNS, "label_alt_id")), Reason.DISORDERED, "group A"
    ),
    Refused("only dummy atoms", cif("X1 C 0 0 0 dum", columns=(*COLUMNS, "calc_flag")), Reason.EMPTY, "dummy"),
    Refused("modulated", cif(extra="_cell_modulation_dimension 1"), Reason.NOT_PERIODIC, "modulated"),
    Refused("tag twice", cif(extra="_cell_length_a 6"), Reason.CONTRADICTION, "_cell_length_a is given twice"),
    Refused(
        "two structures", cif() + "\n" + cif().replace("data_a", "data_b"), Reason.SEVERAL_STRUCTURES, "2 structures"
    ),
    Refused("same site twice", cif("Na1 Na 0 0 0\nNa2 Na 1 0 0"), Reason.OVERLAPPING_ATOMS, "coincide"),
)
