"""Plots and tables of the thesis, one command each, for any checkpoint and data set."""
