"""What Istio's page on normalisation, with RFC 3986, says a request's path is: without Envoy and without ``xds``.

It owns the path and the host that policies compare and the application is sent; it must never import what it judges.

Two things that neither page says were seen of Envoy, and are safe: a dot segment with parameters (``/..;v=1/``, which
Java servers take for ``/../``) is a dot segment, and what RFC 3986 §3.3 does not allow in a path is escaped.
"""

from __future__ import annotations

import re

_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def normalise(target: str, normalization: str = "BASE") -> str | None:
    """The path that policies and the application see, without its query; None if the request is refused."""
    path = target.partition("?")[0]
    if "#" in target or not target.startswith("/"):
        return None
    if normalization == "NONE":
        return path
    if normalization == "DECODE_AND_MERGE_SLASHES":
        path = re.sub("%(2f|5c)", "/", path, flags=re.IGNORECASE)
    if "%00" in path:
        return None
    path = re.sub(r"(?<=[/\\])(\.{1,2});[^/\\]*", r"\1", path)
    path = re.sub("%([0-9a-fA-F]{2})", _decoded, path).replace("\\", "/")
    path = re.sub('["<>^`{|}]', lambda found: f"%{ord(found[0]):02X}", path)
    *inner, last = path.split("/")[1:]
    kept: list[str] = []
    for segment in (*inner, *([last, ""] if last in {".", ".."} else [last])):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    path = "/" + "/".join(kept)
    return path if normalization == "BASE" else re.sub("/+", "/", path)


def undotted(host: str) -> str:
    """A host, with any port, without the one dot that says that its name is complete."""
    name, colon, port = host.rpartition(":")
    return f"{name[:-1]}{colon}{port}" if name.endswith(".") else host.removesuffix(".")


def _decoded(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0]
