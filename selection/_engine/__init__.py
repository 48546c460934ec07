"""Compiled loops of the exact greedy: cells, bounds, coverage and nearest neighbours."""
