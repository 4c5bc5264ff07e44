"""Configuration of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.base import Group, reads
from crysatom.config.checks import require, require_each, require_spectrum
from crysatom.config.groups import Limits, ResumableOutput, Source, Tracking, Workers
from crysatom.names import Precision, VectorSpectrum


@dataclass(frozen=True, kw_only=True)
class Probes(Group):
    """Evaluation of a trial: validation errors of a small CGCNN with the frozen vectors."""

    probes: int = 3
    """Number of evaluations of a trial; the last one is at its end."""

    probe_epochs: int = 30
    """Epochs of the small CGCNN. Its last epoch counts, not its best."""

    probe_width: int = 32
    """Length of an atom's vector in the small CGCNN, and half the width of its hidden layer."""

    probe_batch_size: int = 32
    """Batch size of the small CGCNN."""

    probe_seeds: tuple[int, ...] = (0,)
    """Seeds of the initial weights of the small CGCNN; the error is the mean over them."""

    def __post_init__(self) -> None:
        at_least_one = ("probes", "probe_epochs", "probe_width", "probe_batch_size")
        require_each(self, at_least_one, lambda value: value >= 1, "be at least 1")
        different = bool(self.probe_seeds) and len(set(self.probe_seeds)) == len(self.probe_seeds)
        require(different, f"probe_seeds must be different, at least one, got {self.probe_seeds}")


@dataclass(frozen=True, kw_only=True)
class TrialWorkers(Workers):
    """Processes of the trials."""

    num_workers: int = 0
    """Data-parallel workers per trial; 0: a trial is a single process."""

    max_concurrent: int = 0
    """Trials at a time; 0: as many as the cluster can hold."""

    max_failures: int = 3
    """Number of worker failures before a trial with workers fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_each(self, ("max_concurrent", "max_failures"), lambda value: value >= 0, "not be negative")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Group):
    """Search settings of pretraining, or of a predictor, with many trials on Ray Tune."""

    space: str = reads()
    """Search space: name of a file in tune_spaces/ (embedding_dim, ssl_loss, pretrain, downstream), or path of a .py
    file that defines space(). The file is run."""

    source: Source = Source()

    properties: tuple[str, ...] = ()
    """Columns of the crystal table on which trials are evaluated; empty: volume_per_atom and density, which every table
    has. A search for a predictor takes one; empty: volume_per_atom."""

    vectors: str = reads("onehot92")
    """Vectors of the predictors, in a search for a predictor; as in the downstream job."""

    vector_spectrum: VectorSpectrum = 0.0
    """Power of the spectrum of all vectors that predictors read, as in the downstream job; a search for a predictor may
    set or search it, and only there it may be 'auto'."""

    output: ResumableOutput = ResumableOutput()
    limits: Limits = Limits()

    num_trials: int = 0
    """Number of trials, drawn at random from the space; 0: the space's own number."""

    epochs: int = 0
    """Epochs of each trial; 0: the space's own number."""

    seed: int = 0
    """Seed of the draws from the space."""

    precision: Precision = "float32"
    """Precision of every trial: 'float32' or 'bf16', unless the space sets it. Evaluations of vectors are float32."""

    probe: Probes = Probes()
    workers: TrialWorkers = TrialWorkers()
    tracking: Tracking = Tracking(experiment="crysatom-tune")

    def __post_init__(self) -> None:
        require_spectrum(self.vector_spectrum)
        require_each(self, ("num_trials", "epochs", "seed"), lambda value: value >= 0, "not be negative")
        require(len(set(self.properties)) == len(self.properties), f"properties repeat: {' '.join(self.properties)}")
