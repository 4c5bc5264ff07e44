"""Names of parameters, tags, metrics and artifacts in MLflow, beyond the vocabulary of crysatom.names."""

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
"""Of the pretrained encoder or the trained model that a predictor started from, and of the encoder that it was
distilled by; empty: none."""

FILLED = "vectors_filled"
LEFT_OUT = "crystals_left_out"
"""Elements whose vectors were predicted from element properties; number of crystals that have elements without one."""

RUN_KEY = "run_key"
"""Tag by which a run is found again whose making was not answered."""

PARENT = "mlflow.parentRunId"
SPACE = "search_space"
OBJECTIVE_OF_SWEEP = "search_objective"
ENDED, STOPPED = "ended", "stopped"
REASON = "reason"
"""Of the trials of a sweep: under which run MLflow shows them; how they ended (stopped: before its
last epoch, being worse than others), and why. The last is of any run that
failed, until it is resumed."""

STUDY = "study"
"""Parameter that only studies have: which."""

VECTORS = "vectors"
FIGURES = "figures"
"""Folders among a run's artifacts; the former is also the tag that names the vectors of a prediction."""
