"""Options of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Time says how busy the machine is, not whether a property holds.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--golden-update``: rewrite the golden files from the code; a person then reads the diff."""
    parser.addoption("--golden-update", action="store_true", help="rewrite tests/golden from the code")
