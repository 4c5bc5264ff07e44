"""Spectra of tables of atom vectors: which power CGCNN prefers at few labels, and what predicts it.

    python benchmarks/vector_spectrum.py --shards graphs/jarvis --table jarvis_dft_3d.parquet \
        --vectors onehot92 magpie=standardize:magpie structure=vectors.csv --out runs.jsonl

Trains on draws of the official training crystals, evaluates on official validation crystals, and reads no test crystal.
The file has one line for each training; what it has is not trained again. ``--mechanism`` trains the last table with
the first layer changed, to tell apart what a steep spectrum does.

A record of one day, ``results/vector_spectrum.jsonl``: ``make bench`` does not run this.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from crysatom.config import DownstreamConfig
from crysatom.crystals import splits
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import targets_for
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.shards import load
from crysatom.names import MAX_ATOMIC_NUMBER, TRAIN, VAL, VectorScale
from crysatom.nn.condensed import condensed
from crysatom.training.context import PlainContext
from crysatom.training.loaders import ResidentLoader
from crysatom.training.loop import Loop, Selection
from crysatom.training.normalizer import Normalizer
from crysatom.training.regression import Regression, RegressionTask, build_regression, predictions
from crysatom.vectors.given import given_vectors
from crysatom.vectors.spectrum import as_read, with_spectrum
from crysatom.vectors.spectrum_choice import POWERS, Compositions, best_power, errors_by_power
from crysatom.vectors.table import AtomVectors

WATCHED = 64
"""Validation crystals of each epoch; the error is that of all of them, after the last epoch."""

Array = NDArray[Any]
Change = Callable[[Regression], None]


class Crystals:
    """Graphs in memory, and draws of labeled crystals whose elements all tables have."""

    def __init__(self, shards: Path, table: Path, tables: Mapping[str, AtomVectors]) -> None:
        """Read graphs and crystal table."""
        self.shards, self.table, self.arrays = shards, read_table(table), load(shards)
        self.tensors = condensed(GraphTensors.of(self.arrays))
        known = np.ones(len(self.arrays.atomic_numbers), dtype=bool)
        for one in tables.values():
            known &= np.isin(self.arrays.atomic_numbers, one.atomic_numbers)
        self.known = np.minimum.reduceat(known, self.arrays.atom_ptr[:-1])

    def draw(self, name: str, number: int, labels: int, validation: int) -> tuple[Array, Array, Array]:
        """Return all labels, and the training and validation crystals of a draw; draws are disjoint."""
        ids = self.arrays.material_ids
        targets = targets_for(self.table, name, ids)
        split = splits.official(self.table, name, ids).where(targets.labeled & self.known)
        train = np.random.default_rng(7).permutation(split.train)[number * labels : (number + 1) * labels]
        return targets.labels, np.sort(train), np.sort(np.random.default_rng(8).permutation(split.val)[:validation])

    def compositions(self, crystals: Array, labels: Array) -> Compositions:
        """Return shares of elements, and labels."""
        shares = np.zeros((len(crystals), MAX_ATOMIC_NUMBER + 1))
        for row, k in zip(shares, crystals, strict=True):
            atoms = self.arrays.atomic_numbers[self.arrays.atom_ptr[k] : self.arrays.atom_ptr[k + 1]]
            np.add.at(row, atoms, 1 / len(atoms))
        return Compositions(shares=shares, target=labels[crystals])

    def trained(
        self,
        config: DownstreamConfig,
        vectors: AtomVectors,
        draw: tuple[Array, Array, Array],
        change: Change | None = None,
    ) -> dict[str, float]:
        """Train a predictor; return its errors in the unit of the property."""
        labels, train, val = draw
        start = time.process_time()
        task = RegressionTask(
            shards=self.shards,
            labels=labels,
            parts={TRAIN: train, VAL: val},
            vectors=vectors,
            normalizer=Normalizer.of(labels[train]),
            reference=None,
        )
        model, steps = build_regression(config, task), config.optimization
        if change is not None:
            change(model)

        def loader(crystals: Array, size: int) -> ResidentLoader:
            return ResidentLoader(
                self.tensors,
                crystals,
                material_ids=self.arrays.material_ids,
                batch_size=size,
                tail=steps.tail,
                seed=config.seed,
                targets=torch.tensor(labels),
            )

        with tempfile.TemporaryDirectory() as folder:
            loop = Loop(
                model,
                loader(train, steps.batch_size),
                loader(val[:WATCHED], 256),
                steps,
                PlainContext(Path(folder)),
                optimizer=steps.optimizer,
                milestones=steps.milestones,
                selection=Selection(by="", patience=0),
                balance="equal",
                measured=VAL,
            )
            history = loop.run()
        error = float(np.abs(predictions(model, loader(val, 256))[1] - labels[val]).mean())
        return {"val_mae": error, "train_mae": history[-1]["train/mae"], "cpu_s": time.process_time() - start}


def elements_of(compositions: Compositions) -> Array:
    """Return the atomic numbers in some crystals."""
    return np.flatnonzero(compositions.shares.any(axis=0))


def reader(table: AtomVectors, how: VectorScale, elements: Array) -> Callable[[float], AtomVectors]:
    """Return the function from a power to the vectors that a predictor reads."""
    return lambda power: as_read(table, how, power, elements)


def effective_rank(table: AtomVectors) -> float:
    """Return the exponential of the entropy of the shares of variance (Roy, Vetterli, EUSIPCO 2007)."""
    rows = table.vectors.astype(np.float64)
    squares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    shares = squares[squares > 0] / squares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mechanisms(plain: AtomVectors, steep: AtomVectors) -> dict[str, tuple[AtomVectors, Change | None, dict[str, Any]]]:
    """Return trainings that differ from those with the plain or the steep table in one thing.

    The first layer W x starts from other weights, or learns at another rate: c x with W / c.
    """
    _, there, vt = np.linalg.svd(plain.vectors - plain.vectors.mean(axis=0, dtype=np.float64), full_matrices=False)
    kept = there > 1e-4 * there[0]
    factor = np.linalg.norm((steep.vectors - steep.vectors.mean(axis=0)) @ vt[kept].T, axis=0) / there[kept]

    def start(factors: Array) -> Change:
        change = (vt[kept].T * factors) @ vt[kept]

        def apply(model: Regression) -> None:
            weight = cast("torch.nn.Linear", model.predictor.embedding).weight
            with torch.no_grad():
                weight.copy_((weight.double() @ torch.from_numpy(change)).float())

        return apply

    def rate(c: float) -> tuple[AtomVectors, Change, dict[str, Any]]:
        def apply(model: Regression) -> None:
            with torch.no_grad():
                cast("torch.nn.Linear", model.predictor.embedding).weight.div_(c)

        return dataclasses.replace(plain, vectors=(plain.vectors * c).astype(np.float32)), apply, {}

    return {
        "plain, first layer starts as if steep": (plain, start(factor), {}),
        "steep, first layer starts as if plain": (steep, start(1 / factor), {}),
        "plain, first layer at 4 x rate": rate(4.0),
        "plain, first layer at 1/4 x rate": rate(0.25),
        "steep, no weight decay": (steep, None, {"weight_decay": 0.0}),
        "plain, weight decay x 1000": (plain, None, {"weight_decay": 0.1}),
    }


class Records:
    """Trainings as lines of a file, which are not repeated."""

    KEYS = ("table", "property", "draw", "power", "variant", "epochs")

    def __init__(self, file: Path) -> None:
        """Read what is there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        self.file, self.lines = file, [json.loads(line) for line in file.read_text().splitlines()]

    def add(self, key: tuple[Any, ...], work: Callable[[], dict[str, float]]) -> None:
        """Do a training unless its line is there."""
        if any(tuple(line[k] for k in self.KEYS) == key for line in self.lines):
            return
        self.lines.append(dict(zip(self.KEYS, key, strict=True)) | work())
        with self.file.open("a") as stream:
            stream.write(json.dumps(self.lines[-1]) + "\n")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="graph shards")
    parser.add_argument("--table", type=Path, required=True, help="crystal table with official splits")
    parser.add_argument("--vectors", nargs="+", required=True, help="[NAME=][standardize:]VECTORS")
    parser.add_argument(
        "--properties", nargs="+", default=["bulk_modulus_kv", "formation_energy_peratom", "mbj_bandgap"]
    )
    parser.add_argument("--powers", type=float, nargs="*", default=[0, -0.5, -1, -2, -3])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--validation", type=int, default=1500, help="validation crystals")
    parser.add_argument("--choose-by", type=int, default=1500, help="validation crystals that 'auto' uses")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--mechanism", action="store_true", help="the last table with the first layer changed")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def tables_of(texts: list[str]) -> dict[str, tuple[AtomVectors, VectorScale]]:
    """Return tables and their scales by name."""
    found: dict[str, tuple[AtomVectors, VectorScale]] = {}
    for text in texts:
        name, _, source = text.rpartition("=")
        table = given_vectors(source.removeprefix("standardize:"))
        found[name or source] = (table, "standardize" if source.startswith("standardize:") else "rms")
    return found


