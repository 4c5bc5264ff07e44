"""The checks on whole batches agree with the ingest job's checks on single crystals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crysatom.config import GraphSpec, Limits
from crysatom.crystals.checks import check
from crysatom.crystals.quarantine import Reason, Rejection
from crysatom.crystals.table import STRUCTURE_FIELDS, Crystal
from crysatom.graphs.checks import Verdicts, check_neighbors, check_rows, check_structures, structures
from crysatom.graphs.neighbors import neighbor_graphs
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE, MATERIAL_ID
from tests.graph_crystals import as_batch, prototypes

LIMITS = Limits(max_atoms=10, min_distance=0.5)
GOOD = Crystal(
    material_id="good",
    lattice=4.0 * np.eye(3),
    frac_coords=np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
    atomic_numbers=np.array([11, 17], dtype=np.uint8),
)
NAN, INF = float("nan"), float("inf")

DEFECTS: dict[str, Crystal] = {
    "NaN in lattice": replace(GOOD, lattice=np.diag([4.0, 4.0, NAN])),
    "infinite lattice": replace(GOOD, lattice=np.diag([4.0, 4.0, INF])),
    "flat cell": replace(GOOD, lattice=np.array([[4.0, 0, 0], [0, 4, 0], [4, 4, 0]])),
    "zero cell": replace(GOOD, lattice=np.zeros((3, 3))),
    "cell in nanometers": replace(GOOD, lattice=0.4 * np.eye(3)),
    "cell in picometers": replace(GOOD, lattice=400.0 * np.eye(3)),
    "endless cell vector": replace(GOOD, lattice=np.diag([4.0, 4.0, 2e4])),
    "NaN coordinate": replace(GOOD, frac_coords=np.array([[0, 0, 0], [0.5, NAN, 0.5]])),
    "infinite coordinate": replace(GOOD, frac_coords=np.array([[0, 0, 0], [0.5, INF, 0.5]])),
    "far coordinate": replace(GOOD, frac_coords=np.array([[0, 0, 0], [0.5, 5e3, 0.5]])),
    "coincident atoms": replace(GOOD, frac_coords=np.zeros((2, 3))),
    "coincident after wrapping": replace(GOOD, frac_coords=np.array([[0, 0, 0], [1.0, -2.0, 3.0]])),
    "close atoms": replace(GOOD, frac_coords=np.array([[0, 0, 0], [0.1, 0, 0]])),
    "a hair too close": replace(GOOD, frac_coords=np.array([[0, 0, 0], [0.125 - 1e-9, 0, 0]])),
    "close images": replace(GOOD, lattice=np.diag([0.4, 20.0, 20.0])),
    "close images in a skewed cell": replace(GOOD, lattice=np.array([[9.0, 0, 0], [9.0, 0.4, 0], [0, 0, 40.0]])),
    "close images and NaN coordinate": replace(
        GOOD, lattice=np.diag([0.4, 20.0, 20.0]), frac_coords=np.array([[0, 0, 0], [0.5, NAN, 0.5]])
    ),
    "infinite lattice and coordinate": replace(
        GOOD, lattice=np.full((3, 3), INF), frac_coords=np.array([[0, 0, 0], [0.5, -INF, 5e3]])
    ),
    "overflowing lattice": replace(GOOD, lattice=1e200 * np.eye(3)),
    "no atoms": replace(GOOD, frac_coords=np.zeros((0, 3)), atomic_numbers=np.zeros(0, dtype=np.uint8)),
    "element zero": replace(GOOD, atomic_numbers=np.array([0, 17], dtype=np.uint8)),
    "element 119": replace(GOOD, atomic_numbers=np.array([11, 119], dtype=np.uint8)),
    "too many atoms": replace(
        GOOD, frac_coords=np.random.default_rng(0).random((11, 3)), atomic_numbers=np.full(11, 6)
    ),
}


def _verdicts(crystals: list[Crystal]) -> Verdicts:
    batch = as_batch(crystals)
    verdicts = check_rows(batch, LIMITS)
    for look_at_neighbors in (False, True):
        rows = verdicts.accepted
        chosen = structures(batch, rows)
        if look_at_neighbors:
            graphs = neighbor_graphs(chosen.lattices, chosen.frac_coords, chosen.atom_ptr, GraphSpec())
            verdicts.include(check_neighbors(chosen, graphs, LIMITS), rows)
        else:
            verdicts.include(check_structures(chosen, LIMITS), rows)
    return verdicts


@pytest.mark.parametrize("name", DEFECTS)
def test_verdict_is_that_of_the_ingest_job(name: str) -> None:
    with pytest.raises(Rejection) as rejection:
        check(DEFECTS[name], LIMITS)
    verdicts = _verdicts([GOOD, DEFECTS[name], GOOD])
    assert list(verdicts.reasons) == [1]
    assert verdicts.reasons[1] == (rejection.value.reason, str(rejection.value))


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    """Crystals with up to three defects; many have atoms at about the least distance."""
    size = draw(st.integers(1, 10))
    lattice = np.diag(draw(st.tuples(*[st.sampled_from([4.0, 6.0, 9.0])] * 3)))
    lattice[1, 0] = draw(st.sampled_from([0.0, 1.0, -40.0]))
    place = st.floats(-2, 2, width=32) | st.sampled_from([0.0, 0.125, 0.125 - 1e-9, 0.5])
    coords = np.array([[draw(place) for _ in range(3)] for _ in range(size)])
    numbers = np.array([draw(st.integers(1, 118)) for _ in range(size)])
    for _ in range(draw(st.integers(0, 3))):
        what, k = draw(st.sampled_from(["cell", "place", "number", "size"])), draw(st.integers(0, 2))
        if what == "cell":
            lattice[k, k] = draw(st.sampled_from([0.45, 0.3, 2e4, 1e200, 0.0, NAN, INF]))
        elif what == "place":
            coords[-1:, k] = draw(st.sampled_from([NAN, INF, 5e3]))
        elif what == "number":
            numbers[-1:] = draw(st.sampled_from([0, 119]))
        else:
            times = draw(st.sampled_from([0, 11]))
            coords, numbers = (np.repeat(x, times, axis=0) for x in (coords, numbers))
    return Crystal(material_id="drawn", lattice=lattice, frac_coords=coords, atomic_numbers=numbers.astype(np.uint8))


@settings(max_examples=150, deadline=None)
@given(crystals())
def test_drawn_crystals_are_judged_alike(crystal: Crystal) -> None:
    expected: dict[int, tuple[Reason, str]] = {}
    try:
        check(crystal, LIMITS)
    except Rejection as rejection:
        expected[1] = rejection.reason, str(rejection)
    assert _verdicts([GOOD, crystal, GOOD]).reasons == expected


def test_an_atomic_number_may_be_missing() -> None:
    row = {MATERIAL_ID: "a", LATTICE: (4.0 * np.eye(3)).ravel(), FRAC_COORDS: [0.0] * 3, ATOMIC_NUMBERS: [None]}
    batch = pa.RecordBatch.from_pylist([row], schema=pa.schema(STRUCTURE_FIELDS[:4]))
    verdicts = check_structures(structures(batch, np.arange(1)), LIMITS)
    assert verdicts.reasons == {0: (Reason.UNKNOWN_SPECIES, "an atomic number is missing; complete the row")}


def test_no_crystals_have_no_verdicts() -> None:
    assert not _verdicts([]).reasons


def test_defects_do_not_disturb_each_other() -> None:
    verdicts = _verdicts([GOOD, *DEFECTS.values(), GOOD])
    assert verdicts.accepted.tolist() == [0, len(DEFECTS) + 1]


def test_real_crystals_pass() -> None:
    crystals = [c for c in prototypes() if len(c.atomic_numbers) <= LIMITS.max_atoms]
    assert not _verdicts(crystals).reasons


def test_malformed_rows() -> None:
    rows = [
        {MATERIAL_ID: None, LATTICE: [1.0] * 9, FRAC_COORDS: [0.0] * 3, ATOMIC_NUMBERS: [1]},
        {MATERIAL_ID: "a", LATTICE: [1.0] * 8, FRAC_COORDS: [0.0] * 3, ATOMIC_NUMBERS: [1]},
        {MATERIAL_ID: "b", LATTICE: [1.0] * 9, FRAC_COORDS: [0.0] * 4, ATOMIC_NUMBERS: [1]},
        {MATERIAL_ID: "c", LATTICE: None, FRAC_COORDS: [0.0] * 3, ATOMIC_NUMBERS: [1]},
        {MATERIAL_ID: "d", LATTICE: [1.0] * 9, FRAC_COORDS: [], ATOMIC_NUMBERS: []},
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in STRUCTURE_FIELDS[:4]]))
    reasons = [reason for _, (reason, _) in sorted(check_rows(batch, LIMITS).reasons.items())]
    assert reasons == [
        Reason.MISSING_ID,
        Reason.UNREADABLE,
        Reason.UNREADABLE,
        Reason.UNREADABLE,
        Reason.EMPTY,
    ]


def test_images_that_int8_cannot_hold_are_rejected() -> None:
    verdicts = _verdicts([GOOD, replace(GOOD, frac_coords=np.array([[0, 0, 0], [200.5, 0.5, 0.5]])), GOOD])
    assert {row: reason for row, (reason, _) in verdicts.reasons.items()} == {1: Reason.ABSURD_COORDINATES}


@pytest.mark.parametrize("name", ["close images", "close images in a skewed cell"])
def test_a_tiny_cell_is_rejected_before_its_many_neighbors_are_searched(name: str) -> None:
    verdicts = check_structures(structures(as_batch([GOOD, DEFECTS[name]]), np.arange(2)), LIMITS)
    assert {row: reason for row, (reason, _) in verdicts.reasons.items()} == {1: Reason.OVERLAPPING_ATOMS}
