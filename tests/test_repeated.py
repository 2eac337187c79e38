"""Repeated headers before Envoy 1.38, which compares their lines joined with commas."""

from __future__ import annotations

import pytest
import re2

from xds.pb.envoy.config.rbac.v3 import rbac_pb2
from xds.resources.repeated import widen

_Rbac = rbac_pb2.RBAC


def rules(action: rbac_pb2.RBAC.Action, principal: rbac_pb2.Principal) -> rbac_pb2.RBAC:
    """The rules of one principal, as an older Envoy gets them."""
    policy = rbac_pb2.Policy(principals=[principal])
    found = _Rbac(action=action, policies={"AuthorizationPolicy/shop/p/0": policy})
    widen(found)
    return found


def header(**compared: str) -> rbac_pb2.Principal:
    """Who has a header."""
    found = rbac_pb2.Principal()
    found.header.name = "x-role"
    for name, text in compared.items():
        if name == "regex":
            found.header.string_match.safe_regex.regex = text
        else:
            setattr(found.header.string_match, name, text)
    return found


def principal_of(found: rbac_pb2.RBAC) -> rbac_pb2.Principal:
    """The only one."""
    (policy,) = found.policies.values()
    return policy.principals[0]


def is_match(regex: str, text: str) -> bool:
    """Whether Envoy's matcher takes the whole of a text."""
    return bool(re2.fullmatch(regex, text))  # pyright: ignore[reportUnknownMemberType]  # untyped


@pytest.mark.parametrize(
    ("compared", "matched", "others"),
    [
        (
            {"exact": "a.b"},
            ["a.b", "x,a.b", "a.b,x", "x,a.b,y", "x, a.b"],
            ["axb", "a.bc", "ca.b", "x,ca.b,y", ""],
        ),
        ({"prefix": "ad"}, ["admin", "x,admin,y", "ad"], ["x", "bad", "x,bad"]),
        ({"suffix": "min"}, ["admin", "x,admin,y"], ["x", "mint", "x,mint"]),
        ({"regex": "a|b"}, ["a", "x,b", "b,x"], ["ab", "x,c"]),
    ],
)
def test_what_denies_sees_each_line(compared: dict[str, str], matched: list[str], others: list[str]) -> None:
    """A line alone, the first, the last and one between."""
    found = principal_of(rules(_Rbac.DENY, header(**compared)))
    regex = found.header.string_match.safe_regex.regex

    assert [text for text in (*matched, *others) if is_match(regex, text)] == matched


def test_what_allows_asks_for_the_whole() -> None:
    """A list is no value that somebody allowed."""
    assert principal_of(rules(_Rbac.ALLOW, header(exact="admin"))) == header(exact="admin")


def test_what_must_not_be_there_is_found_in_each_line() -> None:
    """`notValues` of a rule that allows deny, and those of one that denies allow: at any depth."""
    one = rbac_pb2.Principal(not_id=header(exact="admin"))
    both = rbac_pb2.Principal(
        and_ids=rbac_pb2.Principal.Set(ids=[rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=[one]))])
    )
    allows = principal_of(rules(_Rbac.ALLOW, both)).and_ids.ids[0].or_ids.ids[0].not_id
    denies = principal_of(rules(_Rbac.DENY, one)).not_id

    assert allows.header.string_match.HasField("safe_regex")
    assert denies == header(exact="admin")


def test_presence_stays() -> None:
    """It is the same of one line and of many."""
    found = rbac_pb2.Principal()
    found.header.name = "x-role"
    found.header.present_match = True

    assert principal_of(rules(_Rbac.DENY, found)) == found
