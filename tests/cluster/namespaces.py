"""A node's namespaces: processes, mounts and network of its own, which end with the process that holds them.

It owns their start and the way in; it must never leave anything that one SIGKILL does not remove. The kernel ends
every process of a process namespace when its first is gone; mounts, links, addresses and nft rules go with the last.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster import processes, programs
from xds.demo.processes import wait_until

ADDRESS: Final = "172.30.0.1"
ADDRESS_6: Final = "fd00:172:30::1"
_NOBODY: Final = "172.30.0.254"
_NOBODY_6: Final = "fd00:172:30::fe"

# Steps inside the namespaces take milliseconds, also on a busy machine.
_STEP_S: Final = 60.0

# Folders of this machine that kubelet, containerd, runc and CNI write to by fixed names; inside they are ours.
_OWN_FOLDERS: Final = ("/run", "/var/lib", "/var/log")


def start(folder: Path, *, is_bound: bool) -> None:
    """Start the process that holds the namespaces, and give it addresses, routes and folders."""
    for hidden in _OWN_FOLDERS:
        if folder.is_relative_to(hidden):
            message = f"{folder}: a cluster cannot live below {hidden}, which the node replaces by a folder of its own"
            raise RuntimeError(message)
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    processes.start(folder, "node", [*unshare, str(programs.pause())], is_bound=is_bound)
    wait_until("the node's namespaces", lambda: pid(folder) is not None, timeout_s=_STEP_S)
    for words in _network():
        run(folder, *words)
    run(folder, "mount", "--make-rshared", "/")
    for own in _OWN_FOLDERS:
        (folder / "own" / own.lstrip("/")).mkdir(parents=True)
        run(folder, "mount", "--bind", str(folder / "own" / own.lstrip("/")), own)


def pid(folder: Path) -> int | None:
    """Return the process that holds the node's namespaces, as this machine numbers it."""
    for candidate in processes.find(folder, "node"):
        try:
            if Path(f"/proc/{candidate}/exe").readlink().name == "pause":
                return candidate
        except FileNotFoundError:
            continue
    return None


def enter(folder: Path) -> list[str]:
    """Return the command that runs another one on the node."""
    holder = pid(folder)
    if holder is None:
        message = f"the node of {folder} does not run"
        raise RuntimeError(message)
    return ["nsenter", "--target", str(holder), "--net", "--mount", "--pid", "--"]


def run(folder: Path, *argv: str, timeout_s: float = _STEP_S) -> str:
    """Run a command on the node and return what it printed; RuntimeError with its words when it failed."""
    done = subprocess.run(
        [*enter(folder), *argv], capture_output=True, text=True, check=False, timeout=timeout_s
    )
    if done.returncode:
        message = f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}"
        raise RuntimeError(message)
    return done.stdout


def _network() -> Sequence[Sequence[str]]:
    """One end of a veth pair is the node's interface: this kernel has no dummy links, and nobody is at the other."""
    commands = f"""
    ip link set lo up
    ip link add eth0 type veth peer name outside
    ip address add {ADDRESS}/24 dev eth0
    ip address add {ADDRESS_6}/64 dev eth0 nodad
    ip link set eth0 up
    ip link set outside up
    ip route add default via {_NOBODY}
    ip -6 route add default via {_NOBODY_6}
    sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    """
    return [line.split() for line in commands.strip().splitlines()]
