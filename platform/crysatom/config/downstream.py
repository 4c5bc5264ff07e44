"""Configuration of the training of a property predictor, and its recipes."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crysatom.config.base import Group, reads
from crysatom.config.checks import require, require_each, require_spectrum
from crysatom.config.groups import (
    GraphSpec,
    Limits,
    Optimization,
    Registration,
    ResumableOutput,
    Source,
    TrainingWorkers,
    require_full_batches,
)
from crysatom.config.predictors import PUBLISHED, SETTINGS
from crysatom.names import (
    MAE,
    VAL,
    VOLUME_PER_ATOM,
    Criterion,
    Optimizer,
    Recipe,
    Schedule,
    VectorScale,
    VectorSpectrum,
)

HELD_OUT_ELEMENTS = "held_out_elements:"
"""Prefix of a split whose test crystals contain some elements: ``held_out_elements:Fe,Co``."""

COLUMN = "column:"
"""Prefix of a split given by a column of the crystal table."""

SPLITS = ("auto", "official", "random", "composition")


@dataclass(frozen=True, kw_only=True)
class Split(Group):
    """Crystals for training, validation and test."""

    split: str = "auto"
    """Split rule. 'official': the published split of the property; 'random'; 'composition': formulas do not cross
    parts; 'held_out_elements:Fe,Co': crystals with these elements are the test set; 'column:NAME': column of the
    crystal table with train, val, test or null; 'auto': official if the table has it, else random."""

    split_seed: int = 0
    """Seed of a drawn split and of the train fraction; the same for all training seeds."""

    train_fraction: float = 1.0
    """Fraction of the training crystals to use, for learning curves."""

    def __post_init__(self) -> None:
        require_each(self, ("split_seed",), lambda value: value >= 0, "not be negative")
        require_each(self, ("train_fraction",), lambda value: 0 < value <= 1, "lie in (0, 1]")
        require(
            self.split in SPLITS or re.fullmatch(f"{HELD_OUT_ELEMENTS}[A-Za-z,]+|{COLUMN}.+", self.split) is not None,
            f"split must be one of {', '.join(SPLITS)}, {HELD_OUT_ELEMENTS}Fe,Co, or {COLUMN}NAME, got {self.split!r}",
        )

    @property
    def held_out(self) -> list[str]:
        """Symbols of the held-out elements."""
        return [s for s in self.split.removeprefix(HELD_OUT_ELEMENTS).split(",") if s]


@dataclass(frozen=True, kw_only=True)
class Vectors(Group):
    """Atom vectors that the predictor reads."""

    vectors: str = reads("onehot92")
    """Atom vectors: structure-mp (shipped; learned from 152,240 crystals of the Materials Project), onehot92 (CGCNN's
    features), onehot, elements (the input of pretraining), random:SEED, permuted:OTHER, a name of ElementEmbeddings
    (skipatom, mat2vec, ...), a vectors file or folder, runs:/ID of a pretraining, or models:/NAME/VERSION."""

    vector_scale: VectorScale = "rms"
    """Scaling of the vectors over the elements of the training crystals: 'rms': one factor; 'standardize': each column;
    'none'."""

    vector_spectrum: VectorSpectrum = 0.0
    """Power P of the spectrum of the vectors: their k-th principal component is multiplied by s_k^-P with its singular
    value s_k. 0: as given; 1: whitened; -1, -2: steeper; 'auto': chosen on training and validation crystals.
    docs/vectors.md says when this helps."""

    train_vectors: bool = False
    """Train the vectors too; off: they are frozen, as published."""

    missing_vectors: Literal["error", "leave_out", "ridge"] = "error"
    """Elements without a vector: 'error': refuse them; 'leave_out': leave out and list the crystals that contain them;
    'ridge': predict their vectors from element properties."""

    def __post_init__(self) -> None:
        require_spectrum(self.vector_spectrum)


@dataclass(frozen=True, kw_only=True)
class Architecture(Group):
    """Predictor and its sizes."""

    predictor: str = "cgcnn"
    """Predictor: cgcnn, crysxpp, alignn, matformer, potnet or cogn. Sets defaults of graphs, sizes and optimization."""

    width: int = 64
    """Length of an atom's vector in the convolutions."""

    num_layers: int = 3
    """Convolutions."""

    hidden_dim: int = 128
    """Width of the layers after the pooling."""

    num_hidden: int = 1
    """Layers after the pooling, before the output."""

    basis_step: float = 0.2
    """Spacing of the Gaussians that encode distances, in angstrom."""

    predictor_options: Mapping[str, float] = field(default_factory=dict)
    """Options of this predictor: NAME VALUE NAME VALUE ..."""

    def __post_init__(self) -> None:
        sizes = ("width", "num_layers", "hidden_dim", "num_hidden")
        require_each(self, sizes, lambda value: value >= 1, "be at least 1")
        require_each(self, ("basis_step",), lambda value: value > 0, "be positive")


@dataclass(frozen=True, kw_only=True)
class Start(Group):
    """Pretrained encoders and trained models to start from, beside vectors."""

    init_encoder: str = reads("")
    """Pretrained encoder whose convolutions initialize the predictor's: a run's folder, runs:/ID, or
    models:/NAME/VERSION. Width and num_layers must match. Empty: random weights."""

    init_model: str = reads("")
    """Trained model that all weights, the normalizer and the scaling of --vectors start from: the folder of a run or a
    model, runs:/ID, or models:/NAME/VERSION. For fine-tuning on labels in the same unit, at a lower --lr."""

    distill: str = reads("")
    """Frozen pretrained encoder, given like --init-encoder, for distillation of the predictor's atom vectors."""

    distill_weight: float = 0.5
    """Weight of the distillation in the training loss, in (0, 1); the property has the rest (published: 0.5)."""

    def __post_init__(self) -> None:
        require_each(self, ("distill_weight",), lambda value: 0 < value < 1, "lie in (0, 1)")
        require(
            not (self.init_model and self.init_encoder),
            "a predictor starts from a trained model or from an encoder: give init_model or init_encoder",
        )


