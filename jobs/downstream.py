"""Train a property predictor: ``python jobs/downstream.py --data crystals.parquet --property bulk_modulus_kv``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import DownstreamConfig, parse


def main() -> None:
    """Run the job."""
    config = parse(DownstreamConfig)
    bootstrap.require_data(config.data)
    bootstrap.set_up_process()
    from crysatom.pipelines.downstream import describe, run

    try:
        finished = run(config)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(describe(finished))


if __name__ == "__main__":
    bootstrap.run(main)
