"""Make the task of a predictor from graphs and a crystal table: targets, a split, and vectors that cover both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.config import DownstreamConfig, config_of
from crysatom.config.downstream import COLUMN
from crysatom.config.downstream import Split as SplitRule
from crysatom.config.downstream import Vectors as VectorChoice
from crysatom.crystals import splits
from crysatom.crystals.splits import PARTS, Split, TwinFree, twin_free
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import Targets, first_rows, targets_for, targets_from_csv
from crysatom.graphs.graph import offsets
from crysatom.graphs.shards import load_atoms, read_manifest
from crysatom.models.files import reference_of
from crysatom.models.finetuning import TrainedModel
from crysatom.models.ranges import Ranges, joined, ranges_of
from crysatom.names import AUTO, MATERIAL_ID, MAX_ATOMIC_NUMBER, SPLIT_PREFIX, SYMBOLS, TEST, TRAIN, VAL
from crysatom.runs.paths import find, find_vectors
from crysatom.tracking.fields import SPLIT_DIGEST
from crysatom.tracking.vectors import load_vectors
from crysatom.training.normalizer import Normalizer, composition_reference
from crysatom.training.regression import RegressionTask
from crysatom.vectors.coverage import fill_missing, require_elements
from crysatom.vectors.given import given_vectors
from crysatom.vectors.spectrum import SPECTRUM, as_read, power_of
from crysatom.vectors.spectrum_choice import Compositions, best_power, errors_by_power, sample
from crysatom.vectors.table import AtomVectors

logger = logging.getLogger(__name__)

Array = NDArray[Any]

NAMED_CRYSTALS = 5


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Data that a predictor is trained and evaluated on.

    Attributes:
        task: Task for the workers.
        targets: The property, with its unit.
        split: Split of the labeled crystals whose elements have vectors.
        trained_elements: Atomic numbers of the elements in the training crystals, ascending.
        trained_ranges: Ranges of the training crystals, see :mod:`crysatom.models.ranges`.
        test_holds: ``(test crystals, 118)`` bool, elements of each test crystal: column Z - 1.
        new: Which test crystals have no twin among the training crystals.
        left_out: Crystals left out because an element has no vector: ``material_id``, ``part``, ``elements``.
        data_digest: 16 hex digits of graphs, labels and split.
        vectors_digest: 16 hex digits of the vectors as the predictor reads them.
        start_digest: Digest of the weights that the training starts from; empty: random weights.

    """

    task: RegressionTask
    targets: Targets
    split: Split
    trained_elements: Array
    trained_ranges: Ranges
    test_holds: Array
    new: TwinFree
    left_out: pd.DataFrame
    data_digest: str
    vectors_digest: str
    start_digest: str = ""


@dataclass(frozen=True, kw_only=True)
class _Atoms:
    """Atoms of M crystals, see :func:`crysatom.graphs.shards.load_atoms`."""

    material_ids: Array
    atom_ptr: Array
    atomic_numbers: Array

    def of(self, crystals: Array) -> _Atoms:
        """Return the atoms of some crystals, in the given order."""
        counts = np.diff(self.atom_ptr)[crystals]
        ptr = offsets(counts)
        atoms = np.repeat(self.atom_ptr[crystals] - ptr[:-1], counts) + np.arange(ptr[-1])
        return _Atoms(material_ids=self.material_ids[crystals], atom_ptr=ptr, atomic_numbers=self.atomic_numbers[atoms])

    @property
    def holds(self) -> Array:
        """``(M, 118)`` bool, elements of each crystal: column Z - 1."""
        held = np.zeros((len(self.material_ids), MAX_ATOMIC_NUMBER), dtype=bool)
        held[np.repeat(np.arange(len(held)), np.diff(self.atom_ptr)), self.atomic_numbers.astype(np.int64) - 1] = True
        return held

    @property
    def shares(self) -> Array:
        """``(M, 119)`` float64, share of each element among the atoms of a crystal, by atomic number."""
        counts = np.diff(self.atom_ptr)
        found = np.zeros((len(counts), MAX_ATOMIC_NUMBER + 1))
        np.add.at(found, (np.repeat(np.arange(len(counts)), counts), self.atomic_numbers.astype(np.int64)), 1)
        return np.asarray(found / counts[:, None])

    def without_vector(self, table: AtomVectors) -> Array:
        """Return ``(M,)`` bool: which crystals contain an element that the table lacks."""
        missing = ~np.isin(self.atomic_numbers, table.atomic_numbers)
        return np.asarray(np.add.reduceat(missing, self.atom_ptr[:-1], dtype=np.int64) > 0)


