"""Structure vectors of graph shards: volumes, counts in this process or on Ray, vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.config import VectorsConfig
from crysatom.graphs.cell_volumes import cell_volumes
from crysatom.graphs.shards import load_atoms, shard_files
from crysatom.inputs.graphs import crystal_table
from crysatom.names import SYMBOLS
from crysatom.vectors.structure.expanded import expansion
from crysatom.vectors.structure.geometry import bond_fit, volume_fit
from crysatom.vectors.structure.keyed import starts
from crysatom.vectors.structure.learn import learn
from crysatom.vectors.structure.tally import Tally, tally_file
from crysatom.vectors.table import AtomVectors

logger = logging.getLogger(__name__)

Array = NDArray[Any]

_NAMED = 5
"""Crystals that a message names."""


def learned_from_structures(config: VectorsConfig, shards: Path) -> tuple[Tally, AtomVectors, dict[str, float]]:
    """Return the counts, the vectors, and numbers about how they were learned.

    Raises:
        ValueError: If there is nothing to learn from, or fewer dimensions than requested.

    """
    volumes, left_out = usable_volumes(config, shards)
    counts = _tally(config, shard_files(shards), volumes)
    if not counts.crystals:
        raise ValueError(f"{config.source.data} holds no crystal with a graph; there is nothing to learn from")
    found = learn(counts, config.blocks)
    dim = found.vectors.shape[1]
    if config.dim > dim:
        raise ValueError(
            f"{config.source.data} holds {len(found.atomic_numbers)} elements, which structure vectors of "
            f"{' and '.join(config.blocks)} give {dim} dimensions; --dim {config.dim} is more"
        )
    absent = np.setdiff1d(np.flatnonzero(counts.sites) + 1, found.atomic_numbers)
    if len(absent):
        names = [SYMBOLS[z - 1] for z in absent]
        logger.warning("%s: in no surroundings of another element; substitution gives them no vector", names)
    vectors = AtomVectors(
        atomic_numbers=found.atomic_numbers,
        vectors=found.vectors[:, : config.dim or dim].astype(np.float32),
        site_counts=counts.sites[found.atomic_numbers - 1],
        standard_errors=found.standard_errors[:, : config.dim or dim].astype(np.float32),
    )
    facts = {
        "crystals": float(counts.crystals),
        "left_out": float(left_out),
        "contexts": float(len(starts(counts.contexts.hashes))),
        "compounds": float(len(starts(counts.compounds.hashes))),
        "bond_r2": bond_fit(counts.bonds).explained,
        "volume_r2": volume_fit(counts.compounds).explained,
    }
    return counts, vectors, facts


def usable_volumes(config: VectorsConfig, shards: Path) -> tuple[list[Array], int]:
    """Return the cell volumes of each shard, NaN for crystals to leave out, and the number of these.

    Raises:
        ValueError: If the crystal table of the shards is not found, or does not fit them.

    """
    parts = cell_volumes(shards, crystal_table(config.source, shards))
    ids, atom_ptr, numbers = load_atoms(shards)
    volumes = np.concatenate([np.zeros(0), *parts])
    if config.max_expansion:
        expanded = expansion(volumes / np.diff(atom_ptr), atom_ptr, numbers) > config.max_expansion
        if expanded.any():
            logger.warning(
                "%d of %d crystals take more than %g times the volume of their composition and are left out "
                "(--max-expansion 0 keeps them): %s%s",
                *(expanded.sum(), len(expanded), config.max_expansion),
                ", ".join(ids[expanded][:_NAMED]),
                " ..." if expanded.sum() > _NAMED else "",
            )
        volumes[expanded] = np.nan
    ends = np.cumsum([len(part) for part in parts])
    return np.split(volumes, ends[:-1]) if parts else [], int(np.isnan(volumes).sum())


def _tally(config: VectorsConfig, files: Sequence[Path], volumes: Sequence[Array]) -> Tally:
    logger.info("counting in %d shards ...", len(files))
    rule = config.bond_tolerance, config.graph.cutoff
    if config.num_workers == 0 or len(files) == 1:
        return Tally.total(tally_file(file, part, *rule) for file, part in zip(files, volumes, strict=True))
    from crysatom.cluster.counts import tally_on_cluster

    return tally_on_cluster(files, volumes, *rule)
