"""Sessions: one rule of the protocol per test; section titles are those of Envoy's xds_protocol document."""

import pytest

from tests.fakes.talk import Said, Talk
from xds.events import Close, Denied, Limits, Stale, Status, Unknown
from xds.ledger import Response, State
from xds.snapshot import ResourceType
from xds.subscription import Variant

CDS, EDS, LDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.LISTENER
RDS, SDS = ResourceType.ROUTES, ResourceType.SECRET
SOTW = Variant.SOTW


def _carried(said: list[Said]) -> list[tuple[str, ...]]:
    return [one.names for one in said]


def _closes(events: tuple[object, ...]) -> Close:
    (close,) = [event for event in events if isinstance(event, Close)]
    return close


# ── delta: subscriptions ──────────────────────────────────────────────────────────────────────────────────────


def test_empty_first_request_is_a_wildcard() -> None:
    """'How the client specifies what resources to return': never having named anything means `*`."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS)

    assert _carried(talk.hear()) == [("a", "b")]


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

    assert _carried(talk.hear()) == [("a",)]


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

    assert _carried(talk.hear()) == [("a",)]


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

    assert _carried(talk.hear()) == [("a",)]


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
    assert _carried(talk.hear()) == [("b",)]


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

    assert _carried(before) == [("a",)]
    assert _carried(talk.hear()) == [("a",)]


def test_claimed_resource_that_is_gone_is_removed() -> None:
    """A reconnecting client that holds what no longer exists is told so."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "*", versions={"a": "old", "b": "old"})
    said = talk.settle()

    assert [(one.names, one.removed) for one in said] == [(("a",), ()), ((), ("b",))]


# ── delta: responses ──────────────────────────────────────────────────────────────────────────────────────────


def test_one_response_in_flight_and_the_latest_wins() -> None:
    """While a response is not answered, changes coalesce to their last version."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    for body in (b"2", b"3", b"4"):
        talk.put(CDS, "a", body=body)
    before = talk.hear()
    talk.ack(said)
    (after,) = talk.hear()

    assert before == []
    assert after.resources == (("a", b"a=4"),)


def test_unchanged_content_is_not_sent_again() -> None:
    """'When to send an update': a change and its undoing cost nothing."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    talk.put(CDS, "a", body=b"2")
    talk.put(CDS, "a")

    assert talk.hear() == []


def test_removal_during_the_flight_is_not_lost() -> None:
    """A resource that is dropped before the client has answered for it is removed afterwards."""
    talk = Talk()
    talk.ask(CDS)
    talk.put(CDS, "a")
    (said,) = talk.hear()
    talk.drop(CDS, "a")
    talk.hear()
    talk.ack(said)

    assert [one.removed for one in talk.hear()] == [("a",)]


def test_forgotten_resource_in_a_rejected_response_is_sent_again() -> None:
    """Unchanged resources of a rejected response are tried alone as well: the client had asked for them."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS, "a", "b")
    talk.settle()
    talk.put(CDS, "a", body=b"bad")
    talk.ask(CDS, "b")
    (said,) = talk.hear()
    talk.nack(said)

    assert sorted(_carried(talk.settle())) == [("a",), ("b",)]


def test_large_state_is_cut_into_responses() -> None:
    """A response stays below the size limit; the rest follows after the ACK."""
    talk = Talk(limits=Limits(response_bytes=8))
    talk.put(CDS, "a", "b", "c", body=b"12345")
    talk.ask(CDS)

    assert _carried(talk.settle()) == [("a", "b"), ("c",)]


def test_view_change_moves_what_differs() -> None:
    """Another view of the same names sends only the names that mean something else."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.snapshot.put("ns/other", CDS, "a", b"a=other")
    talk.registry.look(talk.session, ("ns/other", "mesh"), 1.0)

    assert [said.resources for said in talk.settle()] == [(("a", b"a=other"),)]


# ── make before break ─────────────────────────────────────────────────────────────────────────────────────────


