"""Where an application's own metrics stay readable in plaintext: what the annotations say, and nothing more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.api.core import Probe
from xds.api.scraping import scraped
from xds.fields import Note, Reader

ON = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}


def read(annotations: dict[str, str]) -> tuple[tuple[Probe, ...], list[Note]]:
    """Return what is opened, and what is said about it."""
    notes: list[Note] = []
    return scraped(tuple(sorted(annotations.items())), Reader({}, "metadata", notes)), notes


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({}, "/metrics"),
        ({"prometheus.io/path": "/stats"}, "/stats"),
        ({"prometheus.io/path": "stats?all"}, "/stats"),
        ({"prometheus.io/scheme": "http"}, "/metrics"),
    ],
)
def test_one_exact_path_is_opened(more: dict[str, str], path: str) -> None:
    """As Prometheus' convention has it."""
    assert read(ON | more)[0] == (Probe(8080, path),)


@pytest.mark.parametrize(
    "more",
    [
        {"prometheus.io/scrape": "false"},
        {"prometheus.io/port": ""},
        {"prometheus.io/port": "15090"},
        {"prometheus.io/scheme": "https"},
        {"proa.dev/plaintext-metrics": "false"},
    ],
)
def test_nothing_is_opened_quietly(more: dict[str, str]) -> None:
    """Not asked for, not known, the sidecar's own, TLS of the application's, or refused by the Pod."""
    assert read(ON | more) == ((), [])


@pytest.mark.parametrize(
    "more",
    [
        {"prometheus.io/port": "0"},
        {"prometheus.io/port": "65536"},
        {"prometheus.io/port": "http"},
        {"prometheus.io/port": "8" * 400},
        {"prometheus.io/path": "/a b"},
        {"prometheus.io/path": "/\n"},
        {"prometheus.io/path": "/" + "a" * 2000},
    ],
)
def test_what_cannot_be_is_told(more: dict[str, str]) -> None:
    """A Pod that expects to be read and is not would show as a target that is down."""
    opened, notes = read(ON | more)

    assert opened == ()
    assert len(notes) == 1


@given(
    st.dictionaries(
        st.sampled_from([*ON, "prometheus.io/path", "prometheus.io/scheme"]), st.text(max_size=40)
    )
)
def test_any_text_opens_at_most_one_path(annotations: dict[str, str]) -> None:
    """Annotations hold any text; nothing but GET of a plain path comes of it."""
    for probe in read(ON | annotations)[0]:
        assert probe.path.startswith("/")
        assert probe.path.isprintable()
        assert 0 < probe.port < 65536
