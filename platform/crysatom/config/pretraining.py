"""The configuration of a pretraining, and its recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from crysatom.config.base import Group, places
from crysatom.config.checks import require, require_each
from crysatom.config.groups import (
    GraphSpec,
    Limits,
    NeighborRule,
    Optimization,
    Registration,
    ResumableOutput,
    Source,
    TrainingWorkers,
    require_full_batches,
)
from crysatom.names import HELD_OUT, LOSS, TRAIN, PretrainObjective, Recipe, SSLLoss


@dataclass(frozen=True, kw_only=True)
class Encoder(Group):
    """Encoder, and features of the elements that it reads."""

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

    def __post_init__(self) -> None:
        require_each(self, ("embedding_dim", "num_layers", "projection_dim"), lambda value: value >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class Views(Group):
    """Masks of the two views of a crystal."""

    atom_mask_fraction: float = 0.10
    """Atoms masked in each view; at least one per crystal."""

    edge_mask_fraction: float = 0.10
    """Edges masked in each view, of each atom."""

    masked_atoms: Literal["learned", "zero"] = "learned"
    """What the encoder sees at a masked atom: a learned vector, or zero (published)."""

    masked_edges: Literal["removed", "rerouted"] = "removed"
    """'removed': no message, not in the normalization statistics; 'rerouted': an edge without features to
    the crystal's first atom (published)."""

    def __post_init__(self) -> None:
        fractions = ("atom_mask_fraction", "edge_mask_fraction")
        require_each(self, fractions, lambda value: 0 <= value < 1, "lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Loss(Group):
    """Terms of the loss."""

    objective: PretrainObjective = "crysatom"
    """'crysatom': auto-encoder plus self-supervised loss; 'masking': elements of masked atoms; 'context': which
    surroundings belong to an atom; 'masking_context': the sum of both. The last three read only atom_mask_fraction and
    masked_atoms of the options of losses and views."""

    ssl_loss: SSLLoss = "barlow_twins"
    """Self-supervised loss between two masked views; 'none' trains the auto-encoder alone."""

    connectivity_weight: float = 0.25
    """Weight of the connectivity loss."""

    feature_weight: float = 0.25
    """Weight of the loss of restored element features."""

    ssl_weight: float = 0.50
    """Weight of the self-supervised loss."""

    normalize_projection: bool = False
    """Scale projections to unit length before the self-supervised loss (published)."""

    barlow_divisor: Literal["batch", "nominal"] = "batch"
    """Divide the cross-correlation by the crystals in the batch, or by batch_size always (published)."""

    barlow_lambda: float = 0.0051
    """Weight of the off-diagonal terms."""

    nt_xent_temperature: float = 0.5
    """Temperature of NT-Xent."""

    connectivity_mean: Literal["crystals", "pairs"] = "crystals"
    """Average the connectivity loss within each crystal first, or over all pairs of the batch (published)."""

    def __post_init__(self) -> None:
        require_each(self, ("nt_xent_temperature",), lambda value: value > 0, "be positive")
        weights = ("connectivity_weight", "feature_weight", "ssl_weight", "barlow_lambda")
        require_each(self, weights, lambda value: value >= 0, "not be negative")
        for name, choices in (("ssl_loss", get_args(SSLLoss)), ("objective", get_args(PretrainObjective))):
            value = getattr(self, name)
            require(value in choices, f"{name} must be one of {choices}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class PretrainOptimization(Optimization):
    """Epochs, batches and steps of the training."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """'cosine': linear warm-up over 5 % of the steps, then cosine decay to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.batch_size >= 2, f"batch_size must be at least 2 (the losses compare crystals), got {self.batch_size}"
        )


@dataclass(frozen=True, kw_only=True)
class Loading(Group):
    """Way of the graphs to the workers."""

    loader: Literal["auto", "resident", "streamed"] = "auto"
    """'resident': graphs in memory, any number of workers gives the same run; 'streamed': through Ray Data,
    for sets larger than memory; 'auto': resident if they fit."""

    memory_gb: float = places(0.0)
    """Memory of a worker that 'auto' assumes; 0: measured."""

    def __post_init__(self) -> None:
        require_each(self, ("memory_gb",), lambda value: value >= 0, "not be negative")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Group):
    """Learn element vectors, and an encoder, from crystals without labels."""

    source: Source = Source()
    output: ResumableOutput = ResumableOutput()

    recipe: Recipe = "default"
    """'default': what the evidence recommends; 'paper': the published procedure. Sets every default below."""

    limits: Limits = Limits()
    neighbors: NeighborRule = NeighborRule()
    encoder: Encoder = Encoder()
    loss: Loss = Loss()
    views: Views = Views()
    optimization: PretrainOptimization = PretrainOptimization()

    seed: int = 0
    """Seed of initial weights, batches and masks."""

    holdout_fraction: float = 0.05
    """Crystals held out of training (chosen by a hash of their id) to measure the held-out loss."""

    selection: Literal["held_out", "train", "last"] = "last"
    """Vectors come from the epoch with the least held-out loss, least training loss (published), or the last."""

    extraction: Literal["eval_mean", "algorithm_1"] = "eval_mean"
    """'eval_mean': mean over all sites in evaluation mode; 'algorithm_1': unit-length batch means
    in training mode, each batch overwriting the elements it holds (published)."""

    loading: Loading = Loading()
    workers: TrainingWorkers = TrainingWorkers()
    tracking: Registration = Registration(experiment="crysatom-pretrain", register="crysatom-vectors")

    def __post_init__(self) -> None:
        require_full_batches(self.optimization, self.workers)
        require_each(self, ("seed",), lambda value: 0 <= value < 2**63, "lie in [0, 2**63)")
        require_each(self, ("holdout_fraction",), lambda value: 0 <= value < 1, "lie in [0, 1)")
        objective = self.loss.objective
        require(
            not (objective.startswith("masking") and self.views.atom_mask_fraction == 0),
            f"objective {objective!r} predicts masked atoms: set atom_mask_fraction above 0",
        )
        require(
            not (self.selection == "held_out" and self.holdout_fraction == 0),
            "selection='held_out' needs crystals: set holdout_fraction above 0",
        )

    @property
    def graph(self) -> GraphSpec:
        """Content of the graphs."""
        return GraphSpec.from_rule(self.neighbors)

    @property
    def selected_by(self) -> str:
        """Metric whose least value marks the epoch that vectors come from; empty: the last epoch."""
        return {"held_out": f"{HELD_OUT}/{LOSS}", "train": f"{TRAIN}/{LOSS}", "last": ""}[self.selection]


def default() -> PretrainConfig:
    """Return the published method without the flaws of its code (docs/how_it_works.md lists the differences)."""
    return PretrainConfig()


def paper() -> PretrainConfig:
    """Return the published procedure with its settings (CrysAtom, arXiv 2409.04737, Table 2 and released code)."""
    return PretrainConfig(
        recipe="paper",
        neighbors=NeighborRule(ties="truncate", pad_short_lists=True),
        encoder=Encoder(node_features="cgcnn92", projection_dim=128),
        views=Views(masked_atoms="zero", masked_edges="rerouted"),
        loss=Loss(normalize_projection=True, barlow_divisor="nominal", connectivity_mean="pairs"),
        optimization=PretrainOptimization(
            epochs=110, batch_size=128, tail="short", lr=0.03, adam_eps=1e-8, schedule="constant"
        ),
        holdout_fraction=0.0,
        selection="train",
        extraction="algorithm_1",
    )


RECIPES = {"default": default, "paper": paper}
