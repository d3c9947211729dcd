"""A check of the machine code that nvcc makes of the CUDA kernels, against budgets."""
