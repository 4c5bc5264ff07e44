"""All readers of user input: the strategy of inputs, the call, and the allowed messages.

A reader either accepts an input or reports the problem in one line that names the file: by ``ValueError`` (the jobs
print it and exit), by a row of the quarantine, or, on the command line, by ``SystemExit``.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from crysatom import config
from crysatom.config import FeaturizeConfig, IngestConfig
from crysatom.crystals import splits
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.sources import ase_files
from crysatom.crystals.table import iter_crystal_batches, read_table
from crysatom.crystals.targets import targets_for, targets_from_csv
from crysatom.graphs import shards
from crysatom.graphs.featurize import featurize_plain
from crysatom.models.files import load_model
from crysatom.training import checkpoints
from crysatom.training.encoder_files import load_encoder
from crysatom.vectors.given import given_vectors
from tests.fuzz import corpus
from tests.fuzz import strategies as make
from tests.fuzz.strategies import Files

ACCEPTED, REJECTED, UNEXPECTED = "accepted", "rejected", "unexpected"
LONGEST = 2500
"""Limit on the characters of a message; the longest valid ones list all flags or elements."""


@dataclass(frozen=True)
class Target:
    """Reader under test.

    Attributes:
        name: Name of the reader.
        inputs: Returns the strategy of inputs.
        read: Reads the input in a folder and returns the messages on rejected content; empty if all was accepted.

    """

    name: str
    inputs: Callable[[], SearchStrategy[Files]]
    read: Callable[[Path], list[str]]


@dataclass(frozen=True)
class Outcome:
    """Outcome of an input.

    Attributes:
        kind: ``accepted``, ``rejected`` or ``unexpected``.
        detail: The message, or the reason why the outcome is unexpected.

    """

    kind: str
    detail: str = ""


def outcome(target: Target, folder: Path) -> Outcome:
    """Run a reader on an input and classify the outcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, which do not help a user
        try:
            said = target.read(folder)
        except ValueError as error:
            said = [str(error)]
        except Exception as error:  # noqa: BLE001 - anything else is a finding
            return Outcome(UNEXPECTED, f"{type(error).__name__}: {str(error)[:300]} at {_place(error)}")
    faults = [fault for message in said if (fault := fault_of(message, folder))]
    if faults:
        return Outcome(UNEXPECTED, faults[0])
    return Outcome(REJECTED, said[0]) if said else Outcome(ACCEPTED)


def fault_of(message: str, folder: Path) -> str:
    """Return the defect of a message; empty if there is none."""
    if "\n" in message or "\r" in message:
        return f"a message of several lines: {message[:300]!r}"
    if not 20 <= len(message) <= LONGEST:
        return f"a message of {len(message)} characters: {message[:300]!r}"
    if str(folder) not in message and "--" not in message:
        return f"a message that names no file: {message[:300]!r}"
    if "MemoryError" in message or "Unable to allocate" in message:
        return f"out of memory: {message[:300]!r}"
    return ""