@dataclass(frozen=True, kw_only=True)
class DownstreamOptimization(Optimization):
    """Loss, epochs, batches and steps of the training, and selection of the epoch."""

    criterion: Criterion = "mae"
    """Loss of the normalized target: mean absolute error, mean squared error, or Huber loss with delta 1."""

    optimizer: Optimizer = "adamw"
    """Optimizer: 'adam' adds the weight decay to the gradient, 'adamw' decays the weights directly."""

    epochs: int = 100
    batch_size: int = 64
    schedule: Schedule = "one_cycle"

    milestones: tuple[int, ...] = (100,)
    """Epochs at which the 'step' schedule lowers the rate."""

    weight_decay: float = 1e-4

    selection: Literal["val", "last"] = "val"
    """Epoch whose model is kept: the one with the least validation MAE, or the last."""

    patience: int = 0
    """Epochs without a lower validation MAE before training stops; 0: never stop early."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_each(self, ("patience",), lambda value: value >= 0, "not be negative")
        require(
            not (self.patience and self.selection == "last"),
            "patience needs selection by validation MAE: set it to 0 with selection 'last'",
        )

    @property
    def selected_by(self) -> str:
        """Metric whose minimum selects the epoch of the model; empty: the last epoch."""
        return f"{VAL}/{MAE}" if self.selection == "val" else ""


@dataclass(frozen=True, kw_only=True)
class DownstreamConfig(Group):
    """Train a predictor of one property on labeled crystals, with any atom vectors."""

    source: Source = Source()

    property: str = VOLUME_PER_ATOM
    """Column of the crystal table; or volume_per_atom or density, which every table has."""

    targets: str = reads("")
    """CSV file with the labels: columns material_id and one named like the property. Overrides --property."""

    output: ResumableOutput = ResumableOutput()

    recipe: Recipe = "default"
    """Recipe that sets every default below: 'default': recommended by our evidence; 'paper': CrysAtom's."""

    limits: Limits = Limits()
    split: Split = Split()
    vectors: Vectors = Vectors()
    graph: GraphSpec = GraphSpec()
    architecture: Architecture = Architecture()
    start: Start = Start()

    composition_reference: bool = False
    """Learn the difference from a linear model of the composition, fitted to the training crystals by least squares;
    for energies per atom and similar properties."""

    optimization: DownstreamOptimization = DownstreamOptimization()

    seeds: tuple[int, ...] = (0,)
    """Seeds of initial weights and batch order. Each seed is a run of its own, whose name ends in it."""

    workers: TrainingWorkers = TrainingWorkers()

    tracking: Registration = Registration(register="crysatom-{property}-{predictor}")
    """The registered model's name may contain the fields {property} and {predictor}."""

    def __post_init__(self) -> None:
        require_full_batches(self.optimization, self.workers)
        different = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds)
        require(
            different and all(0 <= seed < 2**63 for seed in self.seeds),
            f"seeds must be different whole numbers in [0, 2**63), at least one, got {self.seeds}",
        )
        _ = self.model_name(self.property)

    # `property` is a field here
    @builtins.property
    def seed(self) -> int:
        """Seed of the run, for a configuration with one seed."""
        return self.seeds[0]

    def model_name(self, learned: str) -> str:
        """Return the name of the registered model for a learned property; empty if there is none.

        Raises:
            ValueError: If the setting has unknown fields.

        """
        register = self.tracking.register
        try:
            name = register.format(property=learned, predictor=self.architecture.predictor)
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(
                f"register may have the fields {{property}} and {{predictor}}, got {register!r}"
            ) from error
        return re.sub(r"[/:'\"]", "-", name)  # not allowed in MLflow's names or filters


def config_of(recorded: Mapping[str, Any]) -> DownstreamConfig:
    """Return the configuration that a run recorded; JSON lists become tuples again.

    Raises:
        ValueError: If a setting is unknown to this version, or invalid.

    """
    if unknown := sorted(recorded.keys() - DownstreamConfig.names()):
        raise ValueError(f"settings that this version does not know: {', '.join(unknown)}")
    return DownstreamConfig.of(**{k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()})


def default(predictor: str = Architecture.predictor) -> DownstreamConfig:
    """Return our recipe: MAE loss, annealed rate as in the JARVIS-Leaderboard's best, selection on validation."""
    return DownstreamConfig.of(predictor=predictor, **SETTINGS.get(predictor, {}))


def paper(predictor: str = Architecture.predictor) -> DownstreamConfig:
    """Return the published procedure (CrysAtom, arXiv 2409.04737, section 4 and released code).

    1,000 epochs and batches of 64 as in the text; rate, loss and schedule, which it does not give, as in the code.
    Unlike there, selection uses validation crystals and the scaler training crystals. Predictors with a procedure of
    their own use that.
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
    return DownstreamConfig.of(recipe="paper", predictor=predictor, **{**published, **PUBLISHED.get(predictor, {})})


RECIPES = {"default": default, "paper": paper}