def given_table(name: str, tracking_uri: str) -> AtomVectors:
    """Return the vectors that a user names: a built-in table, a file, or vectors in MLflow.

    Raises:
        ValueError: If there are none, or they cannot be read.

    """
    return given_vectors(find_vectors(name), partial(load_vectors, tracking_uri=tracking_uri))


def labeled(
    config: DownstreamConfig, shards: Path, table_path: Path, tracking_uri: str, start: TrainedModel | None = None
) -> Labeled:
    """Read targets, draw the split, and prepare the vectors for the predictor.

    Args:
        config: Configuration of the job.
        shards: Folder of graph shards.
        table_path: Crystal table that they were made from.
        tracking_uri: MLflow store, for vectors kept there.
        start: Model that the training starts from, with its vectors and normalizer; None: random weights.

    Raises:
        ValueError: If property, split or vectors are unusable, or differ from the model's.

    """
    table = read_table(table_path)
    ids, ptr, numbers = load_atoms(shards)
    atoms = _Atoms(material_ids=ids, atom_ptr=ptr, atomic_numbers=numbers)
    if config.targets:
        targets = targets_from_csv(find(config.targets), table, ids)
    else:
        targets = targets_for(table, config.property, ids)
    split = _split(config.split, table, targets, ids).where(targets.labeled)
    vectors = given_table(config.vectors.vectors, tracking_uri)
    if start is not None:
        vectors = _vectors_of_model(start, vectors, config.start.init_model, config.vectors)
    known = vectors.atomic_numbers
    split, vectors, left_out = _covered(config.vectors, split, vectors, atoms, fill=start is None)
    if config.split.train_fraction < 1:
        split = splits.train_fraction(split, config.split.train_fraction, seed=config.split.split_seed)
    _require_parts(split)
    trained_elements = np.unique(atoms.of(split.train).atomic_numbers)
    trained_ranges = ranges_of(table.take(pa.array(first_rows(table, ids[split.train]))))
    if start is None:
        reference = _reference(targets, split, atoms) if config.composition_reference else None
        read = partial(as_read, vectors, config.vectors.vector_scale, trained=trained_elements, known=known)
        power = config.vectors.vector_spectrum
        vectors = _with_best_spectrum(read, targets, split, atoms, reference) if power == AUTO else read(power)
        task = _task(shards, targets, split, vectors, atoms, reference)
    else:
        _require_unit(start, targets, config.start.init_model)
        _require_unseen(start, table, split, config.start.init_model)
        theirs = [SYMBOLS.index(symbol) + 1 for symbol in start.info.trained_elements]
        trained_elements = np.union1d(trained_elements, theirs)
        trained_ranges = joined(trained_ranges, start.info.trained_ranges)
        task = RegressionTask(
            shards=shards,
            labels=targets.labels,
            parts={part: getattr(split, part) for part in PARTS},
            vectors=vectors,
            normalizer=start.info.normalizer,
            reference=reference_of(start.state),
            start=start.state,
        )
    return Labeled(
        task=task,
        targets=targets,
        split=split,
        trained_elements=trained_elements,
        trained_ranges=trained_ranges,
        test_holds=atoms.of(split.test).holds,
        new=twin_free(table, split),
        left_out=left_out,
        data_digest=_data_digest(shards, task.labels, split),
        vectors_digest=_digest(vectors.atomic_numbers, vectors.vectors),
        start_digest=start.digest if start else "",
    )


