"""What is counted in toys: p-values, belts, coverage, injection tests."""
