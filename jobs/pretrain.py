"""Learn element vectors from crystals: ``python jobs/pretrain.py --data crystals.parquet --num-workers 2``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import PretrainConfig, parse


def main() -> None:
    """Run the job."""
    config = parse(PretrainConfig)
    bootstrap.require_data(config.data)
    bootstrap.set_up_process()
    from crysatom.pipelines.pretraining import describe, run

    try:
        finished = run(config)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(describe(finished))


if __name__ == "__main__":
    bootstrap.run(main)
