"""HS3, the HEP statistics serialization standard (v0.2): a workspace as one JSON document for other packages, and back.

`to_hs3` writes what a workspace means: each channel's rates as a ``histfactory_dist``, parameters, data, likelihoods,
analyses, and the unbinned part under ``misc.nuratio``. `from_hs3` reads such documents, and those of other packages as
far as they are HistFactory. The standard has no type for ratios tabulated per event: what that means for a reader
of the document is told in ``docs/interoperability.md``.
"""

from nuratio.interop.hs3.reading import from_hs3
from nuratio.interop.hs3.writing import to_hs3

__all__ = ["from_hs3", "to_hs3"]