def _vectors_of_model(start: TrainedModel, given: AtomVectors, model: str, choice: VectorChoice) -> AtomVectors:
    theirs, mine = start.info.vectors.get("sha256"), given.provenance["sha256"]
    if theirs != mine:
        raise ValueError(
            f"{model} was trained on other vectors than {choice.vectors}: sha256 {theirs} there, {mine} here; give the "
            "--vectors that it was trained on"
        )
    power, wanted = power_of(start.info.vectors), choice.vector_spectrum
    if wanted not in {0, AUTO, power}:
        raise ValueError(
            f"{model} reads vectors with a spectrum of power {power:g}, not {wanted}; leave out --vector-spectrum: "
            "the model's vectors are used as they are"
        )
    return start.vectors


def _require_unit(start: TrainedModel, targets: Targets, model: str) -> None:
    if start.info.unit != targets.unit:
        raise ValueError(
            f"{model} predicts {start.info.property} in {start.info.unit or 'an unknown unit'}, and "
            f"{targets.name} is in {targets.unit or 'an unknown unit'}; its normalizer does not fit"
        )


def _require_unseen(start: TrainedModel, table: pa.Table, split: Split, model: str) -> None:
    """Raise if the model has seen a test crystal; log a warning if that is unknown.

    Raises:
        ValueError: If it has; the message names the first such crystal.

    """
    known = _known_to(start, table, split.material_ids)
    if known is None:
        logger.warning(
            "%s: this crystal table does not show what the model was trained on; make sure that no test crystal is "
            "among its training crystals",
            model,
        )
    elif len(seen := np.intersect1d(known, split.ids(TEST).astype(str))):
        raise ValueError(
            f"{model} was trained on or selected by {len(seen)} crystals that are test crystals here, "
            f"the first is {seen[0]}: errors would be too small; give a split with test crystals that it has not seen"
        )


def _known_to(start: TrainedModel, table: pa.Table, ids: Array) -> Array | None:
    """Return the ids of the crystals that a model was trained on or selected by; None if unknown."""
    noted = start.info.training
    try:
        theirs = config_of(noted["config"])
        if theirs.start.init_model or theirs.targets:
            return None
        targets = targets_for(table, theirs.property, ids)
        split = _split(theirs.split, table, targets, ids).where(targets.labeled)
        if theirs.split.train_fraction < 1:
            split = splits.train_fraction(split, theirs.split.train_fraction, seed=theirs.split.split_seed)
    except (KeyError, TypeError, ValueError):
        return None
    known = np.concatenate([split.ids(TRAIN), split.ids(VAL)]).astype(str)
    return known if split.digest() == noted.get(SPLIT_DIGEST) else None


def _split(rule: SplitRule, table: pa.Table, targets: Targets, ids: Array) -> Split:
    seed, how = rule.split_seed, rule.split
    if how == "auto":
        how = "official" if SPLIT_PREFIX + targets.name in table.schema.names else "random"
        logger.info("split: %s", how)
    if how == "official":
        return splits.official(table, targets.name, ids)
    if how == "random":
        return splits.random(ids, seed=seed)
    if how.startswith(COLUMN):
        return splits.by_column(table, how.removeprefix(COLUMN), ids)
    if how == "composition":
        return splits.grouped_by_composition(table, ids, seed=seed)
    return splits.held_out_elements(table, ids, rule.held_out, seed=seed)


def _require_parts(split: Split) -> None:
    for part in PARTS:
        if not len(getattr(split, part)):
            raise ValueError(f"split {split.name} has no {part} crystals with a label; choose another --split")


