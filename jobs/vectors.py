"""Make element vectors by older methods: ``python jobs/vectors.py --method skipatom --data crystals.parquet``."""

import bootstrap  # makes crysatom importable


def main() -> None:
    """Run the job."""
    from crysatom.config import VectorsConfig, parse

    config = parse(VectorsConfig)
    bootstrap.begin(config, names=[config.output.name])
    from crysatom.pipelines.vectors import describe, run

    print(describe(run(config)))


if __name__ == "__main__":
    bootstrap.run(main, kept="graphs; vectors are recomputed, in minutes")
