"""Answers that arrive in pieces: nothing before the whole, and never an exception but ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.kube.forward import Answer, parse
from xds.sources.transport import ApiError

BODY = b'{"proxies":[]}'
WHOLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


@given(cut=st.integers(0, len(WHOLE)))
def test_an_answer_is_given_once_it_is_whole(cut: int) -> None:
    """Every shorter piece of it is no answer."""
    assert parse(WHOLE[:cut]) == (Answer(503, BODY) if cut == len(WHOLE) else None)


@given(received=st.binary(max_size=200))
def test_what_is_no_http_is_refused_in_our_own_words(received: bytes) -> None:
    """Whatever listens on the port."""
    with pytest.raises(ApiError):
        parse(b"SSH-2.0" + received + b"\r\n\r\n")
