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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests of real processes a second try, within the bound that pyproject.toml sets for the whole run.

    docs/adr/0043 says why, and why no pure test has one. A debugger stops at the first failure.
    """
    if config.option.usepdb:
        return
    for item in items:
        if item.get_closest_marker("envoy") or item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.flaky(reruns=1))
