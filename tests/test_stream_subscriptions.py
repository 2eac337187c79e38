"""Sessions: what a client asks for, and the answer; section titles are those of Envoy's xds_protocol document."""

import pytest

from tests.fakes.talk import Talk, carried
from xds.events import Stale
from xds.snapshot import ResourceType

CDS, EDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS


def test_empty_first_request_is_a_wildcard() -> None:
    """'How the client specifies what resources to return': never having named anything means `*`."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS)

    assert carried(talk.hear()) == [("a", "b")]


def test_legacy_wildcard_continues_with_the_first_name() -> None:
    """Naming `a` continues the subscription to `*`; dropping `*` then leaves only `a`."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.ask(CDS, "a")
    talk.settle()
    talk.ask(CDS, drop=["*"])
    talk.put(CDS, "a", "b", body=b"2")

    assert carried(talk.hear()) == [("a",)]


def test_legacy_wildcard_is_gone_after_the_first_name() -> None:
    """An empty subscription after a name was given subscribes to nothing."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS, "a")
    talk.settle()
    talk.ask(CDS, drop=["a"])
    talk.ask(CDS)

    assert talk.hear() == []


def test_endpoints_have_no_wildcard() -> None:
    """Only listeners and clusters have one: an empty EDS request asks for nothing."""
    talk = Talk()
    talk.put(EDS, "a")
    talk.ask(EDS)

    assert talk.hear() == []


def test_resubscribing_to_a_held_resource_is_answered() -> None:
    """'Subscribing to Resources': "the server *must* still provide those resources"."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    talk.ask(CDS, "a")

    assert carried(talk.hear()) == [("a",)]


def test_absent_name_is_removed_once() -> None:
    """'Knowing When a Requested Resource Does Not Exist': the name stands in removed_resources."""
    talk = Talk()
    talk.ask(CDS, "a")
    first = talk.settle()
    talk.drop(CDS, "a")

    assert [said.removed for said in first] == [("a",)]
    assert talk.hear() == []


def test_subscription_to_an_absent_name_is_remembered() -> None:
    """The document says: "if one of those resources springs into existence later, the server must send an update"."""
    talk = Talk()
    talk.ask(CDS, "a")
    talk.settle()
    talk.put(CDS, "a")

    assert carried(talk.hear()) == [("a",)]


def test_phantom_unsubscribe_is_ignored() -> None:
    """'Unsubscribing from Resources': superfluous names need no answer."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    talk.ask(CDS, drop=["b"])

    assert talk.hear() == []


@pytest.mark.parametrize(("existing", "names", "removed"), [(("a",), ("a",), ()), ((), (), ("a",))])
def test_unsubscribing_beside_a_wildcard_is_answered(
    existing: tuple[str, ...], names: tuple[str, ...], removed: tuple[str, ...]
) -> None:
    """The one exception: the wildcard may include the name, so the client must learn which it is."""
    talk = Talk()
    talk.put(CDS, *existing)
    talk.ask(CDS, "*", "a")
    talk.settle()
    talk.ask(CDS, drop=["a"])
    (said,) = talk.hear()

    assert (said.names, said.removed) == (names, removed)


def test_subscription_changes_with_a_stale_nonce_are_honoured() -> None:
    """'Incremental xDS': the nonce "should *not* be used to reject stale requests"."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    events = talk.ask(CDS, "b", nonce="no such nonce")
    talk.ack(said)

    assert Stale(CDS.url, "no such nonce") in events
    assert carried(talk.hear()) == [("b",)]


def test_unchanged_reconnect_carries_nothing() -> None:
    """initial_resource_versions that are current need no resource."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    versions = {name: resource.version for name in "ab" if (resource := talk.snapshot.get("mesh", CDS, name))}
    talk.ask(CDS, "*", versions=versions)

    assert talk.hear() == []


def test_claimed_endpoints_follow_a_cluster_that_was_sent_before_them() -> None:
    """A cluster that changed while its proxy was away warms until its endpoints come, although they are current."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    clusters, assignments = (
        {name: found.version for name in "ab" if (found := talk.snapshot.get("mesh", kind, name))}
        for kind in (CDS, EDS)
    )
    talk.ask(CDS, "*", versions={"a": "old", "b": clusters["b"]})
    before = talk.hear()
    talk.ask(EDS, "a", "b", versions=assignments)

    assert carried(before) == [("a",)]
    assert carried(talk.hear()) == [("a",)]


def test_claimed_resource_that_is_gone_is_removed() -> None:
    """A reconnecting client that holds what no longer exists is told so."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "*", versions={"a": "old", "b": "old"})
    said = talk.settle()

    assert [(one.names, one.removed) for one in said] == [(("a",), ()), ((), ("b",))]