def _connected(talk: Talk) -> Talk:
    """Subscribe to everything and accept it."""
    for kind in (CDS, LDS):
        talk.ask(kind)
    talk.ask(EDS, "a", "b")
    talk.ask(RDS, "outbound")
    talk.settle()
    return talk


def test_route_waits_for_its_cluster() -> None:
    """'Eventual consistency considerations': a route is withheld until the proxy has ACKed the cluster."""
    talk = _connected(Talk())
    talk.put(RDS, "outbound")
    talk.put(CDS, "a")
    cluster, endpoints = talk.hear()
    talk.ack(endpoints)
    waiting = talk.hear()
    talk.ack(cluster)

    assert (cluster.type_url, endpoints.type_url) == (CDS.url, EDS.url)
    assert waiting == []
    assert [said.type_url for said in talk.hear()] == [RDS.url]


def test_removals_come_last_and_referrers_first() -> None:
    """New paths up, then listener, route, cluster and endpoints down, each after the ACK of what is above."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    talk.put(LDS, "outbound")
    talk.put(RDS, "outbound")
    _connected(talk)
    talk.drop(EDS, "a")
    talk.drop(CDS, "a")
    talk.drop(RDS, "outbound")
    talk.drop(LDS, "outbound")
    talk.put(CDS, "c")
    said = [(one.type_url, one.names, one.removed) for one in talk.settle()]

    assert said == [
        (CDS.url, ("c",), ()),
        (LDS.url, (), ("outbound",)),
        (RDS.url, (), ("outbound",)),
        (CDS.url, (), ("a",)),
        (EDS.url, (), ("a",)),
    ]


def test_isolated_endpoint_change_goes_out_at_once() -> None:
    """EDS does not wait for other clusters, nor for the ACK of its own, which Envoy gives once it is warm."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    _connected(talk)
    talk.put(CDS, "c")
    (cluster,) = talk.hear()
    talk.put(EDS, "a", body=b"2")

    assert cluster.names == ("c",)
    assert [(said.type_url, said.names) for said in talk.hear()] == [(EDS.url, ("a",))]


def test_endpoints_wait_until_their_cluster_is_written() -> None:
    """EDS of a changed cluster comes after that cluster on the wire."""
    talk = Talk()
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    _connected(talk)
    talk.put(CDS, "c")
    (before,) = talk.hear()
    talk.put(EDS, "b", body=b"2")
    talk.put(CDS, "b", body=b"2")
    waiting = talk.hear()
    talk.ack(before)

    assert waiting == []
    assert [(said.type_url, said.names) for said in talk.hear()] == [(CDS.url, ("b",)), (EDS.url, ("b",))]


@pytest.mark.parametrize("variant", Variant)
def test_endpoints_are_sent_again_after_their_cluster(variant: Variant) -> None:
    """'Resource warming': unchanged endpoints follow each change of their cluster, or Envoy waits 15 s."""
    talk = Talk(variant)
    talk.put(CDS, "a", "b")
    talk.put(EDS, "a", "b")
    talk.ask(CDS)
    for said in talk.hear():
        talk.ack(said)
    talk.ask(EDS, "a", "b")
    for said in talk.hear():
        talk.ack(said, *(("a", "b") if variant is SOTW else ()))
    talk.put(CDS, "b", body=b"2")
    cluster, endpoints = talk.hear()

    assert cluster.type_url == CDS.url
    assert (endpoints.type_url, endpoints.names) == (EDS.url, ("b",))


def test_secret_is_not_delayed_by_a_busy_cluster() -> None:
    """A renewed certificate goes out while CDS waits for its ACK."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.put(SDS, "default")
    talk.ask(CDS)
    talk.ask(SDS, "default")

    assert [said.type_url for said in talk.hear()] == [CDS.url, SDS.url]


# ── NACK ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nack_is_detected_by_error_detail() -> None:
    """'ACK/NACK': the error's presence decides, and Envoy's words stay on the record."""
    talk = Talk()
    talk.put(CDS, "a", cause=("DestinationRule shop/a",))
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    (response,) = talk.nack(said, error="no such filter")
    (row,) = talk.session.rows()

    assert isinstance(response, Response)
    assert (response.state, response.error) == (State.NACKED, "no such filter")
    assert (row.state, row.error, row.cause) == (State.NACKED, "no such filter", ("DestinationRule shop/a",))


def test_rejected_payload_is_not_sent_again() -> None:
    """The same version is quarantined, also when it is put again."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    talk.session.mark(CDS, "a")

    assert talk.hear() == []