def main() -> None:
    """Train what is missing; print the tables."""
    given = arguments()
    torch.set_num_threads(1)
    tables = tables_of(given.vectors)
    crystals = Crystals(given.shards, given.table, {name: table for name, (table, _) in tables.items()})
    records, chosen = Records(given.out), []
    general: dict[str, Any] = {"epochs": given.epochs, "seeds": (0,), "selection": "last", "num_workers": 0}
    for number, name in itertools.product(given.draws, given.properties):
        draw = crystals.draw(name, number, given.labels, given.validation)
        parts = [crystals.compositions(part, draw[0]) for part in (draw[1], draw[2][: given.choose_by])]
        elements = elements_of(parts[0])
        readers = {label: reader(table, how, elements) for label, (table, how) in tables.items()}
        for label, read in readers.items():
            cell: dict[Any, Any] = {"table": label, "property": name, "draw": number}
            chosen.append(cell | dict(errors_by_power(read, *parts)))
            for power in given.powers:
                config = DownstreamConfig.of(**general)
                work = partial(crystals.trained, config, read(power), draw)
                records.add((label, name, number, power, "", given.epochs), work)
        if given.mechanism:
            label, read = list(readers.items())[-1]
            for variant, (vectors, change, more) in mechanisms(read(0), read(-2)).items():
                work = partial(crystals.trained, DownstreamConfig.of(**general, **more), vectors, draw, change)
                records.add((label, name, number, -2.0, variant, given.epochs), work)
    report(tables, chosen, records)


