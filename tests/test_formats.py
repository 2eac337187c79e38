"""Words of logs and spans: operators that Envoy has, used as it wants them."""

from __future__ import annotations

import pytest

from xds.fields import ConfigError
from xds.formats import check_format


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain 100%%",
        "%START_TIME% %START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        '"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESP(A):10% %PATH(NQ:PATH)%',
        "%DYNAMIC_METADATA(envoy.lua:a:b):5% %UPSTREAM_METADATA(proa:workload)% %GRPC_STATUS(NUMBER)%",
    ],
)
def test_a_format_is_taken(text: str) -> None:
    """As it is; its line break goes, because the sidecar ends the line."""
    assert check_format(f"{text}\n", "x") == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("100%", "has a % that begins no operator"),
        ("%PATHS%", "%PATHS% is no operator that Envoy has; did you mean %PATH%?"),
        ("%REQ%", "%REQ% needs an argument in brackets"),
        ("%REQ()%", '%REQ("")% has an argument that Envoy does not take'),
        ("%PATH(X)%", '%PATH("X")% has an argument'),
        ("%PROTOCOL(x)%", '%PROTOCOL("x")% has an argument'),
        ("a\nb", "must be one line without control characters"),
        ("a\x1b[2J", "must be one line"),
        ("a" * 20_000, "must be at most 16384 characters"),
    ],
)
def test_a_format_is_refused(text: str, reason: str) -> None:
    """Before Envoy refuses the listener."""
    with pytest.raises(ConfigError) as caught:
        check_format(text, "x")

    assert str(caught.value).startswith(f"x: {reason}")
