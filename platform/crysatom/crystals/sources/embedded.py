"""Crystals that come with pymatgen: nothing to download.

Structures of the AFLOW library of crystallographic prototypes: M. J. Mehl et al., Computational Materials
Science 136, S1-S828 (2017), doi 10.1016/j.commatsci.2017.01.017; each is a real compound of its prototype.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crysatom.crystals.formula import reduced_formula
from crysatom.crystals.quarantine import Rejected
from crysatom.crystals.record import Record
from crysatom.crystals.sources.base import Source
from crysatom.crystals.structure_json import parse_structure_json

_NAME = "prototypes"
_PROPERTIES = {
    "aflow": "aflow_label",
    "pearson": "pearson_symbol",
    "strukturbericht": "strukturbericht",
    "mineral": "mineral",
}


def open_aflow(name: str) -> Source:
    """Open ``aflow:prototypes``: 288 ordered crystals of 69 elements.

    An id is the AFLOW label and the reduced formula (``AB_cF8_225_a_b-NaCl``), with a running number if a compound has
    several crystals of one label.

    Raises:
        ValueError: If the name is another.

    """
    if name != _NAME:
        raise ValueError(f"source 'aflow:{name}' does not exist; the embedded crystals are called aflow:{_NAME}")
    prototypes = _load()
    return Source(name=f"aflow:{name}", records=lambda: _records(prototypes), total=len(prototypes))


def _load() -> list[dict[str, Any]]:
    # Do not import pymatgen.analysis: it imports pandas and takes seconds.
    spec = find_spec("pymatgen.analysis")
    assert spec is not None
    assert spec.submodule_search_locations, "pymatgen.analysis is a package"
    path = Path(spec.submodule_search_locations[0]) / "prototypes" / "aflow_prototypes.json.gz"
    if not path.is_file():
        raise ValueError(
            f"source 'aflow:{_NAME}': the installed pymatgen does not contain it; pip install --upgrade pymatgen"
        )
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        prototypes: list[dict[str, Any]] = json.load(stream)
    return prototypes


def _records(prototypes: list[dict[str, Any]]) -> Iterator[Record | Rejected]:
    seen: Counter[str] = Counter()
    for entry in prototypes:
        structure, tags = entry["snl"], entry["tags"]
        content = json.dumps(structure).encode()
        name = f"{tags['aflow']}-{reduced_formula(parse_structure_json(content)[2])}"
        seen[name] += 1
        material_id = name if seen[name] == 1 else f"{name}-{seen[name]}"
        properties = {column: _text(tags.get(tag)) for tag, column in _PROPERTIES.items()}
        yield Record(
            material_id=material_id, source=f"aflow:{_NAME}", format="json", content=content, properties=properties
        )


def _text(value: Any) -> str | None:
    return None if value in (None, "", "None") else str(value)
