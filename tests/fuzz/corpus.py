"""Small valid files of each kind, written once per process by their usual writers."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crysatom.config import FeaturizeConfig, IngestConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import EMBEDDED_SOURCE
from crysatom.training import checkpoints
from crysatom.training.encoder_files import save_encoder
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
from tests.saved_models import write_model
from tests.unit.broken_inputs import TWO_FOLD, cif

ASE_FORMATS = {
    "a.xyz": "extxyz",
    "POSCAR": "vasp",
    "a.traj": "traj",
    "a.db": "db",
    "a.xsf": "xsf",
    "geometry.in": "aims",
    "a.gen": "gen",
    "a.cfg": "cfg",
    "a.res": "res",
}
"""Formats of ASE, with file names that it recognizes."""


@functools.cache
def table() -> pa.Table:
    """Return four real crystals of at most eight atoms, with a property and a split."""
    with TemporaryDirectory() as folder:
        report = ingest_plain(IngestConfig.of(source=EMBEDDED_SOURCE, out=folder))
        every = read_table(report.table)
    small = [i for i, numbers in enumerate(every["atomic_numbers"].to_pylist()) if len(numbers) <= 8][:40:10]
    few = every.take(small).select(["material_id", "lattice", "frac_coords", "atomic_numbers", "formula"])
    few = few.append_column("target", pa.array([0.5, -1.0, 2.0, 3.0]))
    return few.append_column("split_target", pa.array(["train", "val", "test", "train"]))


@functools.cache
def cifs() -> tuple[bytes, ...]:
    """Return CIFs: the plainest, one with symmetry operations, and pymatgen's own."""
    from pymatgen.core import Structure

    texts = [cif(), cif("Na Na1 0.1 0.2 0.3 1\nCl Cl1 0.25 0.25 0.25 1\n", extra=TWO_FOLD)]
    for row in table().to_pylist():
        lattice, coords = np.reshape(row["lattice"], (3, 3)), np.reshape(row["frac_coords"], (-1, 3))
        texts.append(str(Structure(lattice, row["atomic_numbers"], coords).to(fmt="cif", symprec=0.01)))
    return tuple(text.encode() for text in texts)


@functools.cache
def structures() -> list[dict[str, Any]]:
    """Return structures as dictionaries of pymatgen and JARVIS."""
    found: list[dict[str, Any]] = []
    for row in table().to_pylist():
        lattice, coords = np.reshape(row["lattice"], (3, 3)).tolist(), np.reshape(row["frac_coords"], (-1, 3)).tolist()
        symbols = ["Na", "Cl", "Fe", "O", "Si", "C", "H", "N"][: len(coords)]
        sites = [{"species": [{"element": s, "occu": 1}], "abc": abc} for s, abc in zip(symbols, coords, strict=True)]
        found.append(
            {"@module": "pymatgen.core", "@class": "Structure", "lattice": {"matrix": lattice}, "sites": sites}
        )
        found.append({"lattice_mat": lattice, "coords": coords, "elements": symbols, "cartesian": False})
    return found


@functools.cache
def json_documents() -> tuple[Any, ...]:
    """Return the arrangements of structures that a JSON file may have."""
    s = structures()
    rows = [[s[0], 1.5], [s[2], -2]]
    return (
        s[:3],
        s[0],
        {"a": s[0], "b": s[3]},
        [{"id": "a", "structure": s[0], "gap": 1.5, "note": "x"}, {"jid": "b", "atoms": s[1], "gap": 2}],
        {"columns": ["structure", "gap"], "index": [0, 1], "data": rows},
    )


@functools.cache
def ase_files() -> dict[str, bytes]:
    """Return a crystal in each of :data:`ASE_FORMATS`."""
    from ase.build import bulk
    from ase.io import write

    contents = {}
    with TemporaryDirectory() as folder:
        for name, kind in ASE_FORMATS.items():
            write(Path(folder) / name, bulk("NaCl", "rocksalt", 5.6), format=kind)
            contents[name] = (Path(folder) / name).read_bytes()
    return contents


@functools.cache
def vectors() -> dict[str, bytes]:
    """Return a table of vectors in each format."""
    with TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in write_vectors(given_vectors("random:0:4"), folder)}


@functools.cache
def shards() -> dict[str, bytes]:
    """Return a folder of graph shards."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "table.parquet"
        write_table(table(), source)
        out = Path(folder) / "shards"
        featurize_plain(FeaturizeConfig.of(data=str(source), out=str(out), crystals_per_shard=2))
        return files_of(out)


@functools.cache
def encoder() -> dict[str, bytes]:
    """Return a pretrained encoder's folder."""
    from tests.unit.test_training_encoder_files import encoder_of

    with TemporaryDirectory() as folder:
        save_encoder(Path(folder), encoder_of(), {"data": "here"})
        return files_of(Path(folder))


@functools.cache
def model() -> dict[str, bytes]:
    """Return a model's folder."""
    with TemporaryDirectory() as folder:
        return files_of(write_model(Path(folder) / "model", elements=("H", "O", "Na"), trained=("H", "O")))


@functools.cache
def checkpoint() -> dict[str, bytes]:
    """Return a checkpoint's folder."""
    with TemporaryDirectory() as folder:
        checkpoints.save(
            Path(folder), {"model": {"w": torch.ones(3, 2), "b": torch.zeros(3)}}, {"epoch": 3, "history": []}
        )
        return files_of(Path(folder))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of a folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def parquet(content: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink)
    return bytes(sink.getvalue().to_pybytes())


def unpacked_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed_safetensors(header: bytes, data: bytes) -> bytes:
    """Return the file of a header and data."""
    return struct.pack("<Q", len(header)) + header + data
