"""The built-in example: a Drell-Yan generator with exact densities, and the whole chain run on it."""
