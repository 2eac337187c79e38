"""`proa serve` whose deadlines are seconds: `python -m tests.fakes.impatient DIR STATE XDS_PORT ADMIN_PORT`.

It owns the deadlines; everything else must be the real thing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from xds.channel import force_tls13

DEADLINE_S = 2


def main(directory: str, state: str, xds_port: str, admin_port: str) -> None:
    """Serve until SIGTERM."""
    force_tls13()
    import uvloop

    from xds import logs
    from xds.address import Address
    from xds.app import Ports
    from xds.gate import ServerOptions
    from xds.standalone import Options, compose

    logs.to_stderr()
    xds, admin = (Address("127.0.0.1", int(port)) for port in (xds_port, admin_port))
    deadlines = ServerOptions(
        stall_deadline_s=DEADLINE_S,
        first_request_deadline_s=DEADLINE_S,
        handshake_timeout_ms=DEADLINE_S * 1000,
        connection_idle_ms=DEADLINE_S * 1000,
    )
    options = Options(Path(directory), Path(state), is_insecure=False)
    app = compose(options, Ports(xds, admin), deadlines)
    uvloop.run(app.run())


if __name__ == "__main__":
    main(*sys.argv[1:])
