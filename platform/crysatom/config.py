"""One frozen, keyword-only dataclass per job; presets are functions; flags come from the fields.

A field's docstring is its help text on the command line. Validation happens in ``__post_init__``,
so that a configuration that exists is one that can run.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from crysatom.names import CGCNN_BITS, ELEMENT_BINS, EMBEDDED_SOURCE, Recipe, SSLLoss

ConfigT = TypeVar("ConfigT")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_limits(max_atoms: int, min_distance: float) -> None:
    _require(1 <= max_atoms <= 65_535, f"max_atoms must lie in [1, 65535], got {max_atoms}")
    _require(0 <= min_distance <= 5, f"min_distance must lie in [0, 5] angstrom, got {min_distance}")


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """How a crystal becomes a graph; two shards with equal specs hold equal graphs."""

    cutoff: float = 8.0
    """Neighbors farther than this are never connected, in angstrom."""

    num_neighbors: int = 12
    """Nearest neighbors each atom is connected to."""

    ties: Literal["complete", "truncate"] = "complete"
    """At the last place: 'complete' keeps the whole shell of equidistant neighbors (independent of site
    order, cell choice and rotation); 'truncate' keeps the first in site order, as CGCNN's code does."""

    tie_tolerance: float = 1e-3
    """Distances closer than this to that of the last neighbor belong to its shell, in angstrom."""

    pad_short_lists: bool = False
    """Fill the list of an atom with too few neighbors with edges of length cutoff + 1 to the crystal's
    first atom, as CGCNN's and CrysAtom's code does. Off: the atom simply has fewer edges."""

    def __post_init__(self) -> None:
        _require(0 < self.cutoff <= 50, f"cutoff must lie in (0, 50] angstrom, got {self.cutoff}")
        _require(1 <= self.num_neighbors <= 500, f"num_neighbors must lie in [1, 500], got {self.num_neighbors}")
        _require(
            0 <= self.tie_tolerance <= 0.1, f"tie_tolerance must lie in [0, 0.1] angstrom, got {self.tie_tolerance}"
        )


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Read crystals from a source, check each one, write a crystal table and a quarantine."""

    source: str = EMBEDDED_SOURCE
    """aflow:prototypes | folder of CIFs (with optional id_prop.csv) | .parquet | .json/.jsonl(.gz) |
    anything ASE reads (.xyz, .db, ...) | jarvis:dft_3d | mp:QUERY."""

    out: str
    """Folder for crystals.parquet and quarantine.parquet."""

    max_atoms: int = 500
    """Larger cells are quarantined."""

    min_distance: float = 0.5
    """Crystals with two atoms closer than this are quarantined, in angstrom."""

    overwrite: bool = False
    """Replace an existing table in the output folder."""

    def __post_init__(self) -> None:
        _require_limits(self.max_atoms, self.min_distance)


@dataclass(frozen=True, kw_only=True)
class FeaturizeConfig:
    """Turn a crystal table into graph shards."""

    data: str
    """Crystal table (.parquet), or any source that the ingest job reads."""

    out: str
    """Folder for the shards, manifest.json and quarantine.parquet."""

    cutoff: float = GraphSpec.cutoff
    num_neighbors: int = GraphSpec.num_neighbors
    ties: Literal["complete", "truncate"] = GraphSpec.ties
    tie_tolerance: float = GraphSpec.tie_tolerance
    pad_short_lists: bool = GraphSpec.pad_short_lists

    crystals_per_shard: int = 4096
    """Crystals in one Parquet file."""

    max_atoms: int = 500
    """Larger cells are quarantined."""

    min_distance: float = 0.5
    """Crystals with two atoms closer than this are quarantined, in angstrom."""

    resume: bool = False
    """Continue a run that was killed; finished shards are kept, the result has the same bytes."""

    def __post_init__(self) -> None:
        _require(self.crystals_per_shard >= 1, f"crystals_per_shard must be positive, got {self.crystals_per_shard}")
        _require_limits(self.max_atoms, self.min_distance)
        _ = self.graph

    @property
    def graph(self) -> GraphSpec:
        """The part of the configuration that decides the content of a graph."""
        return GraphSpec(**{f.name: getattr(self, f.name) for f in dataclasses.fields(GraphSpec)})


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Learn element vectors from crystals: auto-encoder plus self-supervised loss."""

    # -- what to learn from, and where results go
    data: str = EMBEDDED_SOURCE
    """Folder of graph shards, crystal table (.parquet), or any source that the ingest job reads."""

    out: str = "runs"
    """Folder under which the run's own folder is made."""

    name: str = ""
    """Name of the run and its folder; empty: 'pretrain-' and the digests of the settings and of the data."""

    recipe: Recipe = "default"
    """'default': what the evidence recommends; 'paper': the published procedure. Sets every default below."""

    resume: bool = False
    """Continue a run of this very configuration that was stopped, from its last checkpoint."""

    max_atoms: int = FeaturizeConfig.max_atoms
    """Larger cells are quarantined. Graph shards that may hold larger ones are refused."""

    min_distance: float = FeaturizeConfig.min_distance
    """Crystals with two atoms closer than this are quarantined, in angstrom. Graph shards made with a smaller
    limit are refused."""

    # -- graph
    cutoff: float = GraphSpec.cutoff
    num_neighbors: int = GraphSpec.num_neighbors
    ties: Literal["complete", "truncate"] = GraphSpec.ties
    tie_tolerance: float = GraphSpec.tie_tolerance
    pad_short_lists: bool = GraphSpec.pad_short_lists

    # -- model
    embedding_dim: int = 200
    """Length D of an element vector; width of every encoder layer."""

    num_layers: int = 5
    """Crystal-graph convolutions in the encoder."""

    projection_dim: int = 64
    """Width of the projection head and of the space in which views are compared. Barlow Twins' noise grows as its
    square over the batch size: 64 for batches of 128 (published: 128)."""

    node_features: str = "elements"
    """Input and reconstruction target per element: 'elements' (one-hot bins of ten facts, distinct
    for every element), 'cgcnn92' (CGCNN's 92 bits, read from jarvis-tools), or a vectors file."""

    # -- objective
    ssl_loss: SSLLoss = "barlow_twins"
    """Self-supervised loss between two masked views; 'none' trains the auto-encoder alone."""

    connectivity_weight: float = 0.25
    feature_weight: float = 0.25
    ssl_weight: float = 0.50

    atom_mask_fraction: float = 0.10
    """Atoms masked in each view; at least one per crystal."""

    edge_mask_fraction: float = 0.10
    """Edges masked in each view, of each atom."""

    masked_atoms: Literal["learned", "zero"] = "learned"
    """What the encoder sees at a masked atom: a learned vector, or zero (published)."""

    masked_edges: Literal["removed", "rerouted"] = "removed"
    """'removed': no message, not in the normalization statistics; 'rerouted': an edge without features to
    the crystal's first atom (published)."""

    normalize_projection: bool = False
    """Scale projections to unit length before the self-supervised loss (published)."""

    barlow_divisor: Literal["batch", "nominal"] = "batch"
    """Divide the cross-correlation by the crystals in the batch, or by batch_size always (published)."""

    barlow_lambda: float = 0.0051
    """Weight of the off-diagonal terms."""

    nt_xent_temperature: float = 0.5

    connectivity_mean: Literal["crystals", "pairs"] = "crystals"
    """Average the connectivity loss within each crystal first, or over all pairs of the batch (published)."""

    # -- optimization
    epochs: int = 20
    batch_size: int = 128
    """Crystals in a global batch, over all workers."""

    tail: Literal["spread", "short"] = "spread"
    """Crystals that do not fill a batch: spread over the others, or a short last batch (published)."""

    lr: float = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    """'cosine': linear warm-up over 5 % of the steps, then cosine decay to zero."""

    adam_eps: float = 1e-6
    """Below this a gradient is noise. With Adam's own 1e-8 (published) the rounding of weights whose gradient is
    zero grows to full steps, and runs on one and two workers drift apart."""

    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    """Largest norm of the gradient; 0: not clipped."""

    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is evaluated and extracted; 0: the weights themselves."""

    holdout_fraction: float = 0.05
    """Crystals held out of training (chosen by a hash of their id) to measure the held-out loss."""

    selection: Literal["held_out", "train", "last"] = "last"
    """Vectors come from the epoch with the least held-out loss, least training loss (published), or the last."""

    extraction: Literal["eval_mean", "algorithm_1"] = "eval_mean"
    """'eval_mean': mean over all sites in evaluation mode; 'algorithm_1': unit-length batch means
    in training mode, each batch overwriting the elements it holds (published)."""

    # -- where it runs
    num_workers: int = 1
    """Data-parallel workers; 0 runs in this process, without Ray."""

    use_gpu: bool = False
    loader: Literal["auto", "resident", "streamed"] = "auto"
    """'resident': graphs in memory, any number of workers gives the same run; 'streamed': through Ray Data,
    for sets larger than memory; 'auto': resident if they fit."""

    memory_gb: float = 0.0
    """What 'auto' takes a worker's memory to be; 0: measured."""

    seed: int = 0
    max_failures: int = 3
    """Lost workers after which the run fails."""

    threads_per_worker: int = 1
    """CPU threads of a worker without GPU."""

    tracking_uri: str = ""
    """MLflow; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""

    experiment: str = "crysatom-pretrain"
    register: str = "crysatom-vectors"
    """Registered model that the vectors become a version of; empty: not registered."""

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "num_layers", "projection_dim", "epochs", "threads_per_worker"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(
            self.batch_size >= 2, f"batch_size must be at least 2 (the losses compare crystals), got {self.batch_size}"
        )
        _require(self.num_workers >= 0, f"num_workers must not be negative, got {self.num_workers}")
        _require(
            self.batch_size >= self.num_workers,
            f"batch_size {self.batch_size} is smaller than num_workers {self.num_workers}",
        )
        for name in ("lr", "adam_eps", "nt_xent_temperature"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            "gradient_clip",
            "weight_decay",
            "connectivity_weight",
            "feature_weight",
            "ssl_weight",
            "barlow_lambda",
            "memory_gb",
            "max_failures",
        ):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        _require(0 <= self.seed < 2**63, f"seed must lie in [0, 2**63), got {self.seed}")
        for name in ("atom_mask_fraction", "edge_mask_fraction", "holdout_fraction"):
            _require(0 <= getattr(self, name) < 1, f"{name} must lie in [0, 1), got {getattr(self, name)}")
        _require(0 <= self.ema_decay < 1, f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        _require(
            self.ssl_loss in get_args(SSLLoss), f"ssl_loss must be one of {get_args(SSLLoss)}, got {self.ssl_loss!r}"
        )
        _require(
            not (self.selection == "held_out" and self.holdout_fraction == 0),
            "selection='held_out' needs crystals: set holdout_fraction above 0",
        )
        _require_limits(self.max_atoms, self.min_distance)
        _ = self.graph

    @property
    def graph(self) -> GraphSpec:
        """The part of the configuration that decides the content of a graph."""
        return GraphSpec(**{f.name: getattr(self, f.name) for f in dataclasses.fields(GraphSpec)})


WHAT_IS_READ = frozenset({"data", "max_atoms", "min_distance"})
"""Fields that decide which crystals are read. Those, not the way to them, are what a run depends on: they are
identified by their content, in the data digest, wherever they lie and however they were chosen."""

NOT_IN_DIGEST = WHAT_IS_READ | frozenset(
    {
        "out",
        "name",
        "resume",
        "num_workers",
        "use_gpu",
        "tracking_uri",
        "experiment",
        "register",
        "max_failures",
        "threads_per_worker",
        "memory_gb",
    }
)
"""Beside what is read: fields that say where a run happens, not what it computes."""


def default() -> PretrainConfig:
    """Return the recipe that the evidence recommends (reference/science.md section 3)."""
    return PretrainConfig()


def paper() -> PretrainConfig:
    """Return the published procedure with its settings (CrysAtom, arXiv 2409.04737, Table 2 and released code)."""
    return PretrainConfig(
        recipe="paper",
        ties="truncate",
        pad_short_lists=True,
        node_features="cgcnn92",
        masked_atoms="zero",
        masked_edges="rerouted",
        projection_dim=128,
        normalize_projection=True,
        barlow_divisor="nominal",
        connectivity_mean="pairs",
        epochs=110,
        batch_size=128,
        tail="short",
        lr=0.03,
        adam_eps=1e-8,
        schedule="constant",
        holdout_fraction=0.0,
        selection="train",
        extraction="algorithm_1",
    )


RECIPES = {"default": default, "paper": paper}


def digest(config: Any) -> str:
    """Return 12 hex digits that change whenever what a run computes from the same data would change.

    Element features of a file count as data, too: only that they are from a file is part of the digest.
    """
    content = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_DIGEST}
    if content.get("node_features", ELEMENT_BINS) not in {ELEMENT_BINS, CGCNN_BITS}:
        content["node_features"] = "file"
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def parse(config_type: type[ConfigT], argv: Sequence[str] | None = None) -> ConfigT:
    """Build a configuration from command-line flags; ``--recipe`` chooses the defaults of a pretraining.

    Raises:
        SystemExit: After printing a message that names the flag, when a value is not accepted.

    """
    import tyro  # here, so that a machine that only runs the loop need not have it

    arguments = list(sys.argv[1:] if argv is None else argv)
    preset: Any = None
    if config_type is PretrainConfig:
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chooser.add_argument("--recipe", choices=sorted(RECIPES), default="default")
        preset = RECIPES[chooser.parse_known_args(arguments)[0].recipe]()
    try:
        config: ConfigT = tyro.cli(config_type, args=arguments, default=preset, description=config_type.__doc__)
    except ValueError as error:
        sys.exit(f"error: {error}")
    return config
