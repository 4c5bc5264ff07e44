"""Which rule on distances finds the bonds that CrystalNN finds: ``python benchmarks/bond_rules.py --table TABLE``.

CrystalNN takes a tenth of a second for a crystal of ten atoms; SkipAtom's counts need a rule that works on the
neighbor lists of graph shards. Rules are compared by the bonded pairs of different sites, which SkipAtom counts.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.local_env import CrystalNN
from pymatgen.core import Lattice, Structure

from crysatom.config import GraphSpec, Limits
from crysatom.crystals.table import GRAPH_COLUMNS, read_table
from crysatom.graphs.batch import collate
from crysatom.graphs.shard_task import make_graphs
from crysatom.names import ATOMIC_NUMBERS
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware
from crysatom.vectors.elements import element_table

RESULTS = Path(__file__).parent / "results"
Array = NDArray[Any]
Bonds = set[tuple[int, int]]


def crystal_nn(row: dict[str, Any], first: int) -> Bonds:
    """Return the bonded pairs of sites of a crystal, both ways, sites counted from ``first``."""
    cell = Structure(
        Lattice(np.reshape(row["lattice"], (3, 3))), row[ATOMIC_NUMBERS], np.reshape(row["frac_coords"], (-1, 3))
    )
    finder = CrystalNN()  # type: ignore[no-untyped-call]
    found = {(first + i, first + int(n["site_index"])) for i in range(len(cell)) for n in finder.get_nn_info(cell, i)}
    return found | {(b, a) for a, b in found}


def least(values: Array, centers: Array) -> Array:
    """Return for each edge the least value among the edges of its center."""
    found = np.full(centers.max() + 1, np.inf)
    np.minimum.at(found, centers, values)
    result: Array = found[centers]
    return result


def counts(bonds: Bonds, numbers: Array) -> Array:
    """Return the matrix of counts by elements."""
    table = np.zeros((119, 119))
    for a, b in bonds:
        table[numbers[a], numbers[b]] += 1
    return table


def main() -> None:
    """Compare the rules, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table (.parquet)")
    parser.add_argument("--crystals", type=int, default=400)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # CrystalNN, on elements without radii
    table = read_table(arguments.table).select(list(GRAPH_COLUMNS))
    rows = np.sort(np.random.default_rng(0).choice(len(table), arguments.crystals, replace=False))
    sample = table.take(rows).combine_chunks().to_batches()[0]
    verdicts, graphs = make_graphs(sample, GraphSpec(), Limits())
    batch = collate(graphs)
    rows_of = sample.to_pylist()
    kept = [rows_of[k] for k in verdicts.accepted.tolist()]
    start = time.process_time()
    expected: Bonds = set()
    for row, first in zip(kept, batch.ptr.tolist(), strict=False):
        expected |= crystal_nn(row, first)
    seconds = time.process_time() - start
    numbers = batch.atomic_numbers.numpy()
    neighbor, center = batch.edge_index.numpy()
    distance = batch.distance.numpy().astype(float)
    radius = np.array([float(element_table()[z]["covalent_radius_pm"] or "nan") / 100 if z else 0 for z in range(119)])
    relative = distance / (radius[numbers[center]] + radius[numbers[neighbor]])
    rules = {f"d <= {f:.2f} nearest": distance <= f * least(distance, center) for f in (1.05, 1.1, 1.15, 1.2, 1.3)}
    rules |= {f"d <= {f:.2f} sum of covalent radii": relative <= f for f in (1.1, 1.2, 1.3)}
    rules |= {
        f"d / sum of covalent radii <= {f:.2f} of the least": relative <= f * least(relative, center)
        for f in (1.05, 1.15, 1.25)
    }
    found = {}
    for name, bonded in rules.items():
        pairs = set(zip(center[bonded].tolist(), neighbor[bonded].tolist(), strict=True))
        pairs |= {(b, a) for a, b in pairs}
        both = len(pairs & expected)
        ours, theirs = counts(pairs, numbers), counts(expected, numbers)
        some = (ours + theirs) > 0
        found[name] = {
            "pairs": len(pairs),
            "precision": round(both / len(pairs), 3),
            "recall": round(both / len(expected), 3),
            "f1": round(2 * both / (len(pairs) + len(expected)), 3),
            "correlation_of_counts": round(float(np.corrcoef(ours[some], theirs[some])[0, 1]), 3),
        }
        print(f"| {name} | " + " | ".join(map(str, found[name].values())) + " |", flush=True)
    result = {
        "rules": found,
        "crystal_nn_pairs": len(expected),
        "crystal_nn_cpu_s": round(seconds, 1),
        "crystals": len(kept),
        "table": arguments.table.name,
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    print(f"CrystalNN: {len(expected)} pairs, {seconds:.1f} CPU s for {len(kept)} crystals")
    (RESULTS / "bond_rules.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
