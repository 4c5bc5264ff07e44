"""Predictions of CGCNN's eight published checkpoints, read by our code, compared with Materials Project labels.

    git clone https://github.com/txie-93/cgcnn
    python benchmarks/published_cgcnn.py --table mp_36k.parquet --checkpoints cgcnn/pre-trained

``--write-cifs FOLDER`` writes the crystals and stops. CGCNN's own predict.py, run on that folder with the
formation-energy checkpoint, writes test_results.csv; ``--original test_results.csv`` compares our predictions with it.

A record of one day: ``make bench`` does not run this.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pymatgen.core import Lattice, Structure

from crysatom.config import FeaturizeConfig, GraphSpec
from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.graph import GraphArrays
from crysatom.graphs.shards import load
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE, MATERIAL_ID
from crysatom.predictors.published_cgcnn import GRAPH, PublishedCGCNN, read_published
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware
from crysatom.training.metrics import mae_interval
from crysatom.vectors.published import cgcnn_bits

RESULTS = Path(__file__).parent / "results"
UNPHYSICAL = ("mp-778012", "mp-690564", "mp-693892", "mp-775201")
"""Crystals whose formation energies in the table are outside the physical range; see the README of the data."""

TIE = 1e-5
"""Distances closer than this count as equal, in angstrom: rounding decides their order."""

BATCH = 256
FORMATION_ENERGY = "formation-energy-per-atom"
CLASSIFIER = "semi-metal-classification"


def sample(table: pa.Table, count: int) -> pa.Table:
    """Return random rows, in order, including the unphysical ones."""
    ids = np.array(table[MATERIAL_ID].to_pylist())
    named = np.flatnonzero(np.isin(ids, UNPHYSICAL))
    others = np.setdiff1d(np.arange(len(ids)), named)
    rows = np.random.default_rng(0).choice(others, count, replace=False)
    return table.take(np.sort(np.concatenate([named, rows])))


def make_graphs(crystals: pa.Table, folder: Path, spec: GraphSpec = GRAPH) -> GraphArrays:
    """Return graphs, by CGCNN's convention unless another one is given."""
    folder.mkdir(exist_ok=True)
    write_table(crystals, folder / "crystals.parquet")
    out = folder / spec.ties
    featurize_plain(
        FeaturizeConfig.of(
            data=str(folder / "crystals.parquet"),
            out=str(out),
            ties=spec.ties,
            tie_tolerance=spec.tie_tolerance,
            pad_short_lists=spec.pad_short_lists,
        )
    )
    return load(out)


def tied(crystals: pa.Table, folder: Path) -> np.ndarray:
    """Return which crystals have an atom with a tie at the 12th neighbor, so that CGCNN's graph is ambiguous."""
    whole = make_graphs(crystals, folder, GraphSpec(ties="complete", tie_tolerance=TIE))
    return np.maximum.reduceat(np.diff(whole.edge_ptr), whole.atom_ptr[:-1]) > GRAPH.num_neighbors


@torch.no_grad()
def predict(published: PublishedCGCNN, graphs: GraphTensors) -> np.ndarray:
    """Return the predictions of the published model, in the order of the graphs."""
    model = published.build(cgcnn_bits())
    batches = torch.arange(graphs.num_crystals).split(BATCH)
    return torch.cat([published.values(model(select(graphs, rows))) for rows in batches]).double().numpy()


def area_under_roc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the probability that a positive scores higher than a negative; ties count half."""
    ranks = score.argsort().argsort() + 1.0
    for value in np.unique(score):
        ranks[score == value] = ranks[score == value].mean()
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def error(target: np.ndarray, prediction: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """Return the mean absolute error with its 95 % interval, and the median."""
    kept = kept & np.isfinite(target)
    interval = mae_interval(target[kept], prediction[kept])
    return {
        "crystals": int(kept.sum()),
        "mae": round(interval.estimate, 4),
        "interval_95": [round(interval.low, 4), round(interval.high, 4)],
        "median_absolute_error": round(float(np.median(np.abs(target - prediction)[kept])), 4),
    }


def compare_with_original(path: Path, ids: np.ndarray, ours: np.ndarray, ties: np.ndarray) -> dict[str, Any]:
    """Compare with CGCNN's test_results.csv (id, target, prediction), for all crystals and for unambiguous graphs."""
    with path.open(newline="") as file:
        theirs = {row[0]: float(row[2]) for row in csv.reader(file)}
    assert set(theirs) == set(ids), "the original predicted the same crystals"
    difference = np.abs(ours - np.array([theirs[i] for i in ids]))
    return {
        "crystals": len(ids),
        "within_1e-5": round(float((difference <= 1e-5).mean()), 4),
        "within_1e-2": round(float((difference <= 1e-2).mean()), 4),
        "median": float(f"{np.median(difference):.2g}"),
        "largest": round(float(difference.max()), 4),
        "mean_of_difference": float(f"{difference.mean():.2g}"),
        "without_a_tie": {
            "crystals": int((~ties).sum()),
            "within_1e-5": round(float((difference[~ties] <= 1e-5).mean()), 4),
            "largest": float(f"{difference[~ties].max():.2g}"),
        },
    }


