"""Studies: programs that answer one question each, beside the benchmarks that are run for every release."""
