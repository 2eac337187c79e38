"""The demonstration step by step: start, send, edit, wait until it is live, judge, stop.

It owns the order of the steps and the clock; it must never print: a `Screen` is told.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from xds import report as api
from xds.demo import admin, programs
from xds.demo.load import Load
from xds.demo.manifests import PodSpec, Split, is_guarded, read_pods, read_split
from xds.demo.mesh import Mesh
from xds.demo.processes import DemoError, wait_until
from xds.demo.report import (
    GUARD_S,
    MIN_REQUESTS,
    Denial,
    Measured,
    ProxyState,
    Report,
    Second,
    after,
    before,
    judge,
)

T = TypeVar("T")

LOAD: Final = "load"
"""The pod whose container sends the requests."""

GUARDED: Final = "orders"
"""What LOAD must not call by itself, where the manifests have a policy of this name."""

WEIGHTS: Final = (50, 50)
"""What the edit makes of 90/10: far enough away that no other split could be taken for it."""

ENDLESS_EDIT_S: Final = 15.0
"""When a run without end edits: late enough for 1,000 requests at the default rate."""

_LIVE_S: Final = 10.0  # an edit that is not live by then is a failure, not a slow success
_SYNC_S: Final = 60.0  # a first start reads everything from the disk
_TICK_S: Final = 0.5
_POLL_S: Final = 0.02  # while waiting for the last ACK; the figure itself comes from the ledger
_CERTIFICATES_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class View:
    """What a screen may show of a moment."""

    elapsed_s: float
    duration_s: float
    seconds: tuple[Second, ...]
    desired: Mapping[str, float]
    observed: Mapping[str, int]
    live_ms: float | None
    proxies: tuple[api.Proxy, ...]
    edges: tuple[admin.Traffic, ...]
    certificate_ages_s: Mapping[str, float]


class Screen(Protocol):
    """Where a run tells what happens."""

    def step(self, text: str) -> None:
        """Take the next step's name; the one before has succeeded."""
        ...

    def show(self, view: View) -> None:
        """Take the state of the moment, twice a second."""
        ...

    def close(self) -> None:
        """Show nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; `duration_s` 0: until Ctrl-C."""

    duration_s: float
    rps: float
    source: Path
    """The manifests; the run edits a copy."""

    @property
    def edit_after_s(self) -> float:
        """Half of the time before the edit, half after it."""
        return self.duration_s / 2 if self.duration_s else ENDLESS_EDIT_S


def default_rps(duration_s: float) -> float:
    """Return the rate that brings 1,000 requests into each phase with a fifth to spare, at least 100."""
    phase_s = (duration_s or 2 * ENDLESS_EDIT_S) / 2 - 1 - 2 * GUARD_S
    return max(100.0, round(1.2 * MIN_REQUESTS / phase_s))


