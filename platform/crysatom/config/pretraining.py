"""The configuration of a pretraining, and its recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from crysatom.config.data import (
    FeaturizeConfig,
    GraphSpec,
    graph_of,
    require,
    require_each,
    require_limits,
    require_run_name,
    require_workers,
)
from crysatom.names import EMBEDDED_SOURCE, HELD_OUT, LOSS, TRAIN, Balancing, PretrainObjective, Recipe, SSLLoss


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Learn element vectors, and an encoder, from crystals without labels."""

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
    objective: PretrainObjective = "crysatom"
    """'crysatom': auto-encoder plus self-supervised loss; 'masking': elements of masked atoms; 'context': which
    surroundings belong to an atom; 'masking_context': the sum of both. Of the options below the last three read only
    atom_mask_fraction and masked_atoms."""

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

    max_workers: int = 0
    """Elastic: as many workers as the cluster has room for, from num_workers up to this; written --num-workers MIN:MAX.
    0: num_workers, always."""

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

    balance: Balancing = "auto"
    """Shares of a batch: 'equal' numbers of crystals; 'speed': in proportion to each worker's measured speed, as far
    as its memory goes; 'auto': by speed if the workers' machines differ. The gradient is the same."""

    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch; 0: none but at its end."""

    hang_timeout: float = 300.0
    """Seconds without progress after which a worker counts as hung, and is replaced."""

    tracking_uri: str = ""
    """MLflow; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""

    experiment: str = "crysatom-pretrain"
    register: str = "crysatom-vectors"
    """Registered model that the vectors become a version of; empty: not registered."""

    def __post_init__(self) -> None:
        require_run_name(self.name)
        counts = ("embedding_dim", "num_layers", "projection_dim", "epochs", "threads_per_worker")
        require_each(self, counts, lambda value: value >= 1, "be at least 1")
        require(
            self.batch_size >= 2, f"batch_size must be at least 2 (the losses compare crystals), got {self.batch_size}"
        )
        require_workers(self)
        require_each(self, ("lr", "adam_eps", "nt_xent_temperature"), lambda value: value > 0, "be positive")
        weights = ("gradient_clip", "weight_decay", "connectivity_weight", "feature_weight", "ssl_weight")
        require_each(self, (*weights, "barlow_lambda", "memory_gb"), lambda value: value >= 0, "not be negative")
        require_each(self, ("seed",), lambda value: 0 <= value < 2**63, "lie in [0, 2**63)")
        fractions = ("atom_mask_fraction", "edge_mask_fraction", "holdout_fraction", "ema_decay")
        require_each(self, fractions, lambda value: 0 <= value < 1, "lie in [0, 1)")
        require(
            self.ssl_loss in get_args(SSLLoss), f"ssl_loss must be one of {get_args(SSLLoss)}, got {self.ssl_loss!r}"
        )
        require(
            self.objective in get_args(PretrainObjective),
            f"objective must be one of {get_args(PretrainObjective)}, got {self.objective!r}",
        )
        require(
            not (self.objective.startswith("masking") and self.atom_mask_fraction == 0),
            f"objective {self.objective!r} predicts masked atoms: set atom_mask_fraction above 0",
        )
        require(
            not (self.selection == "held_out" and self.holdout_fraction == 0),
            "selection='held_out' needs crystals: set holdout_fraction above 0",
        )
        require_limits(self.max_atoms, self.min_distance)
        _ = self.graph

    @property
    def graph(self) -> GraphSpec:
        """The part of the configuration that decides the content of a graph."""
        return graph_of(self)

    # -- what the loop reads and pretraining leaves no choice of
    @property
    def optimizer(self) -> Literal["adamw"]:
        """Without weight decay, which is Adam."""
        return "adamw"

    @property
    def milestones(self) -> tuple[int, ...]:
        """No schedule here has steps."""
        return ()

    @property
    def selected_by(self) -> str:
        """The metric whose least value marks the epoch that vectors come from; empty: the last epoch."""
        return {"held_out": f"{HELD_OUT}/{LOSS}", "train": f"{TRAIN}/{LOSS}", "last": ""}[self.selection]

    @property
    def patience(self) -> int:
        """Never stops early."""
        return 0


def default() -> PretrainConfig:
    """Return the published method without the flaws of its code (docs/how_it_works.md lists the differences)."""
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
