"""Names of parameters, tags, metrics and artifacts in MLflow, beyond those in crysatom.names."""

GIT_COMMIT = "mlflow.source.git.commit"
SOURCE_NAME, SOURCE_TYPE = "mlflow.source.name", "mlflow.source.type"
DATA = "data"
DATA_DIGEST = "data_digest"
CONFIG_DIGEST = "config_digest"
HARDWARE = "hardware"
PACKAGE_VERSION = "version."
"""Prefix of the tags that hold package versions: ``version.torch``."""

DIMENSIONS = "dimensions"
ELEMENTS = "elements"
HELD_OUT_LOSS = "held_out_loss"
OBJECTIVE = "objective"
TEST_MAE = "test_mae"
"""Tags of versions of registered models, beside those below."""

PREDICTOR = "predictor"
PROPERTY = "property"
UNIT = "unit"
SEED = "seed"
SPLIT = "split"
SPLIT_DIGEST = "split_digest"
VECTORS_DIGEST = "vectors_digest"
INIT_DIGEST = "init_encoder_digest"
INIT_MODEL_DIGEST = "init_model_digest"
DISTILL_DIGEST = "distill_digest"
"""Tags: digests of the encoder or the trained model that a predictor started from, and of the encoder it was distilled
from; empty: none."""

VECTOR_SPECTRUM = "vector_spectrum"
"""Tag: power of the spectrum of the vectors, as the setting of this name says or chose it."""

FILLED = "vectors_filled"
LEFT_OUT = "crystals_left_out"
"""Elements whose vectors were predicted from element properties; number of crystals with elements that have none."""

RUN_KEY = "run_key"
"""Tag that identifies a run if the answer to its creation was lost."""

PARENT = "mlflow.parentRunId"
SPACE = "search_space"
OBJECTIVE_OF_SWEEP = "search_objective"
ENDED, STOPPED = "ended", "stopped"
REASON = "reason"
"""Tags of the trials of a sweep: their parent run in MLflow; how they ended ('stopped': before the last epoch, because
others were better); why. Any other failed run has the last one too, until it is resumed."""

STUDY = "study"
"""Parameter that only studies have: the study's name."""

VECTORS = "vectors"
FIGURES = "figures"
"""Folders among a run's artifacts; the former is also the tag that names the vectors of a prediction."""
