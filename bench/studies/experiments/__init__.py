"""Training with one loss or another, on real data: ``python -m bench.studies.experiments --help``."""
