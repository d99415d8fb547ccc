"""Ratios: trained estimators on disk, and the table of numbers per event that the fit reads."""
