"""The ledger: what was sent to whom, and when a change was live."""

from tests.fakes.talk import Talk
from xds.ledger import Ledger, State
from xds.snapshot import ResourceType

CDS, EDS = ResourceType.CLUSTER, ResourceType.ENDPOINTS


def _two(ledger: Ledger) -> tuple[Talk, Talk]:
    """Return two streams of one snapshot, subscribed to cluster `a` and quiet."""
    first = Talk(ledger=ledger)
    second = Talk(ledger=ledger, snapshot=first.snapshot, registry=first.registry)
    second.connect("2")
    for talk in (first, second):
        talk.ask(CDS, "a")
        talk.settle()
    return first, second


def test_push_is_live_when_the_last_proxy_has_accepted() -> None:
    """`live_at` is the time of the last ACK, and None before."""
    first, second = _two(Ledger())
    push = first.put(CDS, "a")
    for talk, now in ((first, 1.0), (second, 2.0)):
        talk.now = now
        (said,) = talk.hear()
        before = push.live_at
        talk.ack(said)

    assert before is None
    assert push.live_at == 2.0
    assert [answer.at for answer in push.answers] == [1.0, 2.0]


def test_push_ends_with_a_nack_and_its_words() -> None:
    """A NACK settles the push; it says who refused and why."""
    first, second = _two(Ledger())
    push = first.put(CDS, "a")
    (said,) = first.hear()
    first.ack(said)
    (said,) = second.hear()
    second.nack(said, error="no such filter")

    assert push.waiting == 0
    assert [(nack.proxy, nack.error) for nack in push.nacks] == [("web.shop", "no such filter")]


def test_push_waits_for_the_culprit_to_be_found() -> None:
    """A rejected response of several resources is settled by the last of its parts."""
    talk = Talk()
    talk.ask(CDS)
    talk.settle()
    push = talk.put(CDS, "a", "b")
    (said,) = talk.hear()
    talk.nack(said)
    after_nack = push.waiting
    talk.settle()

    assert after_nack == 1
    assert push.waiting == 0
    assert push.live_at is not None


def test_push_of_a_cluster_waits_for_its_endpoints() -> None:
    """A changed cluster is live when its endpoints have been sent again."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.put(EDS, "a")
    talk.ask(CDS)
    talk.ask(EDS, "a")
    talk.settle()
    push = talk.put(CDS, "a", body=b"2")
    cluster, endpoints = talk.hear()
    talk.ack(cluster)
    between = push.live_at
    talk.ack(endpoints)

    assert between is None
    assert push.live_at is not None


def test_closed_stream_is_not_waited_for() -> None:
    """A push must not wait for a proxy that is gone."""
    first, second = _two(Ledger())
    push = first.put(CDS, "a")
    (said,) = first.hear()
    first.ack(said)
    second.session.close()

    assert push.live_at is not None


def test_unconcerned_stream_is_not_waited_for() -> None:
    """A change and its undoing leave nobody to wait for."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    talk.settle()
    push = talk.put(CDS, "a", body=b"2")
    undone = talk.put(CDS, "a")
    talk.hear()

    assert (push.waiting, undone.waiting) == (0, 0)
    assert push.live_at is None


def test_coalesced_pushes_share_one_response() -> None:
    """A stream that is behind settles everything that its next response covers."""
    talk = Talk()
    talk.put(CDS, "a")
    talk.ask(CDS, "a")
    (said,) = talk.hear()
    pushes = [talk.put(CDS, "a", body=body) for body in (b"2", b"3")]
    talk.ack(said)
    (latest,) = talk.hear()
    talk.ack(latest)

    assert [push.live_at for push in pushes] == [0.0, 0.0]
    assert latest.resources == (("a", b"a=3"),)


def test_push_that_can_be_read_is_not_live_before_a_slow_proxy_has_it() -> None:
    """However many pushes a proxy is behind, none of those that the ledger keeps is taken for accepted."""
    slow, fast = _two(ledger := Ledger(pushes_kept=100))
    slow.put(CDS, "a", body=b"first")
    slow.hear()  # and it answers nothing from here on
    for turn in range(100):
        slow.put(CDS, "a", body=str(turn).encode())
        fast.settle()

    assert {push.live_at for push in ledger.pushes()} == {None}


def test_pushes_are_bounded_and_newest_first() -> None:
    """Old pushes are forgotten."""
    ledger = Ledger(pushes_kept=2)
    for at in (1.0, 2.0, 3.0):
        ledger.begin(at, ((CDS, "a"),), ("Service shop/a",))

    assert [(push.id, push.at) for push in ledger.pushes()] == [(3, 3.0), (2, 2.0)]


def test_config_says_what_a_proxy_has_and_why() -> None:
    """One row per resource: version, nonce, times, bytes, state and cause."""
    talk = Talk(now=5.0)
    talk.put(CDS, "a", cause=("Service shop/a",))
    talk.ask(CDS, "a", "gone")
    talk.settle()
    a, gone = talk.ledger.config("web.shop")

    assert (a.name, a.state, a.nonce, a.sent_at, a.answered_at) == ("a", State.ACKED, "1", 5.0, 5.0)
    assert (a.size_bytes, a.cause) == (3, ("Service shop/a",))
    assert (gone.name, gone.state) == ("gone", State.ABSENT)


def test_claimed_resources_are_held_without_being_sent() -> None:
    """What a proxy brought from its last stream is accepted and has no nonce."""
    talk = Talk()
    talk.put(CDS, "a")
    resource = talk.snapshot.get("mesh", CDS, "a")
    assert resource is not None
    talk.ask(CDS, "a", versions={"a": resource.version})
    (row,) = talk.ledger.config("web.shop")

    assert (row.state, row.version, row.nonce) == (State.HELD, resource.version, None)


def test_proxies_are_summed_up_over_their_streams() -> None:
    """A proxy with two streams is one proxy; a detached one is gone."""
    ledger = Ledger()
    first, second = _two(ledger)
    first.put(CDS, "a")
    (said,) = first.hear()
    first.nack(said)
    second.hear()
    (summary,) = ledger.proxies()
    ledger.detach(first.session)
    ledger.detach(second.session)

    assert (summary.id, summary.streams) == ("web.shop", 2)
    assert [(t.accepted, t.unanswered, t.rejected) for t in summary.tallies] == [(0, 0, 1), (0, 1, 0)]
    assert not summary.synced
    assert ledger.proxies() == ()


def test_unknown_proxy_has_no_config() -> None:
    """Asking for a proxy that is not connected is no error."""
    assert Ledger().config("nobody.shop") == ()
