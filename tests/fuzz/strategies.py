"""Strategies for broken files: damaged real ones, and ones generated from the grammar of their format.

An input is the content of a folder: a mapping from file names to bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzz.corpus import packed_safetensors, unpacked_safetensors

Files = Mapping[str, bytes]

ODD_NUMBERS = (
    *("nan", "inf", "-inf", "0", "-0", "-1", "1e308", "-1e308", "1e-320", "1e400", "9" * 400, "9" * 5000, "1000000000"),
    *("0x10", "1_000", "\uff11\uff12", "1,5", "?", ".", "1e", "--1", "1.5(3)", "(1)", "1e-8", "1e6", "179.99", "0.001"),
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\0",
        "\r",
        "\t",
        "'",
        '"',
        "'''''",
        ",",
        ";",
        "#",
        "{",
        "[",
        "}",
        "]",
        "data_",
        "loop_",
        "_",
        "--",
    ),
    *(
        "\ufeff",
        "\u202e",
        "\ud83d",
        "é",
        "../../etc/passwd",
        "/dev/zero",
        "/",
        "~",
        "a\nb",
        "%s%n",
        "null",
        "true",
        "-",
    ),
)
DEEP = "@deep@"
"""Placeholder for deeply nested lists, which Python's JSON writer rejects."""

BIG = "@big@"
NOT_NUMBERS = {
    "@nan@": "NaN",
    "@inf@": "-Infinity",
    "@huge@": "9" * 400,
    "@large@": "1e308",
    "@surrogate@": '"\\ud800"',
}

_NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][+-]?\d+)?")


def odd_values() -> SearchStrategy[Any]:
    """Return unexpected values for JSON or a flag."""
    plain = [
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        1.5,
        10**12,
        10**19,
        "",
        "x",
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        [1, 2, 3],
        "-",
    ]
    marks = [DEEP, BIG, *NOT_NUMBERS]
    return st.sampled_from([*plain, *marks]) | st.sampled_from(ODD_TEXTS) | st.integers(-(2**70), 2**70) | st.floats()


def to_json(document: Any) -> bytes:
    """Return JSON; placeholders are replaced by text that the JSON writer cannot produce."""
    text = json.dumps(document)
    for mark, literal in {DEEP: "[" * 20_000 + "]" * 20_000, BIG: f'"{"x" * 300_000}"', **NOT_NUMBERS}.items():
        text = text.replace(f'"{mark}"', literal)
    return text.encode()


@st.composite
def mutated(draw: DrawFn, base: bytes, most: int = 4) -> bytes:
    """Damage some bytes of a file."""
    content = base
    for _ in range(draw(st.integers(1, most))):
        content = draw(st.sampled_from(_DAMAGES))(draw, content)
    return content


def _place(draw: DrawFn, content: bytes) -> int:
    return draw(st.integers(0, max(0, len(content) - 1)))


def _flip(draw: DrawFn, content: bytes) -> bytes:
    where = _place(draw, content)
    return content[:where] + bytes([draw(st.integers(0, 255))]) + content[where + 1 :]


