"""The configuration of the training of a property predictor, and its recipes."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
from crysatom.config.predictors import PUBLISHED, SETTINGS
from crysatom.config.pretraining import PretrainConfig
from crysatom.names import (
    EMBEDDED_SOURCE,
    MAE,
    VAL,
    VOLUME_PER_ATOM,
    Balancing,
    Criterion,
    LatticeEdges,
    Optimizer,
    Potentials,
    Recipe,
    ReverseEdges,
    Schedule,
    VectorScale,
)

HELD_OUT_ELEMENTS = "held_out_elements:"
"""How the name of a split begins that holds elements out: ``held_out_elements:Fe,Co``."""

COLUMN = "column:"
"""How the name of a split begins that is a column of the crystal table."""

SPLITS = ("auto", "official", "random", "composition")


@dataclass(frozen=True, kw_only=True)
class DownstreamConfig:
    """Train a predictor of one property on labeled crystals, with any atom vectors."""

    # -- what to learn, and where results go
    data: str = EMBEDDED_SOURCE
    """Crystal table (.parquet), graph shards made of one, or any source that the ingest job reads."""

    property: str = VOLUME_PER_ATOM
    """Column of the crystal table, or volume_per_atom or density, which any table has."""

    targets: str = ""
    """Instead of a column: a CSV file with the columns material_id and one called like the property, whatever
    --property says."""

    out: str = "runs"
    """Folder under which the runs' own folders are made."""

    name: str = ""
    """Name of the runs, to which each adds its seed; empty: made of predictor, property, vectors and digests."""

    recipe: Recipe = "default"
    """'default': what the evidence recommends; 'paper': CrysAtom's. Sets every default below."""

    resume: bool = False
    """Continue runs of this very configuration that were stopped, from their last checkpoints."""

    max_atoms: int = FeaturizeConfig.max_atoms
    """Larger cells are quarantined. Graph shards that may hold larger ones are refused."""

    min_distance: float = FeaturizeConfig.min_distance
    """Crystals with two atoms closer than this are quarantined, in angstrom. Graph shards made with a smaller
    limit are refused."""

    # -- which crystals are for what
    split: str = "auto"
    """'official': the published split of the property; 'random'; 'composition': no formula in two parts;
    'held_out_elements:Fe,Co': crystals with one of these are the test set; 'column:NAME': train, val, test or null, as
    that column of the crystal table has it; 'auto': official where the table has it, else random."""

    split_seed: int = 0
    """Of a split that is drawn, and of the train fraction; the same for all seeds of training."""

    train_fraction: float = 1.0
    """Share of the training crystals that is used, for learning curves."""

    # -- atom vectors
    vectors: str = "onehot92"
    """onehot92 (CGCNN's features), onehot, elements (what pretraining reads), random:SEED, permuted:OTHER, a name of
    ElementEmbeddings (skipatom, mat2vec, ...), a vectors file or folder, runs:/ID of a pretraining, or
    models:/NAME/VERSION."""

    vector_scale: VectorScale = "rms"
    """Bring all tables to one scale over the elements of the training crystals: 'rms' by one factor, 'standardize'
    column by column, 'none'."""

    train_vectors: bool = False
    """Train the vectors with the rest; off: frozen, as published."""

    missing_vectors: Literal["error", "leave_out", "ridge"] = "error"
    """Elements without a vector: refuse; leave the crystals that hold them out, and list them; or predict the
    vectors from element properties."""

    # -- graph
    cutoff: float = GraphSpec.cutoff
    num_neighbors: int = GraphSpec.num_neighbors
    ties: Literal["complete", "truncate"] = GraphSpec.ties
    tie_tolerance: float = GraphSpec.tie_tolerance
    pad_short_lists: bool = GraphSpec.pad_short_lists
    reverse_edges: ReverseEdges = GraphSpec.reverse_edges
    lattice_edges: LatticeEdges = GraphSpec.lattice_edges
    directions: bool = GraphSpec.directions
    potentials: Potentials = GraphSpec.potentials

    # -- predictor
    predictor: str = "cgcnn"
    """cgcnn, crysxpp, alignn, matformer, potnet or cogn. Sets the defaults of graphs, sizes and optimization."""

    width: int = 64
    """Length of an atom's vector in the convolutions."""

    num_layers: int = 3
    """Convolutions."""

    hidden_dim: int = 128
    """Width of the layers behind the pooling."""

    num_hidden: int = 1
    """Layers behind the pooling, before the output."""

    basis_step: float = 0.2
    """Spacing of the Gaussians that describe distances, in angstrom."""

    predictor_options: Mapping[str, float] = field(default_factory=dict)
    """Options that only this predictor has: NAME VALUE NAME VALUE ..."""

    # -- pretraining of the whole encoder, beside its vectors
    init_encoder: str = ""
    """Pretraining whose encoder's convolutions the predictor's start from, to be trained further: a run's folder,
    runs:/ID, or models:/NAME/VERSION. Width and num_layers must be the encoder's. Empty: random."""

    init_model: str = ""
    """Trained model that all weights start from, with its normalizer and its form of --vectors: the folder of a run or
    of a model, runs:/ID, or models:/NAME/VERSION. To learn other labels in the same unit, at a lower --lr."""

    distill: str = ""
    """Pretraining, likewise, whose frozen encoder's atom vectors the predictor's are drawn to while it is trained."""

    distill_weight: float = 0.5
    """Share of the distillation in the training loss; the property has the rest (published: 0.5)."""

    # -- optimization
    composition_reference: bool = False
    """Learn the difference from a sum over atoms of one number per element, fitted to the training crystals by least
    squares: for energies per atom and the like."""

    criterion: Criterion = "mae"
    """Loss of the normalized target: mean absolute error, mean squared error, or Huber's with its corner at 1."""

    optimizer: Optimizer = "adamw"
    epochs: int = 100
    batch_size: int = 64
    """Crystals in a global batch, over all workers."""

    tail: Literal["spread", "short"] = "spread"
    """Crystals that do not fill a batch: spread over the others, or a short last batch."""

    lr: float = 3e-3
    schedule: Schedule = "one_cycle"
    """'one_cycle': up for 30 % of the steps, then down; 'cosine': warm-up over 5 %, then down; 'step': to a tenth
    at each milestone; 'linear': straight down to a fiftieth; 'constant'."""

    milestones: tuple[int, ...] = (100,)
    """Epochs at which the schedule 'step' lowers the rate."""

    adam_eps: float = PretrainConfig.adam_eps
    weight_decay: float = 1e-4
    gradient_clip: float = 0.0
    """Largest norm of the gradient; 0: not clipped."""

    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is judged and kept; 0: the weights themselves."""

    selection: Literal["val", "last"] = "val"
    """The model is that of the epoch with the least validation MAE, or of the last."""

    patience: int = 0
    """Stop after so many epochs without a lower validation MAE; 0: never."""

    # -- where it runs
    seeds: tuple[int, ...] = (0,)
    """Of initial weights and order of batches; each is a run of its own."""

    num_workers: int = 1
    """Data-parallel workers; 0 runs in this process, without Ray."""

    max_workers: int = 0
    """Elastic: as many workers as the cluster has room for, from num_workers up to this; written --num-workers MIN:MAX.
    0: num_workers, always."""

    use_gpu: bool = False
    max_failures: int = 3
    """Lost workers after which a run fails."""

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

    experiment: str = ""
    """Of MLflow; empty: one per data set."""

    register: str = "crysatom-{property}-{predictor}"
    """Registered model that the models become versions of, {property} and {predictor} filled in; empty: not
    registered."""

    def __post_init__(self) -> None:
        require_run_name(self.name)
        sizes = ("width", "num_layers", "hidden_dim", "num_hidden", "epochs", "batch_size", "threads_per_worker")
        require_each(self, sizes, lambda value: value >= 1, "be at least 1")
        require_workers(self)
        require_each(self, ("lr", "adam_eps", "basis_step"), lambda value: value > 0, "be positive")
        not_negative = ("gradient_clip", "weight_decay", "patience", "split_seed")
        require_each(self, not_negative, lambda value: value >= 0, "not be negative")
        require_each(self, ("ema_decay",), lambda value: 0 <= value < 1, "lie in [0, 1)")
        require_each(self, ("distill_weight",), lambda value: 0 < value < 1, "lie in (0, 1)")
        require_each(self, ("train_fraction",), lambda value: 0 < value <= 1, "lie in (0, 1]")
        different = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds)
        require(
            different and all(0 <= seed < 2**63 for seed in self.seeds),
            f"seeds must be different whole numbers in [0, 2**63), at least one, got {self.seeds}",
        )
        require(
            self.split in SPLITS or re.fullmatch(f"{HELD_OUT_ELEMENTS}[A-Za-z,]+|{COLUMN}.+", self.split) is not None,
            f"split must be one of {', '.join(SPLITS)}, {HELD_OUT_ELEMENTS}Fe,Co, or {COLUMN}NAME, got {self.split!r}",
        )
        require(
            not (self.init_model and self.init_encoder),
            "a predictor starts from a trained model or from an encoder: give init_model or init_encoder",
        )
        require(
            not (self.patience and self.selection == "last"),
            "patience waits for a better validation MAE: with selection 'last' set it to 0",
        )
        _ = self.model_name(self.property)
        require_limits(self.max_atoms, self.min_distance)
        _ = self.graph

    # `property` is a field here
    @builtins.property
    def graph(self) -> GraphSpec:
        """The part of the configuration that decides the content of a graph."""
        return graph_of(self)

    @builtins.property
    def selected_by(self) -> str:
        """The metric whose least value marks the epoch that the model comes from; empty: the last epoch."""
        return f"{VAL}/{MAE}" if self.selection == "val" else ""

    @builtins.property
    def held_out(self) -> list[str]:
        """Symbols of the elements that the split holds out."""
        return [s for s in self.split.removeprefix(HELD_OUT_ELEMENTS).split(",") if s]

    def model_name(self, learned: str) -> str:
        """Return the name of the registered model, given the property that is learned; empty: none.

        Raises:
            ValueError: If the setting has other fields than those that can be filled in.

        """
        try:
            name = self.register.format(property=learned, predictor=self.predictor)
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(
                f"register may have the fields {{property}} and {{predictor}}, got {self.register!r}"
            ) from error
        return re.sub(r"[/:'\"]", "-", name)  # which MLflow's names, or its filters by name, cannot hold


def default(predictor: str = DownstreamConfig.predictor) -> DownstreamConfig:
    """Return our recipe: MAE loss and annealed rate, as the JARVIS-Leaderboard's best, selected on validation."""
    return DownstreamConfig(predictor=predictor, **SETTINGS.get(predictor, {}))


def paper(predictor: str = DownstreamConfig.predictor) -> DownstreamConfig:
    """Return the published procedure (CrysAtom, arXiv 2409.04737, section 4 and released code).

    1,000 epochs and batches of 64 as the text says; rate, loss and schedule, on which it is silent, as the code has
    them. Selection is on validation crystals and the scaler from training crystals, unlike there. Predictors that
    come with a procedure of their own have that.
    """
    published: dict[str, Any] = {
        "ties": "truncate",
        "pad_short_lists": True,
        "vector_scale": "none",
        "criterion": "mse",
        "optimizer": "adam",
        "epochs": 1000,
        "batch_size": 64,
        "tail": "short",
        "lr": 0.01,
        "schedule": "step",
        "milestones": (100,),
        "adam_eps": 1e-8,
        "weight_decay": 0.0,
    }
    return DownstreamConfig(recipe="paper", predictor=predictor, **{**published, **PUBLISHED.get(predictor, {})})


RECIPES = {"default": default, "paper": paper}
