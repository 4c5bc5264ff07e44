"""Tables that the package ships: complete, small, and readable by the codes that they are for; adding one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from crysatom.config import VectorsConfig, recorded
from crysatom.vectors.card import CARD_MD, CardFacts, card
from crysatom.vectors.files import VECTORS_SAFETENSORS, write_vectors
from crysatom.vectors.given import CHOICES, given_vectors
from crysatom.vectors.shipped import BOX, shipped_names
from crysatom.vectors.table import AtomVectors

ROOT = Path(__file__).resolve().parents[2]
NAMES = shipped_names()


def test_there_are_tables_of_less_than_a_megabyte_in_all() -> None:
    assert "structure-mp" in NAMES
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) < 1_000_000
    assert all(name in CHOICES for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_provenance_and_card_are_complete(name: str) -> None:
    assert {path.name for path in (BOX / name).iterdir()} == {VECTORS_SAFETENSORS, CARD_MD}
    table = given_vectors(name)
    of = table.provenance["of"]
    assert table.site_counts is not None
    assert table.standard_errors is not None
    assert {"data", "license", "command", "commit", "evidence", "config", "data_digest"} <= of.keys()
    assert re.match("[0-9a-f]{40}", of["commit"])
    assert not re.search(r'"/|sqlite:', json.dumps(of)), "paths of the machine where it was made"
    text = (BOX / name / CARD_MD).read_text(encoding="utf-8")
    for part in (f"--vectors {name}", of["data"], of["license"], of["command"], of["evidence"], of["commit"][:40]):
        assert part in text, part
    assert (ROOT / of["evidence"].partition("#")[0]).is_file()
    for symbol, sites in zip(table.symbols, table.site_counts, strict=True):
        assert re.search(rf"^\| {symbol} \| [0-9,]+ \| {sites:,} \|$", text, re.MULTILINE), symbol


@pytest.mark.parametrize("name", NAMES)
def test_similar_elements_are_near_each_other(name: str) -> None:
    table = given_vectors(name)
    for symbol, like in (("K", "Rb"), ("Br", "Cl"), ("Er", "Ho"), ("Zr", "Hf")):
        assert like in dict(table.nearest(symbol, 3)), symbol


@pytest.mark.parametrize("name", NAMES)
def test_elementembeddings_and_codes_like_cgcnn_read_it(name: str, tmp_path: Path) -> None:
    table = given_vectors(name)
    csv, atom_init, _ = write_vectors(table, tmp_path)
    rows = {int(z): row for z, row in json.loads(atom_init.read_text()).items()}
    assert np.array_equal(np.array([rows[z] for z in table.atomic_numbers], np.float32), table.vectors)
    core = pytest.importorskip("elementembeddings.core", reason="ElementEmbeddings is not installed")
    embedding = core.Embedding.from_csv(csv, embedding_name=name)
    assert set(embedding.embeddings) == set(table.symbols)
    np.testing.assert_allclose(embedding.embeddings["O"], table.lookup([8])[0], rtol=1e-6)


@pytest.fixture(name="tool")
def _tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("box_tool", ROOT / "tools" / "box.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BOX", tmp_path / "box")
    return module


def test_a_run_becomes_a_table_without_paths(tool: ModuleType, learned: AtomVectors, tmp_path: Path) -> None:
    config = VectorsConfig.of(method="structure", blocks=("geometry",), data="/home/x/p.parquet", out="/home/x/runs")
    of = {tool.COMMIT: f"{'0123456789' * 4}-dirty", "config": recorded(config), "data": "/home/x", "data_digest": "abc"}
    table = dataclasses.replace(learned, provenance=of)
    facts = CardFacts(
        data="/home/x/p.parquet",
        data_digest="abc",
        num_crystals=1234,
        crystals_per_element=dict.fromkeys(learned.atomic_numbers.tolist(), 5),
        config=recorded(config),
        losses={"crystals": 1234.0},
        run_id="77",
    )
    write_vectors(table, tmp_path / "run" / "vectors")
    (tmp_path / "run" / "vectors" / CARD_MD).write_text(card(table, facts))
    said = {"file": "p.parquet", "data": "a collection", "license": "CC0", "evidence": "docs/results.md"}
    file, text = tool.boxed(tmp_path / "run", "mine", **said)
    found = given_vectors(str(file.parent))
    assert found.vectors.tobytes() == learned.vectors.tobytes()
    command = "python jobs/vectors.py --data=p.parquet --method=structure --blocks geometry"
    assert found.provenance["of"]["command"] == command
    content = text.read_text()
    for part in (command, "1,234 crystals: a collection", "CC0", "6789 with uncommitted changes", "--vectors mine`"):
        assert part in content, part
    assert "/home" not in content + json.dumps(found.provenance["of"])
    assert "MLflow" not in content
    assert content.count("\n## ") == 4
