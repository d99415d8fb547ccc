"""Inference: fits, scans, hypothesis tests and limits of a model on data."""