def _cut(draw: DrawFn, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _remove(draw: DrawFn, content: bytes) -> bytes:
    start = _place(draw, content)
    return content[:start] + content[start + draw(st.integers(1, 200)) :]


def _repeat(draw: DrawFn, content: bytes) -> bytes:
    start = _place(draw, content)
    part = content[start : start + draw(st.integers(1, 60))]
    return content[:start] + part * draw(st.sampled_from([2, 3, 50, 2000])) + content[start:]


def _insert(draw: DrawFn, content: bytes) -> bytes:
    where = _place(draw, content)
    text = draw(st.sampled_from([*ODD_TEXTS, *ODD_NUMBERS])) * draw(st.sampled_from([1, 1, 1, 5, 10_000]))
    return content[:where] + text.encode("utf-8", "surrogatepass") + content[where:]


def _number(draw: DrawFn, content: bytes) -> bytes:
    found = list(_NUMBER.finditer(content[:200_000]))
    if not found:
        return _insert(draw, content)
    which = draw(st.sampled_from(found))
    return content[: which.start()] + draw(st.sampled_from(ODD_NUMBERS)).encode() + content[which.end() :]


def _swap(draw: DrawFn, content: bytes) -> bytes:
    separator = draw(st.sampled_from([b" ", b"\n", b",", b":"]))
    parts = content.split(separator)
    a, b = (draw(st.integers(0, len(parts) - 1)) for _ in range(2))
    parts[a], parts[b] = parts[b], parts[a]
    return separator.join(parts)


def _line(draw: DrawFn, content: bytes) -> bytes:
    lines = content.split(b"\n")
    where = draw(st.integers(0, len(lines) - 1))
    change = draw(st.sampled_from(["double", "drop", "long", "blank"]))
    line = lines[where]
    new = {"double": [line] * 2, "drop": [], "long": [line[:1000] * 3000], "blank": [b""] * 20_000}[change]
    return b"\n".join([*lines[:where], *new, *lines[where + 1 :]])


def _encode(draw: DrawFn, content: bytes) -> bytes:
    text = content.decode("latin-1")
    return text.encode(draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32", "utf-8"])), "replace")


def _compress(_draw: DrawFn, content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


_DAMAGES: Sequence[Callable[[DrawFn, bytes], bytes]] = (
    *(_flip, _cut, _remove, _repeat, _insert, _number, _number, _number, _swap, _line, _encode, _compress),
)


@st.composite
def edited(draw: DrawFn, document: Any, most: int = 3) -> bytes:
    """Replace, remove or duplicate some values of a JSON document."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, most))):
        document = _edit(draw, document)
    return to_json(document)


def _edit(draw: DrawFn, node: Any) -> Any:
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not keys or draw(st.integers(0, 5)) == 0:
        return draw(odd_values())
    key = draw(st.sampled_from(keys))
    how = draw(st.integers(0, 9))
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[draw(st.sampled_from([str(key).upper(), "", "@module", "lattice", "id", *ODD_TEXTS]))] = node[key]
    elif how == 1:
        node += [node[key]] * draw(st.sampled_from([1, 2, 1000]))
    else:
        node[key] = _edit(draw, node[key])
    return node


@st.composite
def json_values(draw: DrawFn, likely_keys: Sequence[str]) -> bytes:
    """Write arbitrary JSON with some of the keys that a reader looks for."""
    keys = st.sampled_from(likely_keys) | st.text(max_size=5)
    document = st.recursive(
        odd_values(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
    return to_json(draw(document))


@st.composite
def cif_texts(draw: DrawFn) -> bytes:
    """Write a CIF with valid syntax and unusual content."""
    number = st.sampled_from(["4", "90", "0.5", "120", "3.9(2)"]) | st.sampled_from(ODD_NUMBERS)
    plain = st.sampled_from(["4", "5.1", "7"]) if draw(st.booleans()) else number
    lines = [draw(st.sampled_from(["data_x", "data_", "DATA_x", "data_x\ndata_y", ""]))]
    angle = st.just("90") if draw(st.booleans()) else number
    names = [*(f"_cell_length_{n}" for n in "abc"), *(f"_cell_angle_{n}" for n in ("alpha", "beta", "gamma"))]
    lines += [f"{name} {draw(plain if 'length' in name else angle)}" for name in names if draw(st.integers(0, 30))]
    if draw(st.booleans()):
        operations = st.sampled_from(
            ["x,y,z", "-x,-y,-z", "x+1/2,y,z", "y,x,z", "x,y", "1e400x,y,z", "x/0,y,z", "x,x,x"]
        )
        name = draw(st.sampled_from(["_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"]))
        lines += ["loop_", name, *(f"'{draw(operations)}'" for _ in range(draw(st.integers(0, 4))))]
    if draw(st.booleans()):
        groups = st.sampled_from(["P1", "Fm-3m", "F m -3 m", "P 63/m m c", "?", "'", "225", "nonsense"])
        lines += [f"_symmetry_space_group_name_H-M '{draw(groups)}'", f"_symmetry_Int_Tables_number {draw(number)}"]
    if draw(st.booleans()):
        formulas = (
            "Na1 Cl1",
            "Na(Cl(O",
            "((((((",
            "Na1e308",
            "Na-1",
            "Na0",
            "Xx2",
            "((Na2)3)4",
            "Na" * 2000,
            "(" * 3000,
        )
        lines.append(f"_chemical_formula_sum '{draw(st.sampled_from(formulas))}'")
    symbols = st.sampled_from(["Na", "Cl", "Fe3+", "D", "Na1", "Cl-"]) | st.sampled_from(
        ["Xx", "?", "Wat", "", "Vc", "'"]
    )
    columns = ["type_symbol", "label", "fract_x", "fract_y", "fract_z", "occupancy"]
    columns = [c for c in columns if draw(st.integers(0, 20))]
    lines += ["loop_", *(f"_atom_site_{c}" for c in columns)]
    for _ in range(draw(st.integers(0, 5))):
        coordinate = st.sampled_from(["0", "0.5", "0.25", "0.33333"]) | st.floats(-2, 2).map(str) | number
        row = {
            "type_symbol": draw(symbols),
            "label": draw(symbols),
            "occupancy": draw(st.sampled_from(["1", "1", "0.5", "?"])),
        }
        lines.append(" ".join(row.get(c, "") or draw(coordinate) for c in columns))
    return draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines).encode()


@st.composite
def delimited(draw: DrawFn, header: Sequence[str], cells: Sequence[str], width: int) -> bytes:
    """Write rows of comma-separated values."""
    cell = st.sampled_from([*cells, *cells, *ODD_NUMBERS, *ODD_TEXTS]) | st.floats().map(str) | st.text(max_size=4)
    rows = [draw(st.sampled_from([list(header), list(header), ["id"], []]))]
    width_of = st.sampled_from([width] * 8 + [0, 9])
    rows += [
        [draw(st.sampled_from(cells)), *(draw(cell) for _ in range(draw(width_of)))]
        for _ in range(draw(st.integers(0, 6)))
    ]
    text = "\n".join(",".join(row) for row in rows)
    return text.encode(draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-8-sig", "latin-1"])), "replace")


@st.composite
def safetensors(draw: DrawFn, base: bytes) -> bytes:
    """Damage a safetensors file: its header, the tensors' values, or any bytes."""
    if draw(st.booleans()):
        return draw(mutated(base))
    header, data = unpacked_safetensors(base)
    if draw(st.booleans()):
        return packed_safetensors(draw(edited(header)), data)
    values = np.frombuffer(data[: len(data) // 4 * 4], np.uint32).copy()
    for _ in range(draw(st.integers(1, 4))):
        odd = draw(st.sampled_from([math.nan, math.inf, -1.0, 1e38]) | st.floats(width=32))
        values[draw(st.integers(0, len(values) - 1))] = np.float32(odd).view(np.uint32)
    return packed_safetensors(json.dumps(header).encode(), values.tobytes() + data[len(values) * 4 :])


@st.composite
def tables(draw: DrawFn, base: pa.Table) -> bytes:
    """Write a crystal table with unusual column types and values, or a damaged file."""
    table = base
    for _ in range(draw(st.integers(0, 3))):
        if table.num_rows and {"material_id", "lattice", "frac_coords", "atomic_numbers"} <= set(table.schema.names):
            with contextlib.suppress(
                pa.ArrowException, KeyError, TypeError
            ):  # an edit that is impossible after an earlier one
                table = draw(st.sampled_from(_TABLE_EDITS))(draw, table)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=draw(st.sampled_from(["zstd", "none", "snappy"])))
    content = sink.getvalue().to_pybytes()
    return draw(mutated(content, most=2)) if draw(st.integers(0, 2)) == 0 else content


def _replaced(table: pa.Table, name: str, values: list[Any], dtype: pa.DataType | None = None) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, dtype))


def _odd_number_in_list(draw: DrawFn, table: pa.Table) -> pa.Table:
    name = draw(st.sampled_from(["lattice", "frac_coords"]))
    rows = table[name].to_pylist()
    row = draw(st.integers(0, len(rows) - 1))
    if rows[row]:
        odd = st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, 0.0, -1.0, 1e4, 1e6, 1e-8, None])
        for _ in range(draw(st.integers(1, 3))):
            rows[row][draw(st.integers(0, len(rows[row]) - 1))] = draw(odd | st.floats())
    return _replaced(table, name, rows, pa.list_(pa.float64()))


