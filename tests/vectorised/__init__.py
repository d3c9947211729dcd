"""A check that the loops of the CPU kernels are vectorised."""
