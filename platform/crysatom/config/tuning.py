"""The configuration of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.base import Group, reads
from crysatom.config.checks import require, require_each
from crysatom.config.groups import Limits, ResumableOutput, Source, Tracking, Workers


@dataclass(frozen=True, kw_only=True)
class Probes(Group):
    """Evaluation of a trial: a small CGCNN with the frozen vectors, judged by validation crystals."""

    probes: int = 3
    """Evaluations of a trial, the last one at its end."""

    probe_epochs: int = 30
    """Epochs of the small CGCNN. Its last epoch counts, not its best."""

    probe_width: int = 32
    """Length of an atom's vector in its convolutions, and half the width of its hidden layer."""

    probe_batch_size: int = 32
    """Crystals in a batch of it."""

    probe_seeds: tuple[int, ...] = (0,)
    """Seeds of its initial weights; the error is the mean over them."""

    def __post_init__(self) -> None:
        at_least_one = ("probes", "probe_epochs", "probe_width", "probe_batch_size")
        require_each(self, at_least_one, lambda value: value >= 1, "be at least 1")
        different = bool(self.probe_seeds) and len(set(self.probe_seeds)) == len(self.probe_seeds)
        require(different, f"probe_seeds must be different, at least one, got {self.probe_seeds}")


@dataclass(frozen=True, kw_only=True)
class TrialWorkers(Workers):
    """Processes of the trials."""

    num_workers: int = 0
    """0: each trial is a process of its own; else each is trained by so many data-parallel workers."""

    max_concurrent: int = 0
    """Trials at a time; 0: as many as the cluster has room for."""

    max_failures: int = 3
    """Lost workers after which a trial with workers fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_each(self, ("max_concurrent", "max_failures"), lambda value: value >= 0, "not be negative")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Group):
    """Search the settings of pretraining, or of a predictor, by many trials on Ray Tune."""

    space: str = reads()
    """Name of a file in tune_spaces/ (embedding_dim, ssl_loss, pretrain, downstream), or path of a .py file that
    defines space(). That file is run."""

    source: Source = Source()

    properties: tuple[str, ...] = ()
    """Columns of the crystal table by which trials are judged; empty: volume_per_atom and density, which any table
    has. Training of a predictor takes one; empty: volume_per_atom."""

    vectors: str = reads("onehot92")
    """Vectors of the predictors, where their training is searched; as in the downstream job."""

    output: ResumableOutput = ResumableOutput()
    limits: Limits = Limits()

    num_trials: int = 0
    """Trials, drawn at random from the space; 0: as many as the space says."""

    epochs: int = 0
    """Epochs of each trial; 0: as many as the space says."""

    seed: int = 0
    """Seed of what is drawn from the space."""

    probe: Probes = Probes()
    workers: TrialWorkers = TrialWorkers()
    tracking: Tracking = Tracking(experiment="crysatom-tune")

    def __post_init__(self) -> None:
        require_each(self, ("num_trials", "epochs", "seed"), lambda value: value >= 0, "not be negative")
        require(len(set(self.properties)) == len(self.properties), f"properties repeat: {' '.join(self.properties)}")