@pytest.mark.parametrize("variant", list(Variant))
def test_rejection_ends_with_its_resource(variant: Variant) -> None:
    """What was rejected and is then deleted leaves nothing behind: there is nothing left to mend."""
    talk = Talk(variant)
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    before = [row.state for row in talk.session.rows()]
    talk.drop(CDS, "a")
    talk.settle()

    assert before == [State.NACKED]
    assert list(talk.session.rows()) == []


def test_new_version_of_a_rejected_resource_is_tried() -> None:
    """The fix goes out as soon as it is there, and clears the record."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    talk.put(CDS, "a", body=b"2")
    tried = talk.settle()

    assert _carried(tried) == [("a",)]
    assert [row.state for row in talk.session.rows()] == [State.ACKED]


def test_culprit_is_found_one_by_one() -> None:
    """A rejected response of several resources is sent once more, each alone; only the culprit stays behind."""
    talk = Talk()
    talk.put(CDS, "a", "b", "c")
    talk.ask(CDS)
    (together,) = talk.hear()
    talk.nack(together)
    alone: list[tuple[str, ...]] = []
    while turn := talk.hear():
        (said,) = turn
        alone.append(said.names)
        (talk.nack if said.names == ("b",) else talk.ack)(said)

    assert alone == [("a",), ("b",), ("c",)]
    assert {row.name: row.state for row in talk.session.rows()} == {
        "a": State.ACKED,
        "b": State.NACKED,
        "c": State.ACKED,
    }


def test_search_for_a_culprit_takes_turns_with_changes() -> None:
    """A NACK delays no other resource of its type by more than one response."""
    talk = Talk()
    talk.put(CDS, "a", "b", "c")
    talk.ask(CDS)
    (together,) = talk.hear()
    talk.nack(together)
    talk.put(CDS, "d")

    assert _carried(talk.settle()) == [("a",), ("d",), ("b",), ("c",)]


def test_nack_of_one_type_does_not_stop_another() -> None:
    """A quarantined cluster does not hold back endpoints or routes."""
    talk = _connected(Talk())
    talk.put(CDS, "c")
    (said,) = talk.hear()
    talk.nack(said)
    talk.put(RDS, "outbound")

    assert [one.type_url for one in talk.hear()] == [RDS.url]


def test_resubscribing_to_a_quarantined_resource_gives_the_last_accepted() -> None:
    """The client must be answered, and not with what it rejected."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    talk.put(CDS, "a", body=b"2")
    (said,) = talk.hear()
    talk.nack(said)
    talk.ask(CDS, "a")
    again = talk.settle()
    talk.session.mark(CDS, "a")

    assert [one.resources for one in again] == [(("a", b"a=1"),)]
    assert talk.hear() == []


def test_rejected_removal_is_not_repeated() -> None:
    """A client that refuses to let go is not asked for ever."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS)
    talk.settle()
    talk.drop(CDS, "a")
    (said,) = talk.hear()
    talk.nack(said)
    talk.session.mark(CDS, "a")

    assert talk.hear() == []


# ── state of the world ────────────────────────────────────────────────────────────────────────────────────────


def test_sotw_clusters_are_complete() -> None:
    """'Grouping Resources into Responses': one change sends all clusters."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "a", body=b"2")

    assert [said.resources for said in talk.hear()] == [(("a", b"a=2"), ("b", b"b=1"))]


def test_sotw_endpoints_are_not_complete() -> None:
    """Other types are grouped as in the incremental variant."""
    talk = Talk(SOTW)
    talk.put(EDS, "a", "b")
    talk.ask(EDS, "a", "b")
    talk.settle("a", "b")
    talk.put(EDS, "a", body=b"2")

    assert _carried(talk.hear()) == [("a",)]