def _place(error: BaseException) -> str:
    """Return the innermost position in our code of an error."""
    place, trace = "?", error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if "crysatom" in file and "site-packages" not in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def write(files: Files, folder: Path) -> None:
    """Write an input into an empty folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _ingest(source: Path, out: Path) -> list[str]:
    report = ingest_plain(IngestConfig.of(source=str(source), out=str(out)))
    rows = pq.read_table(report.quarantine).to_pylist()
    assert report.read == report.accepted + report.rejected
    assert len(rows) == report.rejected
    assert read_table(report.table).num_rows == report.accepted
    return [row["detail"] for row in rows]


def _one_file(strategy: SearchStrategy[bytes], *names: str) -> SearchStrategy[Files]:
    return st.builds(lambda name, content: {name: content}, st.sampled_from(names), strategy)


def _only_file(folder: Path) -> Path:
    [path] = [path for path in folder.iterdir() if path.name != "out"]
    return path


def _read_source(folder: Path) -> list[str]:
    return _ingest(_only_file(folder), folder / "out")


def _any(*strategies: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.one_of(*strategies)


def _mutations(contents: Sequence[bytes]) -> SearchStrategy[bytes]:
    return st.sampled_from(contents).flatmap(make.mutated)


def _cif() -> SearchStrategy[Files]:
    text = _any(make.cif_texts(), _mutations(corpus.cifs()))
    return _any(_one_file(text, "a.cif"), _one_file(text.flatmap(lambda t: make.mutated(_gzip(t), 1)), "a.cif.gz"))


def _gzip(content: bytes) -> bytes:
    return make.gzip.compress(content, 1, mtime=0)


@st.composite
def _listed_folder(draw: DrawFn) -> Files:
    ids = ("a", "b.cif", "c", "", "../a", "id")
    listing = _any(make.delimited(("id", "gap"), ids, 1), make.mutated(b"id,gap,note\na,1.5,x\nb,-2,y\n"))
    texts = st.sampled_from(corpus.cifs())
    return {"id_prop.csv": draw(listing), "a.cif": draw(texts), "b.cif": draw(_any(texts, make.cif_texts()))}


_KEYS = (
    "lattice",
    "matrix",
    "sites",
    "species",
    "abc",
    "structure",
    "atoms",
    "lattice_mat",
    "coords",
    "elements",
    "id",
)


def _json() -> SearchStrategy[Files]:
    documents = corpus.json_documents()
    text = _any(
        st.sampled_from(documents).flatmap(make.edited),
        st.sampled_from(documents).flatmap(make.edited),
        make.json_values((*_KEYS, "columns", "index", "data")),
        _mutations([json.dumps(d).encode() for d in documents]),
    )
    return _any(_one_file(text, "a.json"), _one_file(text.map(_gzip), "a.json.gz"))


def _json_lines() -> SearchStrategy[Files]:
    record = _any(st.sampled_from(corpus.json_documents()[3]).flatmap(make.edited), make.json_values(_KEYS))
    lines = st.lists(record, min_size=1, max_size=4).map(b"\n".join)
    text = _any(lines, lines.flatmap(make.mutated))
    return _any(_one_file(text, "a.jsonl"), _one_file(text.map(_gzip), "a.jsonl.gz"))


def _ase() -> SearchStrategy[Files]:
    def damaged(name: str) -> SearchStrategy[Files]:
        return _one_file(make.mutated(corpus.ase_files()[name]), name)

    return st.sampled_from(sorted(corpus.ase_files())).flatmap(damaged)


def _read_ase(folder: Path) -> list[str]:
    """Read one input in ten as users do, with a process per file; the others in this process, which is faster."""
    if zlib.crc32(_only_file(folder).read_bytes()) % 10 == 0:
        return _read_source(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ase_files, "confined", lambda _, path, *arguments: ase_files.read(path, *arguments))
        return _read_source(folder)


def _table() -> SearchStrategy[Files]:
    return _one_file(make.tables(corpus.table()), "a.parquet")


def _read_table(folder: Path) -> list[str]:
    """Read a table as trainings do: whole, in batches, its targets and its splits."""
    path = folder / "a.parquet"
    table = read_table(path)
    for _ in iter_crystal_batches(path):
        pass
    usual = _refusals(corpus.table())  # four crystals are too few for some splits
    # its messages do not name the file, which it does not know
    return [f"{path}: {message}" for message in _refusals(table) if message not in usual]


def _refusals(table: pa.Table) -> list[str]:
    ids = table["material_id"].to_pylist()
    calls: list[Callable[[], Any]] = [
        lambda: targets_for(table, "target", ids),
        lambda: targets_for(table, "x", ids),
        lambda: targets_for(table, "density", ids),
        lambda: splits.official(table, "target", ids),
        lambda: splits.random(ids),
        lambda: splits.grouped_by_composition(table, ids),
        lambda: splits.held_out_elements(table, ids, ["O"]),
        lambda: splits.twin_free(table, splits.official(table, "target", ids)),
    ]
    said = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            said.append(str(error))
    return said


_CHOICES = st.fixed_dictionaries(
    {
        "lattice_edges": st.sampled_from(["none", "primitive", "cell"]),
        "potentials": st.sampled_from(["none", "exact", "published"]),
        "reverse_edges": st.sampled_from(["none", "add"]),
        "directions": st.booleans(),
        "cutoff": st.sampled_from([8.0, 8.0, 0.5, 4.0, 12.0]),
        "num_neighbors": st.sampled_from([12, 12, 1, 30]),
        "min_distance": st.sampled_from([0.5, 0.5, 0.0, 2.0]),
    }
)


def _crystals() -> SearchStrategy[Files]:
    table = _any(make.absurd_crystals().map(corpus.parquet), make.tables(corpus.table()))
    return st.builds(lambda t, how: {"a.parquet": t, "how.json": json.dumps(how).encode()}, table, _CHOICES)


def _featurize(folder: Path) -> list[str]:
    how = json.loads((folder / "how.json").read_text())
    out = folder / "out"
    report = featurize_plain(FeaturizeConfig.of(data=str(folder / "a.parquet"), out=str(out), **how))
    assert report.read == report.accepted + report.rejected
    shards.load(out, verify=True)
    return [row["detail"] for row in pq.read_table(out / shards.QUARANTINE).to_pylist()]


def _ingest_crystals(folder: Path) -> list[str]:
    return _ingest(folder / "a.parquet", folder / "out")


def _targets_csv() -> SearchStrategy[Files]:
    ids = tuple(corpus.table()["material_id"].to_pylist())
    sound = "material_id,gap\n" + "".join(f"{i},{k}.5\n" for k, i in enumerate(ids))
    return _one_file(_any(make.delimited(("material_id", "gap"), ids, 1), make.mutated(sound.encode())), "a.csv")


def _read_targets(folder: Path) -> list[str]:
    table = corpus.table()
    try:
        targets_from_csv(folder / "a.csv", table, table["material_id"].to_pylist())
    except ValueError as error:
        return [str(error) if str(folder) in str(error) else f"{folder}: {error}"]
    return []


def _vectors() -> SearchStrategy[Files]:
    sound = corpus.vectors()
    rows = json.loads(sound["atom_init.json"])
    few = {key: rows[key] for key in list(rows)[:5]}
    elements = ("H", "O", "Na", "X", "Fe")
    return _any(
        _one_file(_any(make.mutated(sound["vectors.csv"]), make.delimited(("element", "0"), elements, 1)), "a.csv"),
        _one_file(_any(make.edited(few), make.edited(rows), make.json_values(elements)), "a.json"),
        _one_file(make.safetensors(sound["vectors.safetensors"]), "a.safetensors"),
    )


def _read_vectors(folder: Path) -> list[str]:
    given_vectors(str(_only_file(folder))).lookup([])
    return []


@st.composite
def _folder(draw: DrawFn, files: Mapping[str, bytes]) -> Files:
    """Damage some of a folder's files."""
    content = dict(files)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(files)))
        if name.endswith(".json"):
            content[name] = draw(_any(*[make.edited(json.loads(files[name]))] * 3, make.mutated(files[name])))
        elif name.endswith(".safetensors"):
            content[name] = draw(make.safetensors(files[name]))
        else:
            content[name] = draw(make.mutated(files[name], 1))
        if draw(st.integers(0, 19)) == 0:
            del content[name]
    return content


