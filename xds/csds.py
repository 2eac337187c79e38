"""The ledger in the words of the client status discovery service.

Owns the translation of states; it must never show a resource itself: a secret could be among them.
"""

from collections.abc import Iterable

from xds.ledger import Row, State
from xds.pb.envoy.admin.v3 import config_dump_shared_pb2
from xds.pb.envoy.service.status.v3 import csds_pb2

_CLIENT_STATUS = {
    State.SENT: config_dump_shared_pb2.ClientResourceStatus.REQUESTED,
    State.ACKED: config_dump_shared_pb2.ClientResourceStatus.ACKED,
    State.HELD: config_dump_shared_pb2.ClientResourceStatus.ACKED,
    State.NACKED: config_dump_shared_pb2.ClientResourceStatus.NACKED,
    State.ABSENT: config_dump_shared_pb2.ClientResourceStatus.DOES_NOT_EXIST,
    State.DENIED: config_dump_shared_pb2.ClientResourceStatus.DOES_NOT_EXIST,
}
_CONFIG_STATUS = {
    State.SENT: csds_pb2.ConfigStatus.STALE,
    State.ACKED: csds_pb2.ConfigStatus.SYNCED,
    State.HELD: csds_pb2.ConfigStatus.SYNCED,
    State.NACKED: csds_pb2.ConfigStatus.ERROR,
    State.ABSENT: csds_pb2.ConfigStatus.NOT_SENT,
    State.DENIED: csds_pb2.ConfigStatus.NOT_SENT,
}


def client_status(proxy: str, rows: Iterable[Row]) -> csds_pb2.ClientStatusResponse:
    """Return the ledger's rows in CSDS' words, without the resources themselves: a secret is never among them."""
    response = csds_pb2.ClientStatusResponse()
    config = response.config.add()
    config.node.id = proxy
    for row in rows:
        entry = config.generic_xds_configs.add(
            type_url=row.type_url,
            name=row.name,
            version_info=row.version,
            config_status=_CONFIG_STATUS[row.state],
            client_status=_CLIENT_STATUS[row.state],
        )
        if row.sent_at is not None:
            entry.last_updated.FromMilliseconds(int(row.sent_at * 1000))
        if row.error:
            entry.error_state.details = row.error
    return response
