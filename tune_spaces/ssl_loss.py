"""Which self-supervised loss goes best with the auto-encoder? CrysAtom's Table 10 (arXiv 2409.04737), and none."""

from typing import get_args

from crysatom.config import Choice, SearchSpace
from crysatom.names import SSLLoss


def space() -> SearchSpace:
    """Return one trial per loss, each to its end."""
    return SearchSpace(
        objective="pretrain",
        settings={"ssl_loss": Choice(get_args(SSLLoss))},
        fixed={"epochs": 20, "batch_size": 48},
    )
