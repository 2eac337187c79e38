"""How long a stream may last, and what its end says.

Owns the facts about stream_life_s; it must never wait for half an hour.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds import settings
from xds.gate import ServerOptions
from xds.identity import Identity, Proof

NOW = 1_800_000_000.0
LIFE = ServerOptions(stream_life_s=1800.0)


def caller(valid_until: float | None) -> Identity:
    """A verified caller whose token is good until then."""
    return Identity("web-1", "shop", "web", "web", "cluster.local", Proof.TOKEN, valid_until=valid_until)


def test_without_a_setting_streams_live_for_ever() -> None:
    """A directory's join tokens are not asked again."""
    assert ServerOptions().life_s(caller(NOW + 5), NOW, 0.5) is None


@pytest.mark.parametrize(("draw", "life_s"), [(0.0, 1620.0), (0.5, 1800.0), (1.0, 1980.0)])
def test_lives_differ_by_a_tenth(draw: float, life_s: float) -> None:
    """Streams that a restart lined up do not come back at one moment."""
    assert LIFE.life_s(caller(None), NOW, draw) == pytest.approx(life_s)


def test_a_stream_ends_before_its_token_does() -> None:
    """A proof of twelve minutes is not worth a stream of thirty."""
    assert LIFE.life_s(caller(NOW + 720), NOW, 0.5) == 720.0


def test_a_token_in_its_last_seconds_gives_a_short_life() -> None:
    """The proxy comes back with the next token instead of at once, again and again."""
    assert LIFE.life_s(caller(NOW + 1), NOW, 0.5) == settings.STREAM_LIFE_MIN_S


@given(st.floats(0, 1), st.one_of(st.none(), st.floats(NOW - 10, NOW + 10_000)))
def test_a_life_is_bounded(draw: float, until: float | None) -> None:
    """No draw and no token makes a life that is shorter than the least or longer than a tenth above the setting."""
    life_s = LIFE.life_s(caller(until), NOW, draw)

    assert life_s is not None
    assert settings.STREAM_LIFE_MIN_S <= life_s <= 1980.0001
