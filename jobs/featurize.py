"""Turn crystals into graph shards: ``python jobs/featurize.py --data crystals.parquet --out data/graphs``."""

import dataclasses

import bootstrap  # makes crysatom importable


def main() -> None:
    """Run the job."""
    from crysatom.config import FeaturizeConfig, parse

    config = parse(FeaturizeConfig)
    bootstrap.begin(config)
    from crysatom.cluster.featurize import featurize
    from crysatom.runs.paths import find, resolve

    config = dataclasses.replace(config, data=str(find(config.data)), out=str(resolve(config.out)))
    bootstrap.start_ray()
    report = featurize(config)
    print(f"read {report.read:,} = accepted {report.accepted:,} + rejected {report.rejected:,}")
    print(f"graphs: {report.atoms:,} atoms, {report.edges:,} edges")
    print(f"shards: {report.out} ({report.num_shards} files, {report.num_bytes:,} bytes)")
    if report.rejected:
        print(f"quarantine: {report.out}/quarantine.parquet (id, source, reason and advice for each)")
    if report.made:
        print(f"{report.made:,} crystals in {report.seconds:.1f} s, {report.crystals_per_second:,.0f} crystals/s")
    else:
        print("nothing to do: the folder already holds the graphs of these crystals")


if __name__ == "__main__":
    bootstrap.run(main, kept="finished shards", resumes=True)
