"""Places in files for the rules that an answer names.

It owns which field of an object a rule is; it must never read a file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import structs

from xds.explain.answer import Answer, Considered, Route
from xds.fields import Problem, Severity

Place = Callable[[Iterable[Problem]], tuple[Problem, ...]]
"""Fills in ``where`` of problems, as sources do."""


def located(answer: Answer, place: Place) -> Answer:
    """Return the answer with ``file:line:column`` of each rule, as far as its object comes from a file."""
    asked: list[Route | Considered] = [*answer.considered]
    if answer.route is not None:
        asked.append(answer.route)
    found = place([Problem(Severity.INFO, one.object, _field(one.rule), "") for one in asked])
    where = {(one.object, one.rule): problem.where for one, problem in zip(asked, found, strict=True)}
    route = answer.route
    return structs.replace(
        answer,
        route=structs.replace(route, where=where[route.object, route.rule]) if route else None,
        considered=tuple(
            structs.replace(one, where=where[one.object, one.rule]) for one in answer.considered
        ),
    )


def _field(rule: str) -> str:
    return f"spec.{rule}" if rule.startswith("http[") else "spec"
