"""What nvcc made of the CUDA kernels: read from the machine code, and held against budgets."""
