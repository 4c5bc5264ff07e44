"""Configuration of a pretraining, and its recipes."""

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

Extraction = Literal["eval_mean", "algorithm_1", "decoder"]
DECODER: Extraction = "decoder"
ALGORITHM_1: Extraction = "algorithm_1"


@dataclass(frozen=True, kw_only=True)
class Encoder(Group):
    """The encoder, and its input features of the elements."""

    embedding_dim: int = 200
    """Length D of an element vector, and width of every encoder layer."""

    num_layers: int = 5
    """Number of crystal-graph convolutions."""

    projection_dim: int = 64
    """Width of the projection in which views are compared. The noise of Barlow Twins grows with its square over the
    batch size: use 64 for batches of 128 (published: 128)."""

    node_features: str = "elements"
    """Input and reconstruction target of each element: 'elements' (one-hot bins of ten facts, distinct for every
    element), 'cgcnn92' (CGCNN's 92 bits, read from jarvis-tools), or a vectors file."""

    def __post_init__(self) -> None:
        require_each(self, ("embedding_dim", "num_layers", "projection_dim"), lambda value: value >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class Views(Group):
    """Masks of the two views of a crystal."""

    atom_mask_fraction: float = 0.10
    """Fraction of atoms masked in each view; at least one atom per crystal."""

    mask_unit: Literal["atoms", "element"] = "atoms"
    """Atoms masked in a view: a fraction of the 'atoms' (published), or all atoms of one 'element' of the crystal, so
    that no equivalent atom shows what is masked; atom_mask_fraction then has no effect."""

    edge_mask_fraction: float = 0.10
    """Fraction of each atom's edges masked in each view."""

    masked_atoms: Literal["learned", "zero"] = "learned"
    """Encoder input at a masked atom: 'learned' vector, or 'zero' (published)."""

    masked_edges: Literal["removed", "rerouted"] = "removed"
    """Masked edges: 'removed': no message, and not in the normalization statistics; 'rerouted': an edge without
    features to the crystal's first atom (published)."""

    def __post_init__(self) -> None:
        fractions = ("atom_mask_fraction", "edge_mask_fraction")
        require_each(self, fractions, lambda value: 0 <= value < 1, "lie in [0, 1)")

    @property
    def mask_atoms(self) -> bool:
        """Whether views have masked atoms."""
        return self.mask_unit == "element" or self.atom_mask_fraction > 0


@dataclass(frozen=True, kw_only=True)
class Loss(Group):
    """Terms of the loss."""

    objective: PretrainObjective = "crysatom"
    """Objective: 'crysatom': auto-encoder plus self-supervised loss; 'masking': predict the elements of masked atoms;
    'context': match atoms with their surroundings; 'masking_context': sum of both. The last three use only
    atom_mask_fraction and masked_atoms of the loss and view options."""

    ssl_loss: SSLLoss = "barlow_twins"
    """Self-supervised loss between two masked views; 'none': auto-encoder only."""

    connectivity_weight: float = 0.25
    """Weight of the connectivity loss."""

    feature_weight: float = 0.25
    """Weight of the loss of reconstructed element features."""

    ssl_weight: float = 0.50
    """Weight of the self-supervised loss."""

    element_weight: float = 0.0
    """Weight of the loss of predicting the elements of masked atoms from the views; 0: no such decoder (published)."""

    bond_weight: float = 0.0
    """Weight of the loss of predicting bond lengths from the element decoder's vectors; 0: none (published)."""

    normalize_projection: bool = False
    """Normalize projections to unit length before the self-supervised loss (published)."""

    barlow_divisor: Literal["batch", "nominal"] = "batch"
    """Divisor of the cross-correlation: crystals in the 'batch', or always batch_size (published)."""

    barlow_lambda: float = 0.0051
    """Weight of the off-diagonal terms of Barlow Twins."""

    nt_xent_temperature: float = 0.5
    """Temperature of NT-Xent."""

    connectivity_mean: Literal["crystals", "pairs"] = "crystals"
    """Mean of the connectivity loss: within each crystal first, or over all pairs of the batch (published)."""

    def __post_init__(self) -> None:
        require_each(self, ("nt_xent_temperature",), lambda value: value > 0, "be positive")
        weights = (
            "connectivity_weight",
            "feature_weight",
            "ssl_weight",
            "element_weight",
            "bond_weight",
            "barlow_lambda",
        )
        require_each(self, weights, lambda value: value >= 0, "not be negative")
        for name, choices in (("ssl_loss", get_args(SSLLoss)), ("objective", get_args(PretrainObjective))):
            value = getattr(self, name)
            require(value in choices, f"{name} must be one of {choices}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class PretrainOptimization(Optimization):
    """Epochs, batches and steps of the training."""

    epochs: int = 20
    batch_size: int = 128

    schedule: Literal["cosine", "constant"] = "cosine"
    """Schedule of the learning rate. 'cosine': linear warm-up over 5 % of the steps, then cosine decay to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.batch_size >= 2, f"batch_size must be at least 2 (the losses compare crystals), got {self.batch_size}"
        )


@dataclass(frozen=True, kw_only=True)
class Loading(Group):
    """How graphs reach the workers."""

    loader: Literal["auto", "resident", "streamed"] = "auto"
    """Loader: 'resident': graphs in memory; the run does not depend on the number of workers; 'streamed': by Ray Data,
    for data larger than memory; 'auto': resident if the graphs fit."""

    memory_gb: float = places(0.0)
    """Memory of a worker in GB, for 'auto'; 0: measured."""

    def __post_init__(self) -> None:
        require_each(self, ("memory_gb",), lambda value: value >= 0, "not be negative")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Group):
    """Learn element vectors, and an encoder, from crystals without labels."""

    source: Source = Source()
    output: ResumableOutput = ResumableOutput()

    recipe: Recipe = "default"
    """Recipe that sets every default below: 'default': recommended by our evidence; 'paper': as published."""

    limits: Limits = Limits()
    neighbors: NeighborRule = NeighborRule()
    encoder: Encoder = Encoder()
    loss: Loss = Loss()
    views: Views = Views()
    optimization: PretrainOptimization = PretrainOptimization()

    seed: int = 0
    """Seed of initial weights, batches and masks."""

    holdout_fraction: float = 0.05
    """Fraction of crystals held out, chosen by a hash of their ids, to measure the held-out loss."""

    selection: Literal["held_out", "train", "last"] = "last"
    """Epoch of the vectors: the one with the least held-out loss, the least training loss (published), or the last."""

    extraction: Extraction = "eval_mean"
    """Extraction of the vectors: 'eval_mean': mean over all sites in evaluation mode; 'decoder': what the decoders know
    of each element and its bonds (needs element_weight); 'algorithm_1': unit-length batch means in training mode, where
    each batch overwrites the elements it contains (published)."""

    loading: Loading = Loading()
    workers: TrainingWorkers = TrainingWorkers()
    tracking: Registration = Registration(experiment="crysatom-pretrain", register="crysatom-vectors")

    def __post_init__(self) -> None:
        require_full_batches(self.optimization, self.workers)
        require_each(self, ("seed",), lambda value: 0 <= value < 2**63, "lie in [0, 2**63)")
        require_each(self, ("holdout_fraction",), lambda value: 0 <= value < 1, "lie in [0, 1)")
        objective = self.loss.objective
        require(
            not (objective.startswith("masking") and not self.views.mask_atoms),
            f"objective {objective!r} predicts masked atoms: set atom_mask_fraction above 0",
        )
        require(
            not (self.loss.element_weight and not self.views.mask_atoms),
            "element_weight is the weight of predicting masked atoms: set atom_mask_fraction above 0",
        )
        require(
            not (self.extraction == DECODER and not self.has_element_table),
            "extraction='decoder' needs the decoders of objective 'crysatom' and element_weight above 0; else choose "
            "extraction 'eval_mean'",
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
    def has_element_table(self) -> bool:
        """Whether the objective trains an element decoder on masked atoms."""
        return self.loss.objective == "crysatom" and self.loss.element_weight > 0

    @property
    def selected_by(self) -> str:
        """Metric whose minimum selects the epoch of the vectors; empty: the last epoch."""
        return {"held_out": f"{HELD_OUT}/{LOSS}", "train": f"{TRAIN}/{LOSS}", "last": ""}[self.selection]


def default() -> PretrainConfig:
    """Return the published method without the flaws of its code, and with decoders that the vectors come from.

    docs/how_it_works.md lists the differences and why.
    """
    return PretrainConfig(
        views=Views(mask_unit="element"), loss=Loss(element_weight=1.0, bond_weight=0.5), extraction=DECODER
    )


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