@dataclass(slots=True)
class Demo:
    """One run in one working directory."""

    mesh: Mesh
    options: Options
    screen: Screen
    _denial: Denial | None = field(default=None, init=False)
    _edited_at: float | None = field(default=None, init=False)
    _live_at: float | None = field(default=None, init=False)
    _ages: dict[str, float] = field(default_factory=dict[str, float], init=False)
    _ages_at: float = field(default=0.0, init=False)

    def run(self) -> Report:
        """Run to the end and return the verdict; DemoError if the mesh does not even start."""
        pods = self._prepare()
        self._start(pods)
        caller = next(pod for pod in pods if pod.name == LOAD)
        self._trespass(caller)
        load = self._send(caller)
        began = time.time()
        split = read_split(self.mesh.manifests)
        try:
            self._watch(load, pods, split, until=began + self.options.edit_after_s, began=began)
            split = self._edit(split)
            self._watch(load, pods, split, until=self._end(began), began=began)
        except KeyboardInterrupt:
            if self.options.duration_s:
                raise
        self.screen.step("Stop the load and count")
        return self._judge(load, pods, began)

    def stay(self, tell: Callable[[tuple[PodSpec, ...]], None]) -> None:
        """Start the mesh, tell which pods it has, and keep it until KeyboardInterrupt; DemoError if a part ends."""
        pods = self._prepare()
        self._start(pods)
        self.screen.step("Stay until Ctrl-C")
        tell(pods)
        while True:
            self._must_live()
            time.sleep(_TICK_S)

    def _must_live(self) -> None:
        dead = self.mesh.family.dead()
        if dead:
            message = f"{dead[0].name} ended by itself:\n{dead[0].tail()}"
            raise DemoError(message)

    def _end(self, began: float) -> float:
        return began + self.options.duration_s if self.options.duration_s else float("inf")

    def _prepare(self) -> tuple[PodSpec, ...]:
        self.screen.step("Find Envoy")
        programs.envoy()
        self.screen.step("Build the shop (once; about a minute when nothing is cached)")
        programs.shop()
        source = self.options.source
        self.screen.step(f"Copy {source} to {self.mesh.manifests}")
        shutil.copytree(source, self.mesh.manifests, ignore=shutil.ignore_patterns("README*"))
        pods = read_pods(self.mesh.manifests)
        if not any(pod.name == LOAD for pod in pods):
            message = f"{source}: no Pod is called {LOAD}"
            raise DemoError(message)
        return pods

    def _start(self, pods: tuple[PodSpec, ...]) -> None:
        self.screen.step("Start the control plane: proa serve")
        self.mesh.serve()
        self.screen.step(f"Start {len(pods)} Envoys, one per pod")
        sidecars = [(pod, self.mesh.start_sidecar(pod)) for pod in pods]
        for pod, child in sidecars:
            self.mesh.wait_ready(pod, child)
        services = [pod for pod in pods if pod.name != LOAD]
        self.screen.step(f"Start {len(services)} services: {', '.join(pod.name for pod in services)}")
        applications = [(pod, self.mesh.start_application(pod)) for pod in services]
        for pod, child in applications:
            self.mesh.wait_application(pod, child)
        self.screen.step("Wait until every proxy has acknowledged everything")
        wait_until(
            "every proxy has acknowledged everything", lambda: self._is_synced(pods), timeout_s=_SYNC_S
        )

    def _is_synced(self, pods: tuple[PodSpec, ...]) -> bool:
        synced = {proxy.id for proxy in self.mesh.api.proxies() if proxy.acked}
        return synced >= {pod.node_id for pod in pods}

    def _send(self, pod: PodSpec) -> Load:
        self.screen.step(f"Send {self.options.rps:g} requests a second through web")
        args = ("--rps", f"{self.options.rps:g}")
        return Load(self.mesh.start_application(pod, *args, stdout=subprocess.PIPE))

    def _trespass(self, pod: PodSpec) -> None:
        """Make the one call that the manifests' policy forbids, and keep its answer."""
        if is_guarded(self.mesh.manifests, GUARDED):
            self.screen.step(f"Call {GUARDED} as {pod.name}, which its AuthorizationPolicy forbids")
            status = admin.call(pod.outbound, GUARDED, "/echo")
            self._denial = Denial(pod.name, GUARDED, status)

    def _edit(self, split: Split) -> Split:
        """Change the weights, and wait until the ledger says that every proxy runs them."""
        self.screen.step(f"Edit {split.path.name}: {_weights(split.weights)} becomes {_weights(WEIGHTS)}")
        self._edited_at = split.write(WEIGHTS)
        deadline = time.time() + _LIVE_S
        while self._live_at is None and time.time() < deadline:
            time.sleep(_POLL_S)
            self._live_at = live_at(self.mesh.api.pushes(), split.name, self._edited_at)
        return read_split(self.mesh.manifests)

    def _watch(
        self, load: Load, pods: tuple[PodSpec, ...], split: Split, *, until: float, began: float
    ) -> None:
        while (now := time.time()) < until:
            self._must_live()
            self.screen.show(self._view(load, pods, split, elapsed_s=now - began))
            time.sleep(min(_TICK_S, max(0.0, until - time.time())))

    def _view(self, load: Load, pods: tuple[PodSpec, ...], split: Split, *, elapsed_s: float) -> View:
        seconds = load.seconds
        edited_at = self._edited_at
        return View(
            elapsed_s=elapsed_s,
            duration_s=self.options.duration_s,
            seconds=seconds,
            desired=split.desired,
            observed=before(seconds, None) if edited_at is None else after(seconds, self._live_at),
            live_ms=None
            if self._live_at is None or edited_at is None
            else (self._live_at - edited_at) * 1000,
            proxies=_or((), self.mesh.api.proxies),
            edges=_or((), self.mesh.api.edges),
            certificate_ages_s=self._certificates(pods),
        )

    def _certificates(self, pods: tuple[PodSpec, ...]) -> Mapping[str, float]:
        now = time.time()
        if now - self._ages_at >= _CERTIFICATES_S:
            self._ages_at = now
            for pod in pods:
                age = _or(None, lambda pod=pod: admin.certificate_age_s(pod.pod_ip, now))
                if age is not None:
                    self._ages[pod.name] = age
        return self._ages

    def _judge(self, load: Load, pods: tuple[PodSpec, ...], began: float) -> Report:
        final = load.finish()
        tls, plaintext = map(sum, zip(*(admin.hops(pod.pod_ip) for pod in pods), strict=True))
        original = read_split(self.options.source)
        return judge(
            Measured(
                duration_s=round(time.time() - began, 1),
                rps=self.options.rps,
                seconds=load.seconds,
                final=final,
                edited_at=self._edited_at,
                live_at=self._live_at,
                is_endless=not self.options.duration_s,
                desired_before=original.desired,
                desired_after=read_split(self.mesh.manifests).desired,
                proxies=tuple(ProxyState(p.id, p.workload, p.acked) for p in self.mesh.api.proxies()),
                expected_proxies=frozenset(pod.node_id for pod in pods),
                tls_hops=tls,
                plaintext_hops=plaintext,
                nacks=sum(len(push.rejections) for push in self.mesh.api.pushes()),
                edges=self.mesh.api.edges(),
                denial=self._denial,
            )
        )


def live_at(pushes: tuple[api.PushRecord, ...], cause: str, edited_at: float) -> float | None:
    """Return when the last proxy had acknowledged the edit of one object; None while one has not.

    The push's own time may be the file's, whose clock has the kernel's resolution: 10 ms of tolerance.
    """
    caused = [
        push
        for push in pushes
        if push.at >= edited_at - 0.01 and any(cause in words for words in push.causes)
    ]
    if not caused or any(push.live_ms is None for push in caused):
        return None
    return max(push.at + (push.live_ms or 0.0) / 1000 for push in caused)


def _weights(weights: tuple[int, ...]) -> str:
    return "/".join(map(str, weights))


def _or(default: T, ask: Callable[[], T]) -> T:
    """Ask for what is only shown: a screen without an answer is better than no screen."""
    try:
        return ask()
    except admin.Unreachable:
        return default