def _odd_length(draw: DrawFn, table: pa.Table) -> pa.Table:
    name = draw(st.sampled_from(["lattice", "frac_coords", "atomic_numbers"]))
    rows = table[name].to_pylist()
    row = draw(st.integers(0, len(rows) - 1))
    rows[row] = draw(st.sampled_from([None, [], [1], [None], [1] * 9, [0] * 300, [1, None, 3], [0] * 200_000]))
    return _replaced(table, name, rows, pa.list_(pa.float64() if name != "atomic_numbers" else pa.int32()))


def _odd_type(draw: DrawFn, table: pa.Table) -> pa.Table:
    name = draw(st.sampled_from(["lattice", "frac_coords", "atomic_numbers"]))
    number = st.sampled_from(
        [pa.float32(), pa.float64(), pa.int64(), pa.uint64(), pa.int8(), pa.float16(), pa.string()]
    )
    wrap = draw(
        st.sampled_from(
            [pa.list_, pa.large_list, lambda t: pa.list_(t, 9), lambda t: t, lambda t: pa.list_(pa.list_(t))]
        )
    )
    try:
        column = table[name].combine_chunks().cast(wrap(draw(number)))
    except (pa.ArrowException, NotImplementedError):
        column = pa.array(["x"] * table.num_rows)
    return table.set_column(table.schema.get_field_index(name), name, column)