def test_sotw_removal_is_a_response_without_the_resource() -> None:
    """'Deleting Resources': absence deletes."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.drop(CDS, "a")

    assert _carried(talk.hear()) == [("b",)]


def test_sotw_removed_cluster_stays_until_the_route_is_accepted() -> None:
    """Make before break: the old cluster is part of the complete state until its own step."""
    talk = Talk(SOTW)
    talk.put(CDS, "old")
    talk.ask(CDS)
    (said,) = talk.hear()
    talk.ack(said)
    talk.put(RDS, "outbound")
    talk.ask(RDS, "outbound")
    (said,) = talk.hear()
    talk.ack(said, "outbound")
    talk.put(CDS, "new")
    talk.put(RDS, "outbound", body=b"2")
    talk.drop(CDS, "old")
    order: list[tuple[str, tuple[str, ...]]] = []
    while turn := talk.hear():
        for said in turn:
            order.append((said.type_url, said.names))
            talk.ack(said, *(("outbound",) if said.type_url == RDS.url else ()))

    assert order == [(CDS.url, ("old", "new")), (RDS.url, ("outbound",)), (CDS.url, ("new",))]


def test_sotw_first_response_is_sent_even_if_empty() -> None:
    """An empty state is a state: Envoy's initialisation waits for it."""
    talk = Talk(SOTW)
    talk.ask(LDS)

    assert _carried(talk.hear()) == [()]


def test_sotw_stale_nonce_is_ignored() -> None:
    """'Resource updates': a request with a stale nonce gets no response and changes nothing."""
    talk = Talk(SOTW)
    talk.put(EDS, "a", "b")
    talk.ask(EDS, "a")
    (said,) = talk.hear()
    events = talk.ask(EDS, "a", "b", nonce="no such nonce")
    talk.ack(said, "a")

    assert events == (Stale(EDS.url, "no such nonce"),)
    assert talk.hear() == []


def test_sotw_names_removed_and_added_are_sent_again() -> None:
    """'How the client specifies …': "the server must resend any newly requested resources"."""
    talk = Talk(SOTW)
    talk.put(EDS, "a")
    talk.ask(EDS, "a")
    (said,) = talk.hear()
    talk.ack(said, "a")
    talk.ask(EDS, nonce=said.nonce)
    talk.ask(EDS, "a", nonce=said.nonce)

    assert _carried(talk.hear()) == [("a",)]


def test_sotw_empty_list_after_a_name_unsubscribes() -> None:
    """The same request that opened the wildcard closes everything once a name was given."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.ask(CDS, "a", nonce="1")
    talk.ask(CDS, nonce="1")
    talk.put(CDS, "a", "b", body=b"2")

    assert talk.hear() == []


def test_sotw_unchanged_wildcard_reconnect_carries_nothing() -> None:
    """The version_info of the complete state is equal on every stream and replica."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    (said,) = talk.hear()
    talk.ack(said)
    talk.connect("2")
    talk.ask(CDS, version=said.version)

    assert talk.hear() == []


def _reconnected(*names: str) -> tuple[Talk, Said]:
    """Return a SotW client that holds an older state of clusters, and the first response that it hears."""
    talk = Talk(SOTW)
    talk.put(CDS, *names)
    talk.ask(CDS, version="of an earlier stream")
    (said,) = talk.hear()
    return talk, said


def test_sotw_reconnect_is_never_told_a_part() -> None:
    """When the first state is rejected, a smaller one would delete what the client holds: it keeps that."""
    talk, said = _reconnected("a", "b")
    talk.nack(said)

    assert talk.hear() == []
    assert [row.state for row in talk.session.rows()] == [State.NACKED, State.NACKED]


