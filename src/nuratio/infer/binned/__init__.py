"""Unbinned channels in bins: pictures, pyhf's views, the best binned analysis of the same events."""