def _odd_ids(draw: DrawFn, table: pa.Table) -> pa.Table:
    ids = st.sampled_from([None, "", " ", "a", "\0", "../x", "é" * 50, "a\nb"])
    kinds = draw(st.integers(0, 4))
    count = table.num_rows
    if kinds == 0:
        return _replaced(table, "material_id", list(range(count)))
    if kinds == 1:
        return _replaced(table, "material_id", [b"\xff\xfe"] * count, pa.binary())
    if kinds == 2:  # text that is not UTF-8
        broken = pa.array([b"\xff\xfe"] * count, pa.binary()).view(pa.string())
        return table.set_column(table.schema.get_field_index("material_id"), "material_id", broken)
    return _replaced(table, "material_id", [draw(ids) for _ in range(count)], pa.string())


def _odd_property(draw: DrawFn, table: pa.Table) -> pa.Table:
    name = draw(
        st.sampled_from(["x", "", "density", "source_density", "formula", "split_target", "lattice", "target", "a\nb"])
    )
    columns = [
        ([2**63 + 5], pa.uint64()),
        ([2**60 + 1], pa.int64()),
        ([math.nan], pa.float32()),
        ([1.5], pa.float16()),
        ([b"\xff"], pa.binary()),
        ([[1, 2]], pa.list_(pa.int8())),
        ([{"a": 1}], pa.struct([("a", pa.int8())])),
        ([None], pa.null()),
        (["train"], pa.dictionary(pa.int8(), pa.string())),
        (["x"], pa.large_string()),
        ([0], pa.timestamp("ns")),
        ([3], pa.duration("s")),
        ([3], pa.decimal128(38, 2)),
        ([True], pa.bool_()),
        ([-1], pa.int8()),
        ([math.inf], pa.float64()),
    ]
    values, dtype = draw(st.sampled_from(columns))
    return table.append_column(
        pa.field(name, dtype, metadata={"unit": b"\xff"}), pa.array(values * table.num_rows, dtype)
    )


def _odd_rows(draw: DrawFn, table: pa.Table) -> pa.Table:
    how = draw(st.integers(0, 3))
    if how == 0:
        return table.slice(0, 0)
    if how == 1:
        return pa.concat_tables([table, table])
    if how == 2:
        return table.drop_columns([draw(st.sampled_from(table.schema.names))]) if len(table.schema) > 1 else table
    return table.select(table.schema.names[::-1])


_TABLE_EDITS: Sequence[Callable[[DrawFn, pa.Table], pa.Table]] = (
    *(_odd_number_in_list, _odd_number_in_list, _odd_length, _odd_type, _odd_ids, _odd_property, _odd_rows),
)


@st.composite
def lattices(draw: DrawFn) -> np.ndarray:
    """Return a ``(3, 3)`` cell: sometimes normal, mostly flat, long, skewed, tiny, huge or broken."""
    lengths = [
        draw(st.sampled_from([1e-8, 0.3, 0.9, 3.0, 5.0, 50.0, 1e3, 9.9e3, 1e6]) | st.floats(1, 20)) for _ in range(3)
    ]
    if draw(st.booleans()):
        lengths = [3.0, draw(st.sampled_from([4.0, 9.9e3])), 5.0]
    angles = [
        draw(st.sampled_from([90.0, 90.0, 60.0, 0.001, 0.5, 179.99, 178.0]) | st.floats(5, 175)) for _ in range(3)
    ]
    a, b, c = (math.radians(x) for x in angles)
    x = math.cos(b)
    y = (math.cos(a) - math.cos(b) * math.cos(c)) / max(math.sin(c), 1e-9)
    z = math.sqrt(max(0.0, 1 - x * x - y * y))
    cell = np.array([[1, 0, 0], [math.cos(c), math.sin(c), 0], [x, y, z]]) * np.array(lengths)[:, None]
    turn = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(3, 3)))[0]
    cell = draw(st.sampled_from([cell, cell, -cell, cell @ turn, cell[[1, 0, 2]]]))
    if draw(st.integers(0, 9)) == 0:
        i, j = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        cell = cell.copy()
        cell[i, j] = draw(st.sampled_from([math.nan, math.inf, 1e308, -1e308, 1e-320]) | st.floats())
    return cell


@st.composite
def absurd_crystals(draw: DrawFn) -> pa.Table:
    """Return a table of one crystal: an unusual cell, and few to many atoms, spread, clustered or coincident."""
    cell = draw(lattices())
    count = draw(st.sampled_from([1, 2, 3, 8, 100, 201, 300]))
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    spread = draw(st.sampled_from([1.0, 1.0, 0.01, 0.0, 900.0, 5e3]))
    coords = generator.random((count, 3)) * spread
    numbers = generator.integers(1, 4, count)
    columns = {
        "material_id": pa.array(["a"]),
        "lattice": pa.array([cell.ravel()], pa.list_(pa.float64())),
        "frac_coords": pa.array([coords.ravel()], pa.list_(pa.float64())),
        "atomic_numbers": pa.array([numbers], pa.list_(pa.uint8())),
    }
    return pa.table(columns)