@pytest.mark.parametrize("changed", ["a", "c"])
def test_sotw_reconnect_is_told_the_whole_again(changed: str) -> None:
    """A change after the rejection brings the complete state, not the changed resource alone."""
    talk, said = _reconnected("a", "b")
    talk.nack(said)
    talk.put(CDS, changed, body=b"2")
    (again,) = talk.hear()
    talk.ack(again)
    talk.put(CDS, "b", body=b"3")

    assert set(again.names) == {"a", "b", changed}
    assert [set(one.names) for one in talk.hear()] == [{"a", "b", changed}]


@pytest.mark.parametrize("left", [("b",), ()])
def test_sotw_reconnect_loses_a_rejected_resource_with_its_object(left: tuple[str, ...]) -> None:
    """When the culprit is deleted, the complete state without it follows; also if nothing is left."""
    talk, said = _reconnected("a", *left)
    talk.nack(said)
    talk.drop(CDS, "a")

    assert _carried(talk.hear()) == [left]


def test_sotw_reconnect_gets_the_rest_when_it_gives_the_culprit_up() -> None:
    """What it rejected was one state, and what it asks for now is another."""
    talk, said = _reconnected("a", "b")
    talk.nack(said, "a")

    assert _carried(talk.hear()) == [("a",)]


def test_sotw_reconnect_is_never_told_an_empty_state_for_asking_anew() -> None:
    """By name it asks for what it has rejected as a whole: there is no news, and nothing would delete all it holds."""
    talk, said = _reconnected("a", "b")
    talk.nack(said, "a", "b")

    assert talk.hear() == []


def test_sotw_first_request_with_a_foreign_nonce_is_answered() -> None:
    """A nonce belongs to its stream: that of an earlier one does not make the first request stale."""
    talk = Talk(SOTW)
    talk.put(CDS, "a")
    talk.ask(CDS, nonce="of an earlier stream")

    assert _carried(talk.hear()) == [("a",)]


def test_sotw_culprit_is_tried_beside_the_accepted_set() -> None:
    """Each candidate alone is added to what was accepted, so that nothing is deleted on the way."""
    talk = Talk(SOTW)
    talk.put(CDS, "a")
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "b", "c")
    (together,) = talk.hear()
    talk.nack(together)
    states: list[tuple[str, ...]] = []
    while turn := talk.hear():
        (said,) = turn
        states.append(said.names)
        (talk.nack if "b" in said.names else talk.ack)(said)

    assert states == [("a", "b"), ("a", "c")]


def test_sotw_quarantined_cluster_keeps_its_accepted_version() -> None:
    """A complete response carries the last accepted version of what was rejected."""
    talk = Talk(SOTW)
    talk.put(CDS, "a", "b")
    talk.ask(CDS)
    talk.settle()
    talk.put(CDS, "a", body=b"bad")
    (said,) = talk.hear()
    talk.nack(said)
    talk.put(CDS, "b", body=b"2")

    assert [one.resources for one in talk.hear()] == [(("a", b"a=1"), ("b", b"b=2"))]


# ── bounds and refusals ───────────────────────────────────────────────────────────────────────────────────────


def test_unknown_type_is_answered_with_absence() -> None:
    """A type that the mesh does not serve is no error: its names do not exist."""
    talk = Talk()
    events = talk.ask("type.googleapis.com/example.Thing", "x")

    assert events == (Unknown("type.googleapis.com/example.Thing"),)
    assert [said.removed for said in talk.settle()] == [("x",)]
    assert talk.hear() == []


def test_sotw_unknown_type_is_answered_once_with_nothing() -> None:
    """An empty response ends the client's wait; its NACK does not start a loop."""
    talk = Talk(SOTW)
    talk.ask("type.googleapis.com/example.Thing", "x")
    (said,) = talk.hear()
    talk.nack(said, "x")

    assert said.names == ()
    assert talk.hear() == []


@pytest.mark.parametrize("request_bytes", [b"\xff\xff\xff", b"\x0a\xff"])
def test_malformed_request_closes_the_stream(request_bytes: bytes) -> None:
    """Bytes that are no request end in INVALID_ARGUMENT."""
    close = _closes(Talk().send(request_bytes))

    assert close.status is Status.INVALID_ARGUMENT


