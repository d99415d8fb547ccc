"""The pyhf model of a workspace's counting part: its parameters, auxiliary data and rates."""

from collections.abc import Mapping
from typing import Any

import pyhf

from nuratio.errors import InvalidWorkspace

__all__ = ["pyhf_model"]


def pyhf_model(counting: Mapping[str, Any], measurement: str, settings: Mapping[str, Any], **options: Any) -> Any:
    """The `pyhf.Model` of a measurement.

    Parameters
    ----------
    counting : mapping
        pyhf workspace.
    measurement : str
    settings : mapping
        ``modifier_settings``: interpolation codes.
    **options
        Others of `pyhf.Workspace.model`.

    Raises
    ------
    InvalidWorkspace
        pyhf cannot build it.
    """
    try:
        return pyhf.Workspace(counting, validate=False).model(
            measurement_name=measurement, validate=False, modifier_settings=settings, **options
        )
    except (
        Exception
    ) as error:  # of any kind: a lumi without its settings is a TypeError, a shared staterror an assertion
        raise InvalidWorkspace(
            f"pyhf cannot build the model of measurement {measurement!r}: {type(error).__name__} {error}; check the "
            "parameters of its lumi modifiers, and that no staterror or shapesys is shared by channels"
        ) from error
