"""Events: what is read from ntuples, and the binned templates made of them."""
