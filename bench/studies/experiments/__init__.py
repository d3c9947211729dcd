"""Training with each loss on real data: ``python -m bench.studies.experiments --help``."""
