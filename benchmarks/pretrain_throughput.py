"""Crystals per second of pretraining: the published procedure and ours in turn, on the same crystals.

    python benchmarks/pretrain_throughput.py --table jarvis_dft_3d.parquet

Cold includes everything from CIF files on; warm is a training epoch on existing graphs, as in most epochs of a run. The
published procedure is always cold: it parses files and searches neighbors in every epoch.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import published_procedure as published
import torch
from pymatgen.core import Lattice, Structure

from crysatom.config import FeaturizeConfig, IngestConfig, PretrainConfig, default, paper
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import read_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE
from crysatom.tracking.environment import environment_tags
from crysatom.training.context import PlainContext
from crysatom.training.loop import Loop
from crysatom.training.machine import hardware
from crysatom.training.pretrain import build, resident_data
from crysatom.vectors.elements import element_features

RESULTS = Path(__file__).parent / "results"
EPOCHS_PER_ROUND = 2


@dataclass(frozen=True)
class Timing:
    """Wall-clock and processor seconds for a number of crystals."""

    crystals: int
    wall: float
    cpu: float

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.crystals + other.crystals, self.wall + other.wall, self.cpu + other.cpu)

    @property
    def wall_each(self) -> float:
        """Wall-clock seconds per crystal."""
        return self.wall / self.crystals

    @property
    def cpu_each(self) -> float:
        """Processor seconds per crystal."""
        return self.cpu / self.crystals

    def summary(self) -> dict[str, float]:
        """Return speed and processor time per crystal."""
        return {
            "crystals_per_second": round(self.crystals / self.wall, 2),
            "cpu_ms_per_crystal": round(1e3 * self.cpu / self.crystals, 2),
        }


def timed(crystals: int, work: Callable[[], Any]) -> tuple[Timing, Any]:
    """Run a function; return its time and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return Timing(crystals, time.perf_counter() - wall, time.process_time() - cpu), value


def write_cifs(table: Path, count: int, folder: Path) -> list[Path]:
    """Write a random sample of a crystal table as CIF files."""
    crystals = read_table(table)
    rows = np.random.default_rng(0).choice(len(crystals), count, replace=False)
    files = []
    for k, row in enumerate(crystals.take(np.sort(rows)).to_pylist()):
        lattice = Lattice(np.reshape(row[LATTICE], (3, 3)))
        coordinates = np.reshape(row[FRAC_COORDS], (-1, 3))
        files.append(folder / f"{k}.cif")
        Structure(lattice, row[ATOMIC_NUMBERS], coordinates).to(filename=str(files[-1]))
    return files


class PublishedRun:
    """The published procedure, one batch at a time."""

    def __init__(self, files: list[Path], features: Path, dim: int, batch_size: int) -> None:
        torch.manual_seed(0)
        self.files, self.batch_size, self.at = files, batch_size, 0
        self.elements = published.read_element_features(features)
        self.model = published.Reference(dim)
        self.optimizer = published.make_optimizer(self.model)
        self.rng = np.random.default_rng(0)

    def batch(self) -> tuple[Timing, Timing]:
        """Load one batch and train on it; return both times."""
        files = self.files[self.at : self.at + self.batch_size]
        self.at = (self.at + self.batch_size) % (len(self.files) - self.batch_size + 1)
        loading, batch = timed(
            len(files), lambda: published.collate([published.load_crystal(f, self.elements, self.rng) for f in files])
        )
        step, _ = timed(len(files), lambda: published.train_step(self.model, self.optimizer, batch))
        return loading, step


class OurRun:
    """Our loop in this process, one epoch at a time."""

    def __init__(self, config: PretrainConfig, shards: Path, folder: Path) -> None:
        self.config, self.epochs = config, 0
        data = resident_data(config, shards, torch.device("cpu"))
        self.loop = Loop(
            build(config, element_features(config.encoder.node_features)),
            data.train,
            None,
            config.optimization,
            PlainContext(folder),
        )
        self.crystals = len(data.train.crystals)  # type: ignore[attr-defined]

    def epoch(self) -> Timing:
        """Train for one epoch."""
        self.epochs += 1
        timing, _ = timed(self.crystals, lambda: self.loop._train_epoch(self.loop.model, self.epochs))  # noqa: SLF001
        return timing


