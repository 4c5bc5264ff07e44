"""Names shared by modules, file formats or the MLflow UI.

One thing has one name, here. Column and metric names are part of the file formats: changing one is a breaking
change and belongs in the CHANGELOG.
"""

from typing import Literal, NamedTuple, get_args

__version__ = "0.1.0"

SYMBOLS: tuple[str, ...] = tuple(
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
    Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho
    Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es
    Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
    """.split()  # noqa: SIM905 - a table is read more easily than a list of 118 quoted words
)
"""Element symbols in order of atomic number: ``SYMBOLS[Z - 1]``."""

MAX_ATOMIC_NUMBER = len(SYMBOLS)


class Property(NamedTuple):
    """A labeled property: the text a table or plot shows, and its unit."""

    label: str
    unit: str


PROPERTIES: dict[str, Property] = {
    "formation_energy_peratom": Property("Formation energy", "eV/atom"),
    "optb88vdw_bandgap": Property("Band gap (OptB88vdW)", "eV"),
    "optb88vdw_total_energy": Property("Total energy", "eV/atom"),
    "ehull": Property("Energy above hull", "eV/atom"),
    "mbj_bandgap": Property("Band gap (TB-mBJ)", "eV"),
    "bulk_modulus_kv": Property("Bulk modulus (Voigt)", "GPa"),
    "shear_modulus_gv": Property("Shear modulus (Voigt)", "GPa"),
    "e_form": Property("Formation energy (MP 2018.6.1)", "eV/atom"),
    "gap_pbe": Property("Band gap (MP 2018.6.1)", "eV"),
    "volume_per_atom": Property("Volume", "angstrom^3/atom"),
    "density": Property("Density", "g/cm^3"),
}

BAND_GAPS = frozenset({"optb88vdw_bandgap", "mbj_bandgap", "gap_pbe"})
"""Properties that are zero for metals."""

ELEMENT_BINS = "elements"
CGCNN_BITS = "cgcnn92"
"""Named element features; all others are read from a file."""

PretrainObjective = Literal["crysatom", "masking", "context", "masking_context"]
SSLLoss = Literal["barlow_twins", "vicreg", "nt_xent", "none"]
"""Each name but 'none' is a file and a function in ``crysatom/ssl/losses``."""

Recipe = Literal["default", "paper"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine", "step", "linear", "one_cycle"]
Balancing = Literal["auto", "equal", "speed"]
Precision = Literal["float32", "bf16"]
FLOAT32: Precision = "float32"
BF16: Precision = "bf16"
Criterion = Literal["mae", "mse", "huber"]
ReverseEdges = Literal["none", "add", "published"]
LatticeEdges = Literal["none", "primitive", "cell"]
Potentials = Literal["none", "exact", "published"]
VectorScale = Literal["none", "rms", "standardize"]
VECTOR_SCALES: tuple[VectorScale, ...] = get_args(VectorScale)
AUTO: Literal["auto"] = "auto"
VectorSpectrum = float | Literal["auto"]
Distance = Literal["cosine", "euclidean"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)

MODELS_URI, RUNS_URI = "models:/", "runs:/"
"""Prefixes of MLflow URIs of a registered model and of a run."""

# Columns of the crystal table.
MATERIAL_ID = "material_id"
LATTICE = "lattice"
FRAC_COORDS = "frac_coords"
ATOMIC_NUMBERS = "atomic_numbers"
FORMULA = "formula"
VOLUME_PER_ATOM = "volume_per_atom"
DENSITY = "density"
SPACEGROUP_NUMBER = "spacegroup_number"
"""Not part of the contract; used if a table has it."""

SPLIT_PREFIX = "split_"
"""``split_<property>`` holds the published split of a property: train, val, test or null."""

# Further columns of a graph shard. E edges run over all atoms in order, then over neighbors.
MATERIAL_KEY = "material_key"
DEGREE = "degree"
NEIGHBOR = "neighbor"
IMAGE = "image"
VECTOR = "vector"
POTENTIAL = "potential"
DISTANCE = "distance"

# Columns of the quarantine.
SOURCE = "source"
REASON = "reason"
DETAIL = "detail"

NOTE = "note"
"""Decisions, omissions and rounding when a crystal was read."""

# Terms of the pretraining objective: names in logs, MLflow and figures.
LOSS = "loss"
CONNECTIVITY = "connectivity"
FEATURES = "features"
SSL = "ssl"
LOSS_TERMS = (LOSS, CONNECTIVITY, FEATURES, SSL)
"""Terms of CrysAtom's objective, as published."""

MASKING = "masking"
CONTEXT = "context"
BONDS = "bonds"
ALL_LOSS_TERMS = (*LOSS_TERMS, MASKING, CONTEXT, BONDS)
"""Terms of all objectives."""

DISTILLATION = "distillation"
"""Term of a distilled predictor's training loss."""

TRAIN = "train"
VAL = "val"
TEST = "test"
HELD_OUT = "held_out"
"""Metrics are named ``<split>/<term>``; MLflow groups them into one section per split."""

VAL_SELECTED = "val_selected"
TEST_TWIN_FREE = "test_twin_free"
"""Validation crystals at the selected epoch; test crystals without a twin among the training crystals."""

# Files of a finished predictor training.
RUN_JSON = "run.json"
RESULTS_JSON = "results.json"
PREDICTIONS_CSV = "predictions.csv"
ELEMENT_ERRORS_CSV = "element_errors.csv"

# Columns of predictions.csv, after the id.
TARGET = "target"
PREDICTION = "prediction"

ELEMENT = "element"
"""First column of element_errors.csv; the others are ``num_crystals`` and ``mae``."""

# Further columns for predictions of crystals without a target.
SPREAD = "spread"
PROPERTY = "property"
UNIT = "unit"
UNTRAINED_ELEMENTS = "untrained_elements"
VALUE = "value"
PROBLEM = "problem"
FLAGS = "flags"
"""Reasons to distrust a prediction: names of :data:`ALL_FLAGS`, separated by semicolons; empty if there are none."""

NO_NEIGHBORS = "no_neighbors"
"""No atom of the crystal has a neighbor within the cutoff: the graph has no information on its structure."""
ISOLATED_ATOMS = "isolated_atoms"
"""Some atoms of the crystal have no neighbor within the cutoff."""
UNTRAINED_ELEMENT = "untrained_element"
OUTSIDE_VOLUME = "outside_training_volume"
OUTSIDE_SIZE = "outside_training_size"
"""Volume per atom, or number of atoms in the cell, is outside the range of the training crystals."""
UNKNOWN_TRAINING = "unknown_training"
"""The model does not record all properties of its training crystals."""
ALL_FLAGS = (NO_NEIGHBORS, ISOLATED_ATOMS, UNTRAINED_ELEMENT, OUTSIDE_VOLUME, OUTSIDE_SIZE, UNKNOWN_TRAINING)

NUM_ATOMS = "num_atoms"
"""A model records the range of this, and of ``volume_per_atom``, over its training crystals."""

# Metrics of predictions; errors have the unit of the property.
NUM_CRYSTALS = "num_crystals"
NUM_ELEMENTS = "num_elements"
MAE = "mae"
MAE_LOW = "mae_low"
MAE_HIGH = "mae_high"
RMSE = "rmse"
R2 = "r2"
MAD = "mad"
MAE_OVER_MAD = "mae_over_mad"
NUM_METALS = "num_metals"
MAE_METALS = "mae_metals"
MAE_GAPPED = "mae_gapped"
GAP_ACCURACY = "gap_accuracy"

NUM_PARAMETERS = "num_parameters"
TEST_SECONDS = "test_seconds"
"""Number of trained parameters; time to predict the test crystals once."""
PROBE = "probe/mae_over_mad"
"""Metric that compares trials of a sweep: validation MAE over MAD, mean over properties and seeds."""

SYSTEM = "system/"
"""Prefix of metrics that MLflow shows on its page of system metrics."""

EMBEDDED_SOURCE = "aflow:prototypes"