def write_cifs(crystals: pa.Table, folder: Path, atom_init: Path) -> None:
    """Write the input of CGCNN's predict.py; targets are zero."""
    folder.mkdir(parents=True)
    shutil.copy(atom_init, folder / "atom_init.json")
    with (folder / "id_prop.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((i, 0.0) for i in crystals[MATERIAL_ID].to_pylist())
    for row in crystals.to_pylist():
        lattice = Lattice(np.reshape(row[LATTICE], (3, 3)))
        structure = Structure(lattice, row[ATOMIC_NUMBERS], np.reshape(row[FRAC_COORDS], (-1, 3)))
        structure.to(filename=str(folder / f"{row[MATERIAL_ID]}.cif"))


def measure(crystals: pa.Table, checkpoints: Path, original: Path | None, folder: Path) -> dict[str, Any]:
    """Read all checkpoints, predict, and compare with the labels of the table."""
    graphs = make_graphs(crystals, folder)
    ids = graphs.material_ids
    rows = {i: k for k, i in enumerate(crystals[MATERIAL_ID].to_pylist())}
    order = [rows[i] for i in ids]
    labels = {
        name: crystals[name].to_numpy()[order].astype(float)
        for name in ("formation_energy_peratom", "e_form", "gap_pbe")
    }
    everything, physical = np.ones(len(ids), dtype=bool), ~np.isin(ids.astype(str), UNPHYSICAL)
    tensors = GraphTensors.of(graphs)
    result: dict[str, Any] = {"crystals_read": len(crystals), "crystals_predicted": len(ids), "checkpoints": {}}
    for path in sorted(checkpoints.glob("*.pth.tar")):
        name = path.name.removesuffix(".pth.tar")
        published = read_published(path)
        start = time.perf_counter()
        values = predict(published, tensors)
        seconds = time.perf_counter() - start
        quantiles = [round(float(q), 4) for q in np.quantile(values, [0, 0.05, 0.5, 0.95, 1])]
        entry: dict[str, Any] = {
            "target": published.target,
            "task": published.task,
            "published_validation_error": published.best,
            "predictions_min_5_50_95_max": quantiles,
            "finite": bool(np.isfinite(values).all()),
            "crystals_per_second": round(len(ids) / seconds),
        }
        if name == FORMATION_ENERGY:
            labeled = labels["formation_energy_peratom"]
            entry["formation_energy_peratom"] = error(labeled, values, physical)
            entry["formation_energy_peratom_with_the_unphysical"] = error(labeled, values, everything)
            entry["e_form"] = error(labels["e_form"], values, everything)
            if original is not None:
                entry["beside_the_original"] = compare_with_original(original, ids, values, tied(crystals, folder))
        if name == "band-gap":
            entry["gap_pbe_of_crystals_with_a_gap"] = error(labels["gap_pbe"], values, labels["gap_pbe"] > 0)
        if name == CLASSIFIER:
            known = np.isfinite(labels["gap_pbe"])
            metal = labels["gap_pbe"][known] == 0
            entry["metals_by_gap_pbe"] = {
                "crystals": int(known.sum()),
                "metals": int(metal.sum()),
                "area_under_roc": round(area_under_roc(metal, values[known]), 4),
                "accuracy": round(float(((values[known] > 0.5) == metal).mean()), 4),
            }
        result["checkpoints"][name] = entry
        print(name, json.dumps(entry), flush=True)
    return result


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="mp_36k.parquet")
    parser.add_argument("--checkpoints", type=Path, help="folder pre-trained/ of txie-93/cgcnn")
    parser.add_argument("--crystals", type=int, default=1500)
    parser.add_argument("--write-cifs", type=Path, help="write the crystals for CGCNN's predict.py here, and stop")
    parser.add_argument("--atom-init", type=Path, help="atom_init.json of CGCNN, copied beside the CIFs")
    parser.add_argument("--original", type=Path, help="test_results.csv that CGCNN's predict.py wrote")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    crystals = sample(read_table(arguments.table), arguments.crystals)
    if arguments.write_cifs:
        write_cifs(crystals, arguments.write_cifs, arguments.atom_init)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(crystals, arguments.checkpoints, arguments.original, Path(folder))
    result |= {
        "settings": {"table": arguments.table.name, "crystals": arguments.crystals, "batch": BATCH, "threads": 1},
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "environment": environment_tags(hardware()),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "published_cgcnn.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
