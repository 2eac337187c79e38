"""A second reader of what is emitted: classes that another compiler made from the same API."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Its validators use a form that pydantic deprecates; that is not ours to change.
    warnings.filterwarnings("ignore", "Using `@model_validator`", DeprecationWarning)
    from envoy_data_plane.envoy.config.route import v3 as route

__all__ = ["route"]
