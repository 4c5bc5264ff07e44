"""Symmetry by name against gemmi's expansion, names against spglib's, and whole CIFs against pymatgen's."""

from __future__ import annotations

import warnings

import gemmi
import numpy as np
import pyarrow as pa
import pytest

from crysatom.config import Limits
from crysatom.crystals.cif import parse_cif
from crysatom.crystals.cif.operations import IDENTITY, parse_operations
from crysatom.crystals.cif.spacegroups import _by_name, _fingerprint, _full_names, _key, _table
from tests.unit.cif_cases import cif, named

CELLS = {
    "triclinic": (5.1, 6.2, 7.3, 81, 95, 103),
    "monoclinic_a": (5.1, 6.2, 7.3, 98, 90, 90),
    "monoclinic_b": (5.1, 6.2, 7.3, 90, 98, 90),
    "monoclinic_c": (5.1, 6.2, 7.3, 90, 90, 98),
    "orthorhombic": (5.1, 6.2, 7.3, 90, 90, 90),
    "tetragonal": (9.2, 9.2, 11.3, 90, 90, 90),
    "trigonal": (9.2, 9.2, 11.3, 90, 90, 120),
    "rhombohedral": (9.2, 9.2, 9.2, 71, 71, 71),
    "hexagonal": (9.2, 9.2, 11.3, 90, 90, 120),
    "cubic": (14.2, 14.2, 14.2, 90, 90, 90),
}


def cell_of(group: gemmi.SpaceGroup) -> tuple[float, ...]:
    system = group.crystal_system_str()
    if system == "monoclinic":
        return CELLS[f"monoclinic_{group.qualifier.lstrip('-')[:1] or 'b'}"]
    return CELLS["rhombohedral" if group.ext == "R" else system]


GROUPS = list(gemmi.spacegroup_table())


@pytest.mark.parametrize("group", GROUPS, ids=[f"{group.number} {group.xhm()}" for group in GROUPS])
def test_every_setting_by_name_is_what_gemmi_makes_of_it(group: gemmi.SpaceGroup) -> None:
    """Independent check: gemmi expands the sites of its small structure with its own operations."""
    cell = cell_of(group)
    assert parse_operations(tuple(op.triplet() for op in group.operations())).fit(_lattice(cell))
    places = [(0.113, 0.297, 0.045), (0.0, 0.0, 0.0)]
    sites = "".join(
        f"X{i} {e} {x} {y} {z}\n" for i, (e, (x, y, z)) in enumerate(zip(("Na", "Cl"), places, strict=True))
    )
    crystal = parse_cif(cif(sites, named(group.xhm()), cell=cell).encode(), Limits(max_atoms=500, min_distance=0.0))
    small = gemmi.SmallStructure()
    small.cell, small.spacegroup = gemmi.UnitCell(*cell), group
    for symbol, place in zip(("Na", "Cl"), places, strict=True):
        site = gemmi.SmallStructure.Site()
        site.type_symbol, site.element, site.fract = symbol, gemmi.Element(symbol), gemmi.Fractional(*place)
        small.add_site(site)
    small.setup_cell_images()
    expected = sorted((s.element.atomic_number, *_wrapped(s.fract.tolist())) for s in small.get_all_unit_cell_sites())
    found = sorted(
        (int(z), *_wrapped(x)) for z, x in zip(crystal.atomic_numbers, crystal.frac_coords.tolist(), strict=True)
    )
    np.testing.assert_allclose(found, expected, atol=2e-6)


def _wrapped(x: list[float]) -> tuple[float, ...]:
    return tuple(round(value % 1, 6) % 1 for value in x)


def _lattice(cell: tuple[float, ...]) -> np.ndarray:
    return np.array(gemmi.UnitCell(*cell).orth.mat.tolist()).T


def test_every_full_name_means_the_setting_that_spglib_says() -> None:
    for kind in _full_names():
        meant = [_table()[i] for i in _by_name()[_key(kind.international_full)]]
        assert _fingerprint(kind.hall_symbol) in {_fingerprint(setting.hall) for setting in meant}, kind
        assert {setting.number for setting in meant} == {kind.number}


def test_names_of_one_key_are_of_one_space_group() -> None:
    for name, places in _by_name().items():
        assert len({_table()[i].number for i in places}) == 1, name


def test_every_group_of_gemmi_is_closed() -> None:
    for group in GROUPS:
        assert len(parse_operations(tuple(op.triplet() for op in group.operations()))) == len(list(group.operations()))


def test_the_identity_is_the_group_of_one() -> None:
    parsed = parse_operations(("x,y,z",))
    assert (parsed.rotations == IDENTITY.rotations).all()


@pytest.mark.parametrize("symmetrized", [True, False])
def test_what_pymatgen_writes_comes_back(symmetrized: bool, prototypes: pa.Table) -> None:
    """Every eighth real crystal; ``benchmarks/cif_round_trip.py`` has all of JARVIS."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    for row in prototypes.to_pylist()[::8]:
        structure = Structure(
            Lattice(np.reshape(row["lattice"], (3, 3))), row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = str(CifWriter(structure, symprec=0.01 if symmetrized else None))
            expected = SpacegroupAnalyzer(structure, 0.01).get_refined_structure() if symmetrized else structure
        crystal = parse_cif(text.encode(), Limits(max_atoms=2000, min_distance=0.0))
        assert sorted(crystal.atomic_numbers) == sorted(expected.atomic_numbers)
        found = Structure(Lattice(crystal.lattice), crystal.atomic_numbers, crystal.frac_coords)
        np.testing.assert_allclose(
            np.sort(found.distance_matrix.ravel()), np.sort(expected.distance_matrix.ravel()), atol=1e-4
        )