def _read_shards(folder: Path) -> list[str]:
    """Read shards with a check of sizes only, as trainings do, and with digests."""
    said = []
    for verify in (True, False):
        try:
            graphs = shards.load(folder, verify=verify)
            list(shards.iter_tables(folder))
            shards.load_atoms(folder)
            assert graphs.edge_ptr[-1] == len(graphs.neighbor) == len(graphs.distance), (
                "graphs that do not fit together"
            )
            assert graphs.atom_ptr[-1] == len(graphs.atomic_numbers) == len(graphs.edge_ptr) - 1
        except ValueError as error:
            said.append(str(error))
    return said


@st.composite
def _preset(draw: DrawFn) -> Files:
    kind = draw(st.sampled_from(sorted(_CONFIGS)))
    fields = sorted(_CONFIGS[kind].names())
    value = _any(make.odd_values(), st.lists(st.sampled_from(["--out", "a", "1"]), max_size=3))
    document = draw(st.dictionaries(st.sampled_from(fields) | st.text(max_size=4), value, max_size=4))
    name, content = draw(_any(st.just(("a.json", make.to_json(document))), st.just(("a.toml", _toml(document)))))
    return {name: draw(_any(*[st.just(content)] * 3, make.mutated(content, 2))), "kind": kind.encode()}


def _toml(document: Mapping[str, Any]) -> bytes:
    lines = []
    for key, value in document.items():
        marks = {make.DEEP: "[" * 20_000 + "]" * 20_000, make.BIG: f'"{"x" * 300_000}"', **make.NOT_NUMBERS}
        literal = marks.get(value) if isinstance(value, str) else None
        lines.append(f"{json.dumps(key)} = {literal or json.dumps(value)}")
    return "\n".join(lines).encode()


