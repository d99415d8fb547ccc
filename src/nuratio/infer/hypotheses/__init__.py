"""Hypothesis tests: CLs, limits, discovery, by asymptotic formulas."""