def first_epoch(ingest: Timing, featurize: Timing, warm: Timing, epochs: int) -> Timing:
    """Return the time from CIF files to the end of the first epoch."""
    parts = ingest.wall + featurize.wall + warm.wall / epochs, ingest.cpu + featurize.cpu + warm.cpu / epochs
    return Timing(ingest.crystals, *parts)


def whole(loading: Timing, step: Timing) -> Timing:
    """Return the sum of both times, for the same crystals."""
    return Timing(step.crystals, loading.wall + step.wall, loading.cpu + step.cpu)


def one_round(theirs: PublishedRun, ours: dict[str, OurRun], number: int) -> dict[str, Timing]:
    """Run a published batch between epochs of ours, so that both see the same load of the machine."""
    times = {name: run.epoch() for name, run in ours.items()}
    loading, step = theirs.batch()
    for name, run in ours.items():
        times[name] += run.epoch()
    rates = {name: f"{1 / timing.wall_each:.1f}" for name, timing in times.items()}
    print(f"round {number}: published {1 / whole(loading, step).wall_each:.2f}, ours {rates} crystals/s", flush=True)
    return {"loading": loading, "step": step, **times}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure both sides in alternating rounds."""
    cifs = folder / "cif"
    cifs.mkdir()
    files = write_cifs(arguments.table, arguments.crystals, cifs)
    ingest, report = timed(
        len(files), lambda: ingest_plain(IngestConfig.of(source=str(cifs), out=str(folder / "table")))
    )
    ours = {}
    featurize = {}
    for name, config in {"default": default(), "paper": paper()}.items():
        shards = folder / f"shards-{name}"
        job = FeaturizeConfig.of(
            data=str(report.table),
            out=str(shards),
            ties=config.graph.ties,
            pad_short_lists=config.graph.pad_short_lists,
        )
        featurize[name], _ = timed(len(files), partial(featurize_plain, job))
        chosen = config.replace(
            embedding_dim=arguments.dim,
            holdout_fraction=0.0,
            selection="last",
            batch_size=arguments.batch_size,
            node_features=str(arguments.features) if name == "paper" else config.encoder.node_features,
        )
        ours[name] = OurRun(chosen, shards, folder / f"run-{name}")
    theirs = PublishedRun(files, arguments.features, arguments.dim, arguments.batch_size)
    for run in ours.values():
        run.epoch()
    rounds = [one_round(theirs, ours, r + 1) for r in range(arguments.rounds)]
    loading, step = (sum((r[k] for r in rounds), Timing(0, 0, 0)) for k in ("loading", "step"))
    warm = {name: sum((r[name] for r in rounds), Timing(0, 0, 0)) for name in ours}
    epochs = EPOCHS_PER_ROUND * arguments.rounds
    cold = {name: first_epoch(ingest, featurize[name], warm[name], epochs) for name in ours}
    return {
        "published": {"loading": loading.summary(), "step": step.summary(), "whole": whole(loading, step).summary()},
        "ours": {
            name: {
                "ingest_cifs": ingest.summary(),
                "featurize": featurize[name].summary(),
                "warm_epoch": warm[name].summary(),
                "cold_first_epoch": cold[name].summary(),
                "ratio_warm": round(whole(loading, step).wall_each / warm[name].wall_each, 1),
                "ratio_warm_each_round": [
                    round(whole(r["loading"], r["step"]).wall_each / r[name].wall_each, 1) for r in rounds
                ],
                "ratio_warm_cpu": round(whole(loading, step).cpu_each / warm[name].cpu_each, 1),
                "ratio_cold": round(whole(loading, step).wall_each / cold[name].wall_each, 1),
            }
            for name in ours
        },
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table (.parquet)")
    parser.add_argument("--features", type=Path, required=True, help="CGCNN's 92 bits per element (CSV)")
    parser.add_argument("--crystals", type=int, default=256)
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    result |= {
        "settings": {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)},
        "table": arguments.table.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    suffix = "" if arguments.threads == 1 else f"_{arguments.threads}_threads"
    (RESULTS / f"pretrain_throughput{suffix}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
