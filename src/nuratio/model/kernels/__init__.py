"""One pass over an event table: sum_i w_i ln density_i with all its derivatives. The same function three times.

`compiled` (numba, its loops are in `loops`) is the one that fits use; `arrays` is its plain twin in numpy, the oracle
of the tests, and runs in torch on a GPU. `program` holds what they share: a channel's samples as flat arrays, and the
sums that come out. `kernel` chooses one.
"""
