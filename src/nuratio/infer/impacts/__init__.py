"""Where an uncertainty comes from: nuisances, groups of them, the simulation."""
