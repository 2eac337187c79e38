"""What Prometheus and Grafana load is what one list of queries says, and holds what these expect."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from deploy.observability import scraping
from deploy.observability.generate import HERE, files
from deploy.observability.queries import ALERTS, DASHBOARDS


@pytest.mark.parametrize("name", sorted(files()))
def test_a_shipped_file_is_what_its_source_says(name: str) -> None:
    """`make dashboards` writes them; nobody edits them."""
    assert (HERE / name).read_text(encoding="utf-8") == files()[name]


def test_nothing_else_is_shipped() -> None:
    """A dashboard that its source no longer has would stay for ever."""
    found = {
        str(path.relative_to(HERE)) for path in HERE.rglob("*.[jy]*") if path.suffix in {".json", ".yaml"}
    }

    assert found == set(files())


def test_panels_stand_beside_each_other() -> None:
    """No two overlap, none leaves Grafana's 24 columns, and each says what it shows."""
    for dashboard in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(files()[f"dashboards/{dashboard.slug}.json"])["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            assert place["x"] + place["w"] <= 24
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
            taken |= cells


def test_titles_and_alerts_are_unique() -> None:
    """A link to one leads to one."""
    assert all(len({p.title for p in d.panels}) == len(d.panels) for d in DASHBOARDS)
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_a_bound_and_an_advice(alert: object) -> None:
    """Whoever is woken reads what is wrong and what to do."""
    found = next(each for each in ALERTS if each is alert)

    assert re.fullmatch(r"[<>] [0-9.]+", found.bound)
    assert found.summary and found.advice
    assert found.severity in {"info", "warning", "critical"}


def test_the_pod_monitors_relabel_as_the_scrape_configuration_does() -> None:
    """The same rules in the operator's words."""
    monitors = list(yaml.safe_load_all(files()["podmonitor.yaml"]))
    jobs = {job.name: job for job in (scraping.proxies(), scraping.control_plane())}
    for monitor in monitors:
        job = jobs.pop(monitor["metadata"]["name"])
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        back = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
        series = [
            {back.get(key, key): value for key, value in rule.items()}
            for rule in endpoint.get("metricRelabelings", [])
        ]
        assert series == job.series
        assert len(endpoint["relabelings"]) == len(job.targets) + 1

    assert jobs == {}
