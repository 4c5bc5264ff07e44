"""The configuration of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.data import FeaturizeConfig, require, require_each, require_limits, require_run_name
from crysatom.names import EMBEDDED_SOURCE


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search the settings of pretraining, or of a predictor, by many trials on Ray Tune."""

    # -- what to search, on what, and where results go
    space: str
    """Name of a file in tune_spaces/ (embedding_dim, ssl_loss, pretrain, downstream), or path of a .py file that
    defines space(). That file is run."""

    data: str = EMBEDDED_SOURCE
    """Crystal table (.parquet), graph shards made of one, or any source that the ingest job reads."""

    properties: tuple[str, ...] = ()
    """Columns of the crystal table by which trials are judged; empty: volume_per_atom and density, which any table
    has. Training of a predictor takes one; empty: volume_per_atom."""

    vectors: str = "onehot92"
    """Of the predictors, where their training is searched; as in the downstream job."""

    out: str = "runs"
    """Folder under which the sweep's own folder is made."""

    name: str = ""
    """Name of the sweep and its folder; empty: 'tune-', the space's name and digests."""

    resume: bool = False
    """Continue a sweep that was stopped: finished trials are kept, begun ones go on from their last checkpoints, and
    failed ones are tried again."""

    max_atoms: int = FeaturizeConfig.max_atoms
    """Larger cells are quarantined. Graph shards that may hold larger ones are refused."""

    min_distance: float = FeaturizeConfig.min_distance
    """Crystals with two atoms closer than this are quarantined, in angstrom. Graph shards made with a smaller
    limit are refused."""

    # -- how long
    num_trials: int = 0
    """Trials, drawn at random from the space; 0: as many as the space says."""

    epochs: int = 0
    """Of each trial; 0: as many as the space says."""

    seed: int = 0
    """Of what is drawn from the space."""

    # -- how trials are judged
    probes: int = 3
    """Times that a trial is judged, the last time at its end."""

    probe_epochs: int = 30
    """Epochs of a small CGCNN with the frozen vectors. Its last epoch counts, not its best."""

    probe_width: int = 32
    """Its length of an atom's vector in the convolutions, and half the width of its hidden layer."""

    probe_batch_size: int = 32
    """Its crystals in a batch."""

    probe_seeds: tuple[int, ...] = (0,)
    """Of its initial weights; the error is the mean over them."""

    # -- where it runs
    num_workers: int = 0
    """0: each trial is a process of its own; else each is trained by so many data-parallel workers."""

    max_concurrent: int = 0
    """Trials at a time; 0: as many as the cluster has room for."""

    use_gpu: bool = False
    """Each trial, or each of its workers, has a GPU."""

    threads_per_worker: int = 1
    """CPU threads of a trial or of each of its workers."""

    max_failures: int = 3
    """Lost workers after which a trial with workers fails."""

    tracking_uri: str = ""
    """MLflow; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""

    experiment: str = "crysatom-tune"

    def __post_init__(self) -> None:
        require_run_name(self.name)
        at_least_one = ("probes", "probe_epochs", "probe_width", "probe_batch_size", "threads_per_worker")
        require_each(self, at_least_one, lambda value: value >= 1, "be at least 1")
        not_negative = ("num_trials", "epochs", "seed", "num_workers", "max_concurrent", "max_failures")
        require_each(self, not_negative, lambda value: value >= 0, "not be negative")
        require(len(set(self.properties)) == len(self.properties), f"properties repeat: {' '.join(self.properties)}")
        different = bool(self.probe_seeds) and len(set(self.probe_seeds)) == len(self.probe_seeds)
        require(different, f"probe_seeds must be different, at least one, got {self.probe_seeds}")
        require_limits(self.max_atoms, self.min_distance)
