"""What tells of objects that have no effect in the present world, by the kind of its unit.

It owns this table alone; nothing in it keeps an object out of force, which only ``check`` may do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.compile.entries import check_entry
from xds.compile.faults import check_fault
from xds.compile.guards import check_authentication, check_authorization
from xds.compile.limits import check_limit
from xds.compile.observed import check_telemetry
from xds.compile.policies import check_policy
from xds.compile.reach import check_sidecar

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.compile.lens import Lens
    from xds.fields import Problem
    from xds.hosts import Name

TELLERS: Final[dict[str, Callable[[Lens, Name], tuple[Problem, ...]]]] = {
    "policy": check_policy,
    "entry": check_entry,
    "reach": check_sidecar,
    "limit": check_limit,
    "fault": check_fault,
    "telemetry": check_telemetry,
    "authorization": check_authorization,
    "authentication": check_authentication,
}