def report(tables: Mapping[str, tuple[AtomVectors, VectorScale]], chosen: list[Any], records: Records) -> None:
    """Print effective ranks, and errors of the kernel regression and of the trainings."""
    ranks = {
        name: [effective_rank(with_spectrum(as_read(t, how, 0, t.atomic_numbers), power)) for power in (1.0, *POWERS)]
        for name, (t, how) in tables.items()
    }
    print(f"\neffective rank\n\n{pd.DataFrame(ranks, index=[1.0, *POWERS]).T.round(1).to_string()}")
    kernel = pd.DataFrame(chosen).set_index(["table", "property", "draw"])
    runs = pd.DataFrame(records.lines)
    trained = runs[runs["variant"] == ""].pivot_table(
        index=["table", "property", "draw"], columns="power", values="val_mae"
    )
    for title, errors in (("kernel regression", kernel), ("CGCNN", trained)):
        shares = 100 * errors.div(errors[0.0], axis=0).groupby(level=[0, 1]).mean() - 100
        print(f"\n{title}: validation MAE against power 0, %\n\n{shares.round(1).to_string()}")
    mean = 100 * trained.div(trained[0.0], axis=0).groupby(level=[0, 1]).mean() - 100
    powers = {
        (one["table"], one["property"], one["draw"]): best_power({power: one[power] for power in POWERS})
        for one in chosen
    }
    print(f"\nchosen: {powers}")
    gains = [mean.loc[cell[:2], power] for cell, power in powers.items()]
    print(f"CGCNN with these: {np.mean(gains):.2f} %; with one power: {mean.mean().round(2).to_dict()}")
    changed = runs[runs["variant"] != ""].set_index(["table", "property", "draw"])
    against = 100 * changed["val_mae"] / trained[0.0].reindex(changed.index) - 100
    print(changed[["variant"]].assign(percent=against.round(1)).to_string())


if __name__ == "__main__":
    main()
