"""JARVIS and the Materials Project through their own client libraries, with responses written here."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from jarvis.core.atoms import Atoms
from jarvis.db.figshare import get_db_info
from pymatgen.core import Lattice, Structure

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.sources import read_source
from crysatom.crystals.sources.online import mp_search
from crysatom.crystals.table import read_table

KEY = "0123456789abcdef0123456789ABCDEF"
ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def jarvis_record(jid: str, *, cartesian: bool) -> dict[str, Any]:
    coords = ROCK_SALT.cart_coords if cartesian else ROCK_SALT.frac_coords
    elements = [site.specie.symbol for site in ROCK_SALT]
    atoms = Atoms(lattice_mat=ROCK_SALT.lattice.matrix, coords=coords, elements=elements, cartesian=cartesian)
    properties = {
        "formation_energy_peratom": -2.1,
        "mbj_bandgap": "na",
        "spg_number": "225",
        "elastic_tensor": [[1, 0], [0, 1]],
    }
    return {"jid": jid, "atoms": atoms.to_dict(), "formula": "NaCl", **properties}


def test_jarvis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """jarvis-tools finds the archive in its download location."""
    records = [
        jarvis_record("JVASP-1", cartesian=False),
        jarvis_record("JVASP-2", cartesian=True),
        jarvis_record("JVASP-1", cartesian=True),
    ]
    name = get_db_info()["dft_3d"][1]
    cache = tmp_path / "jarvis_data"
    cache.mkdir()
    with zipfile.ZipFile(cache / f"{name}.zip", "w") as archive:
        archive.writestr(name, json.dumps(records))
    monkeypatch.setenv("ATOMGPTLAB_CACHE", str(tmp_path))
    report = ingest_plain(IngestConfig.of(source="jarvis:dft_3d", out=str(tmp_path / "out")))
    assert (report.read, report.accepted, report.reasons) == (3, 2, {"duplicate_id": 1})
    table = read_table(report.table)
    assert table["material_id"].to_pylist() == ["JVASP-1", "JVASP-2"]
    for row in table.to_pylist():
        np.testing.assert_allclose(np.reshape(row["frac_coords"], (-1, 3)), ROCK_SALT.frac_coords, atol=1e-9)
        assert row["atomic_numbers"] == list(ROCK_SALT.atomic_numbers)
        assert row["formation_energy_peratom"] == -2.1
        assert row["mbj_bandgap"] is None
        assert row["elastic_tensor"] == "[[1, 0], [0, 1]]"
    assert capsys.readouterr().out == ""


def test_jarvis_names_its_datasets() -> None:
    with pytest.raises(ValueError, match="dft_3d"):
        list(read_source("jarvis:nothing"))


class MaterialsProject(BaseHTTPRequestHandler):
    """Server like api.materialsproject.org: a heartbeat, and pages of summaries for requests with a key."""

    queries: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if url.path.endswith("heartbeat"):
            self._answer(
                200,
                {"status": "OK", "db_version": "2025.11.01", "version": "0.87.0", "access_controlled_batch_ids": []},
            )
        elif self.headers.get("x-api-key") != KEY:
            self._answer(401, {"detail": f"Invalid authentication credentials {self.headers.get('x-api-key')}"})
        else:
            self.queries.append(parse_qs(url.query))
            documents = [self._summary("mp-22862"), self._summary("mp-149")]
            self._answer(200, {"data": documents, "meta": {"api_version": "0.87.0", "total_doc": 2, "max_limit": 1000}})

    @staticmethod
    def _summary(material_id: str) -> dict[str, Any]:
        values = {
            "formation_energy_per_atom": -2.1,
            "band_gap": 5.0,
            "energy_above_hull": 0.0,
            "is_stable": True,
            "theoretical": False,
        }
        return {"material_id": material_id, "structure": ROCK_SALT.as_dict(), **values}

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def materials_project(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, list[str]]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), MaterialsProject)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("MP_API_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("MP_API_KEY", KEY)
    MaterialsProject.queries.clear()
    yield MaterialsProject.queries
    server.shutdown()
    thread.join()
    server.server_close()


def test_materials_project(materials_project: list[dict[str, list[str]]], tmp_path: Path) -> None:
    report = ingest_plain(IngestConfig.of(source="mp:Na-Cl", out=str(tmp_path / "out")))
    table = read_table(report.table)
    assert table["material_id"].to_pylist() == ["mp-22862", "mp-149"]
    assert table["formula"].to_pylist() == ["NaCl", "NaCl"]
    assert table["band_gap"].to_pylist() == [5.0, 5.0]
    assert table["is_stable"].to_pylist() == [True, True]
    np.testing.assert_allclose(np.reshape(table["frac_coords"][0].as_py(), (-1, 3)), ROCK_SALT.frac_coords)
    assert materials_project[0]["chemsys"] == ["Na-Cl"]
    assert "structure" in materials_project[0]["_fields"][0]


@pytest.mark.usefixtures("materials_project")
def test_key_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "f" * 32
    monkeypatch.setenv("MP_API_KEY", wrong)
    with pytest.raises(ValueError, match="query failed") as error:
        list(read_source("mp:Na-Cl"))
    assert "401" in str(error.value)
    shown = capsys.readouterr()
    assert wrong not in str(error.value) + shown.out + shown.err
    assert error.value.__cause__ is None


def test_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(ValueError, match="export MP_API_KEY"):
        list(read_source("mp:SiO2"))


@pytest.mark.parametrize(
    ("query", "search"),
    [
        ("mp-149, mp-13", {"material_ids": ["mp-149", "mp-13"]}),
        ("Li-Fe-O,Si-*", {"chemsys": ["Li-Fe-O", "Si-*"]}),
        ("SiO2", {"formula": ["SiO2"]}),
    ],
)
def test_queries(query: str, search: dict[str, list[str]]) -> None:
    assert mp_search(query) == search


@pytest.mark.parametrize("query", ["", "mp-149,SiO2"])
def test_query_of_no_or_several_kinds(query: str) -> None:
    with pytest.raises(ValueError, match="one kind at a time"):
        mp_search(query)