def test_type_is_required_on_an_aggregated_stream() -> None:
    """Without a type URL nothing can be meant."""
    close = _closes(Talk().ask(""))

    assert close.status is Status.INVALID_ARGUMENT


def test_type_may_be_omitted_on_a_single_type_stream() -> None:
    """The service says which type it is."""
    talk = Talk(only=EDS)
    talk.put(EDS, "a")
    talk.ask("", "a")

    assert _carried(talk.hear()) == [("a",)]


def test_other_type_on_a_single_type_stream_closes_it() -> None:
    """An EDS stream serves endpoints only."""
    close = _closes(Talk(only=EDS).ask(CDS))

    assert close.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("variant", Variant)
def test_too_many_names_close_the_stream(variant: Variant) -> None:
    """A hostile client costs bounded memory, and the text tells nothing of the mesh."""
    talk = Talk(variant, limits=Limits(names_per_request=2, names_per_stream=3))
    close = _closes(talk.ask(EDS, "a", "b", "c"))

    assert close == Close(Status.PERMISSION_DENIED, "too many resources are subscribed")


def test_names_are_counted_over_the_stream() -> None:
    """Many small requests are bounded like one large one."""
    talk = Talk(limits=Limits(names_per_request=2, names_per_stream=3))
    talk.ask(EDS, "a", "b")
    close = _closes(talk.ask(EDS, "c", "d"))

    assert close.status is Status.PERMISSION_DENIED


def test_too_many_types_close_the_stream() -> None:
    """Type URLs that the mesh does not know are bounded as well."""
    talk = Talk(limits=Limits(types_per_stream=1))
    talk.ask("a.example/A")
    close = _closes(talk.ask("a.example/B"))

    assert close.status is Status.PERMISSION_DENIED


def test_oversized_request_closes_the_stream() -> None:
    """A request is not even parsed above the limit."""
    close = _closes(Talk(limits=Limits(request_bytes=10)).ask(CDS, "a"))

    assert close.status is Status.RESOURCE_EXHAUSTED


def test_denied_name_is_absent() -> None:
    """A name that the identity may not have looks like one that does not exist, and stands on the ledger."""
    talk = Talk(rule_of=lambda _kind: lambda name: name != "a")
    talk.put(CDS, "a")
    events = talk.ask(CDS, "a")
    (said,) = talk.settle()

    assert Denied(CDS, "a") in events
    assert (said.names, said.removed) == ((), ("a",))
    assert [row.state for row in talk.session.rows()] == [State.DENIED]


def test_denied_name_is_not_part_of_a_wildcard() -> None:
    """Authorization comes before every lookup, not only for explicit names."""
    talk = Talk(rule_of=lambda _kind: lambda name: name != "a")
    talk.put(CDS, "a", "b")
    talk.ask(CDS)

    assert _carried(talk.hear()) == [("b",)]


def test_secret_of_another_closes_the_stream() -> None:
    """Asking for a key that belongs to somebody else is no configuration error (CVE-2021-34824)."""
    talk = Talk(rule_of=lambda _kind: lambda name: name == "default")
    close = _closes(talk.ask(SDS, "other"))

    assert close == Close(Status.PERMISSION_DENIED, "not authorized")


def test_secret_issued_with_the_claimed_version_is_not_sent() -> None:
    """The key is made when it is asked for; if its version is the claimed one, nothing moves."""
    talk = Talk()
    talk.ask(SDS, "default", versions={"default": "v1"})
    claimed = talk.session.claimed(SDS, "default")
    talk.snapshot.put("stream/1", SDS, "default", b"key", version="v1")

    assert claimed == "v1"
    assert talk.hear() == []
    assert talk.session.accepted(SDS, "default") == "v1"


def test_node_is_read_from_the_first_request_only() -> None:
    """'Basic Protocol Overview': a later request may carry none."""
    talk = Talk()
    talk.ask(CDS)
    talk.ask(EDS, "a")

    assert talk.session.proxy == "web.shop"
