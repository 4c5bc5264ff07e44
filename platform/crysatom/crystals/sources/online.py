"""Download databases: JARVIS through jarvis-tools, the Materials Project through mp-api."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from sys import stderr
from typing import Any

from crysatom.crystals.quarantine import Rejected
from crysatom.crystals.record import Record
from crysatom.crystals.sources.base import Source
from crysatom.crystals.sources.records import JARVIS_MISSING, to_raw

INSTALL = 'pip install "crysatom[ingest]"'

MP_FIELDS = [
    "material_id",
    "structure",
    "formation_energy_per_atom",
    "band_gap",
    "energy_above_hull",
    "is_stable",
    "theoretical",
]
"""Fields requested from the Materials Project, by their names there."""


def open_jarvis(dataset: str) -> Source:
    """Open a JARVIS dataset of structures (``dft_3d``, ``dft_2d``, ...); it is downloaded once.

    The download is in the cache of jarvis-tools (``ATOMGPTLAB_CACHE`` or ``~/.cache/atomgptlab``).

    Raises:
        ValueError: If jarvis-tools is not installed, has no such dataset, or cannot download it.

    """
    try:
        from jarvis.db.figshare import data, get_db_info
    except ImportError as error:
        raise ValueError(f"source jarvis:{dataset} needs jarvis-tools: {INSTALL}") from error
    known = sorted(get_db_info())
    if dataset not in known:
        raise ValueError(f"source 'jarvis:{dataset}' does not exist; jarvis-tools knows {', '.join(known)}")
    try:
        with redirect_stdout(stderr):
            records = data(dataset)
    except Exception as error:  # requests, zipfile and json raise different exceptions
        raise ValueError(
            f"source jarvis:{dataset}: the download failed ({type(error).__name__}: {error}); check the "
            "network, then try again"
        ) from error
    if not records or not isinstance(records[0], dict) or "atoms" not in records[0]:
        raise ValueError(f"source jarvis:{dataset} is not a dataset of structures; try jarvis:dft_3d")
    return Source(name=f"jarvis:{dataset}", records=partial(_jarvis_records, dataset, records), total=len(records))


def _jarvis_records(dataset: str, records: list[dict[str, Any]]) -> Iterator[Record | Rejected]:
    for number, record in enumerate(records):
        yield to_raw(record, f"{dataset}-{number}", f"jarvis:{dataset}#{number}", missing=JARVIS_MISSING)


def open_materials_project(query: str) -> Source:
    """Open the result of a query to the Materials Project, with the key in ``MP_API_KEY``.

    Args:
        query: Ids (``mp-149,mp-13``), a chemical system (``Li-Fe-O``, ``Si-*``), or a formula (``SiO2``, ``ABO3``);
            several of one kind separated by commas.

    Raises:
        ValueError: If mp-api or the key is missing, or the query fails. The key is never part of a message.

    """
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise ValueError(f"source mp:{query} needs mp-api: {INSTALL}") from error
    key = os.environ.get("MP_API_KEY", "")
    if not key:
        raise ValueError(
            "the Materials Project needs a key: get one at materialsproject.org/api and export MP_API_KEY=..."
        )
    search = mp_search(query)
    try:
        with MPRester(
            key, use_document_model=False, mute_progress_bars=True, endpoint=os.environ.get("MP_API_ENDPOINT")
        ) as client:
            documents = client.materials.summary.search(**search, fields=MP_FIELDS)
    except Exception as error:  # noqa: BLE001 - mp-api, requests and pydantic raise different exceptions
        reason = str(error).replace(key, "<key>")
        raise ValueError(f"source mp:{query}: the query failed ({type(error).__name__}: {reason})") from None
    return Source(name=f"mp:{query}", records=partial(_mp_records, query, documents), total=len(documents))


def mp_search(query: str) -> dict[str, list[str]]:
    """Return the arguments of mp-api's search for a query.

    Raises:
        ValueError: If the query is empty or mixes kinds.

    """
    terms = [term.strip() for term in query.split(",") if term.strip()]
    kinds = {_mp_kind(term) for term in terms}
    if len(kinds) != 1:
        raise ValueError(
            f"source 'mp:{query}': write ids (mp:mp-149,mp-13), chemical systems (mp:Li-Fe-O) or formulas "
            "(mp:SiO2), one kind at a time"
        )
    return {kinds.pop(): terms}


def _mp_kind(term: str) -> str:
    if re.fullmatch(r"(mp|mvc)-\d+", term):
        return "material_ids"
    return "chemsys" if "-" in term else "formula"


def _mp_records(query: str, documents: list[dict[str, Any]]) -> Iterator[Record | Rejected]:
    for number, document in enumerate(documents):
        record = {name: document[name] for name in MP_FIELDS if name in document}
        structure = record["structure"]
        record["structure"] = structure if isinstance(structure, dict) else structure.as_dict()
        yield to_raw(record, f"mp-query-{number}", f"mp:{query}#{number}")
