"""Names of parameters, tags, metrics and artifacts in MLflow, beyond the vocabulary of crysatom.names."""

GIT_COMMIT = "mlflow.source.git.commit"
DATA = "data"
DATA_DIGEST = "data_digest"
CONFIG_DIGEST = "config_digest"
HARDWARE = "hardware"
PACKAGE_VERSION = "version."
"""Prefix of the tags that hold package versions: ``version.torch``."""

DIMENSIONS = "dimensions"
ELEMENTS = "elements"
HELD_OUT_LOSS = "held_out_loss"

VECTORS = "vectors"
FIGURES = "figures"
"""Folders among a run's artifacts."""