_CONFIGS: dict[str, type[config.Group]] = {
    name: getattr(config, name) for name in config.__all__ if name.endswith("Config") and name != "GraphSpec"
}


@st.composite
def _flags(draw: DrawFn) -> Files:
    kind = draw(st.sampled_from([*sorted(_CONFIGS), "study"]))
    kinds = [_CONFIGS[kind]] if kind in _CONFIGS else _CONFIGS.values()
    fields = [name for each in kinds for name in sorted(each.names())]
    odd = st.sampled_from([*make.ODD_NUMBERS, *make.ODD_TEXTS, "1", "2", "x", "0.5", "all", "--"]) | st.text(max_size=6)
    arguments: list[str] = []
    for name in draw(st.lists(st.sampled_from(fields), max_size=5)):
        flag = "--" + draw(st.sampled_from(["", "", "", "no-"])) + name.replace("_", "-")
        arguments += draw(
            st.sampled_from([[flag], [flag, draw(odd)], [f"{flag}={draw(odd)}"], [flag, draw(odd), draw(odd)]])
        )
    return {"kind": kind.encode(), "flags": json.dumps(arguments + draw(st.lists(odd, max_size=1))).encode()}


_NEEDED = {
    "out": "x",
    "data": "x",
    "property": "density",
    "space": "x",
    "method": "skipatom",
    "inputs": "x",
    "model": "x",
}


def _parse(kind: str, arguments: list[str]) -> list[str]:
    """Parse flags after the required ones; check that an accepted number is a number."""
    needed: list[str] = []
    if kind in _CONFIGS:
        without_default = _CONFIGS[kind].names() - config.default_settings(_CONFIGS[kind]).keys()
        for name in sorted(without_default & _NEEDED.keys()):
            needed += [*([] if name == "inputs" else [f"--{name}"]), _NEEDED[name]]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            parsed: Any = (
                config.parse_study(arguments) if kind == "study" else config.parse(_CONFIGS[kind], needed + arguments)
            )
        except SystemExit as end:
            if end.code == 0:  # --help
                return []
            text = end.code if isinstance(end.code, str) else out.getvalue() + err.getvalue()
            said = " ".join(str(text).split())
            assert said, "ended without a word"
            assert "Traceback" not in said
            return [f"-- {said[: LONGEST - 10]}" if isinstance(end.code, int) else said]
    nan = [name for name, value in parsed.flat().items() if isinstance(value, float) and math.isnan(value)]
    assert not nan, f"accepted NaN as {nan}"
    return []


def _parse_preset(folder: Path) -> list[str]:
    [file] = [path for path in folder.iterdir() if path.suffix in {".json", ".toml"}]
    return _parse((folder / "kind").read_text(), ["--config", str(file)])


def _parse_flags(folder: Path) -> list[str]:
    return _parse((folder / "kind").read_text(), json.loads((folder / "flags").read_text()))


def _load(loader: Callable[[Path], Any]) -> Callable[[Path], list[str]]:
    def read(folder: Path) -> list[str]:
        loader(folder)
        return []

    return read


def _newest_checkpoint(folder: Path) -> Any:
    checkpoints.newest(folder.parent)
    return checkpoints.load(folder)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("CIF", _cif, _read_source),
        Target("folder with id_prop.csv", _listed_folder, lambda folder: _ingest(folder, folder / "out")),
        Target("JSON", _json, _read_source),
        Target("JSON Lines", _json_lines, _read_source),
        Target("ASE's formats", _ase, _read_ase),
        Target("Parquet as a source", _table, _ingest_crystals),
        Target("crystal table, targets, splits", _table, _read_table),
        Target("crystals to graphs", _crystals, _featurize),
        Target("targets CSV", _targets_csv, _read_targets),
        Target("element vectors", _vectors, _read_vectors),
        Target("graph shards", lambda: _folder(corpus.shards()), _read_shards),
        Target("encoder", lambda: _folder(corpus.encoder()), _load(load_encoder)),
        Target("model", lambda: _folder(corpus.model()), _load(load_model)),
        Target("checkpoint", lambda: _folder(corpus.checkpoint()), _load(_newest_checkpoint)),
        Target("--config file", _preset, _parse_preset),
        Target("flags", _flags, _parse_flags),
    )
}
