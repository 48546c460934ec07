"""Compiled loops of the exact greedy: cells, bounds, coverage and nearest neighbours.

Arguments of compiled functions are positional: numba has no keyword-only arguments.
"""