def _covered(
    choice: VectorChoice, split: Split, vectors: AtomVectors, atoms: _Atoms, *, fill: bool
) -> tuple[Split, AtomVectors, pd.DataFrame]:
    """Return a split whose crystals all have vectors, the vectors, and the crystals left out."""
    used = atoms.of(np.concatenate([getattr(split, part) for part in PARTS]))
    nothing = pd.DataFrame(columns=[MATERIAL_ID, "part", "elements"])
    if choice.missing_vectors == "ridge" and fill:  # a trained model's table is not changed
        return split, fill_missing(vectors, used.atomic_numbers), nothing
    if choice.missing_vectors != "leave_out":
        try:
            require_elements(
                vectors,
                atomic_numbers=used.atomic_numbers,
                atom_ptr=used.atom_ptr,
                material_ids=used.material_ids,
            )
        except ValueError as error:
            raise ValueError(f"{choice.vectors}: {error}: --missing-vectors leave_out, or ridge") from error
        return split, vectors, nothing
    without = atoms.without_vector(vectors)
    rows = [
        {MATERIAL_ID: ids, "part": part, "elements": _missing_elements(atoms.of(np.array([crystal])), vectors)}
        for part in PARTS
        for crystal in getattr(split, part)[without[getattr(split, part)]]
        for ids in [str(atoms.material_ids[crystal])]
    ]
    left_out = pd.DataFrame(rows) if rows else nothing
    if rows:
        by_part = ", ".join(f"{count} of {part}" for part, count in left_out["part"].value_counts().items())
        first = ", ".join(left_out[MATERIAL_ID].head(NAMED_CRYSTALS))
        logger.warning(
            "%d crystals contain elements without a vector in %s and are left out (%s), first %s; if they include test "
            "crystals, errors are not those of the whole test set",
            len(rows),
            choice.vectors,
            by_part,
            first,
        )
    return split.where(~without), vectors, left_out


def _missing_elements(crystal: _Atoms, vectors: AtomVectors) -> str:
    missing = np.setdiff1d(crystal.atomic_numbers, vectors.atomic_numbers)
    return " ".join(SYMBOLS[z - 1] for z in missing)


def _reference(targets: Targets, split: Split, atoms: _Atoms) -> Array:
    train = atoms.of(split.train)
    return composition_reference(train.atomic_numbers, train.atom_ptr, targets.labels[split.train])


def _with_best_spectrum(
    read: Callable[[float], AtomVectors], targets: Targets, split: Split, atoms: _Atoms, reference: Array | None
) -> AtomVectors:
    """Return the vectors with the spectrum of the least validation error; test crystals are not used."""

    def compositions(part: Array) -> Compositions:
        crystals = sample(part)
        shares = atoms.of(crystals).shares
        target = targets.labels[crystals]
        return Compositions(shares=shares, target=target if reference is None else target - shares @ reference)

    errors = errors_by_power(read, compositions(split.train), compositions(split.val))
    power = best_power(errors)
    tried = ", ".join(f"{error:.3f} ({at:g})" for at, error in errors.items())
    logger.info("spectrum of the vectors: power %g, by relative errors %s", power, tried)
    table = read(power)
    spectrum = {
        **table.provenance.get(SPECTRUM, {}),
        "power": power,
        "errors": {f"{p:g}": e for p, e in errors.items()},
    }
    return dataclasses.replace(table, provenance={**table.provenance, SPECTRUM: spectrum})


def _task(
    shards: Path, targets: Targets, split: Split, vectors: AtomVectors, atoms: _Atoms, reference: Array | None
) -> RegressionTask:
    learned = targets.labels[split.train]
    if reference is not None:
        train = atoms.of(split.train)
        share = np.add.reduceat(reference[train.atomic_numbers], train.atom_ptr[:-1]) / np.diff(train.atom_ptr)
        learned = learned - share
    return RegressionTask(
        shards=shards,
        labels=targets.labels,
        parts={part: getattr(split, part) for part in PARTS},
        vectors=vectors,
        normalizer=Normalizer.of(learned),
        reference=reference,
    )


def _data_digest(shards: Path, labels: Array, split: Split) -> str:
    graphs = [shard["sha256"] for shard in read_manifest(shards)["shards"]]
    used = np.concatenate([getattr(split, part) for part in PARTS])
    return _digest(np.frombuffer(json.dumps([graphs, split.digest()]).encode(), np.uint8), labels[used])


def _digest(*arrays: Array) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]
