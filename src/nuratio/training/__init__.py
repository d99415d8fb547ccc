"""Training: networks that learn density ratios and their variations from signed events."""
