"""Fused multi-label losses at work: which names does a function's body use, given its docstring?

Run `make demo`, or `python -m demo --help` from the repository root.
"""
