"""CIFs that some readers get wrong: each is read correctly, or rejected for the right reason."""

from __future__ import annotations

import pytest

from crysatom.crystals.cif import parse_cif, split_structures
from crysatom.crystals.quarantine import Rejection
from tests.unit.cif_cases import HELD, LIMITS, REFUSED, Read, Refused, cif, density


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.title)
def test_it_is_read(case: Read) -> None:
    crystal = parse_cif(case.text.encode(), LIMITS)
    assert len(crystal.atomic_numbers) == len(crystal.frac_coords) == case.num_atoms
    assert density(crystal) == pytest.approx(case.density, abs=2e-3 if case.density < 9 else 0.02)
    assert case.note in "; ".join(crystal.notes)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.title)
def test_it_is_refused(case: Refused) -> None:
    with pytest.raises(Rejection) as caught:
        parse_cif(case.text.encode(), LIMITS)
    assert caught.value.reason == case.reason, str(caught.value)
    assert case.said in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding: str) -> None:
    text = cif(extra="_publ_author_name 'M\u00fcller'")
    assert len(parse_cif(text.encode(encoding), LIMITS).atomic_numbers) == 2


def test_blocks_on_one_line_are_two_crystals() -> None:
    text = "\n".join(cif().replace("data_a", f"DATA_{name}").replace("\n_atom", " _atom") for name in "ab")
    parts = dict(split_structures(text.encode()))
    assert list(parts) == ["a", "b"]
    for part in parts.values():
        assert len(parse_cif(part, LIMITS).atomic_numbers) == 2


def test_a_block_without_coordinates_among_several_is_in_the_account() -> None:
    without = "data_c\n_cell_length_a 4\n"
    parts = dict(split_structures(f"{cif()}\n{cif().replace('data_a', 'data_b')}\n{without}".encode()))
    assert list(parts) == ["a", "b", "c"]
    with pytest.raises(Rejection, match="no atoms"):
        parse_cif(parts["c"], LIMITS)
