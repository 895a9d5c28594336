"""Slow, plain oracles, written from formulas and tables and never from the package's code."""
