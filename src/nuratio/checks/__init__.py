"""Checks of trained ratios and of the likelihood made of them."""
