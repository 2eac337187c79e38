"""What is left of rules where only bytes are seen, and of rules that ask nothing."""

from __future__ import annotations

from xds.access import Access, Named, closed_allow, closed_deny
from xds.api.conditions import Attribute, Condition
from xds.api.istio_authorization import Rule

GET = Condition(Attribute.METHOD, ("GET",))
PORT = Condition(Attribute.PORT, ("80",))
WEB = Condition(Attribute.PRINCIPAL, ("web",))
NOTHING = Condition(Attribute.PRINCIPAL)


def test_bytes_are_allowed_by_rules_without_requests_only() -> None:
    """One alternative of many that asks for a request is enough to lose the rule."""
    rules = (Named("a", Rule(operations=((GET,), (PORT,)))), Named("b", Rule(sources=((WEB,),))))

    assert Access(allow=rules).on_bytes().allow == rules[1:]


def test_bytes_are_denied_by_what_is_left() -> None:
    """Of an alternative that only asked for a request nothing is left, and it stands for any."""
    rules = (
        Named("a", Rule(operations=((GET, PORT),), when=(GET,))),
        Named("b", Rule(operations=((GET,), (PORT,)))),
    )

    assert Access(deny=rules).on_bytes().deny == (Named("a", Rule(operations=((PORT,),))), Named("b", Rule()))


def test_a_source_that_asks_nothing_closes() -> None:
    """Past the reader, as when admission is bypassed: it allows nobody and denies everybody."""
    empty, void = Rule(sources=((),)), Rule(sources=((WEB, NOTHING),), when=(NOTHING,))

    assert (closed_allow(empty), closed_allow(void)) == (None, None)
    assert (closed_deny(empty), closed_deny(void)) == (Rule(), Rule(sources=((WEB,),)))
    assert closed_allow(Rule(sources=((), (WEB,)))) == Rule(sources=((WEB,),))
