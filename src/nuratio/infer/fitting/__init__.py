"""Minima of -2 ln L, and their uncertainties."""
