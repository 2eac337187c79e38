"""CEL as Envoy takes it in a filter of an access log: whether a text is an expression that can be evaluated there.

It owns the grammar (cel-spec, doc/langdef.md) and the names that Envoy gives a meaning; it must never evaluate one.
An expression that Envoy cannot take would make it refuse the whole listener.
"""

from __future__ import annotations

import ast
import re
from typing import Final

from xds.fields import ConfigError, show
from xds.grammar import regex_program

ROOTS: Final = frozenset(
    {
        "connection",
        "destination",
        "filter_state",
        "metadata",
        "request",
        "response",
        "source",
        "upstream",
        "upstream_filter_state",
        "xds",
    }
)
"""What an expression can begin with (Envoy, Attributes)."""

FUNCTIONS: Final = {
    "bool": 1,
    "bytes": 1,
    "double": 1,
    "duration": 1,
    "dyn": 1,
    "has": 1,
    "int": 1,
    "matches": 2,
    "size": 1,
    "timestamp": 1,
    "type": 1,
    "uint": 1,
}
"""Functions and how many arguments each takes (cel-spec, List of Standard Definitions); Envoy has no ``string``."""

METHODS: Final = {
    "contains": 1,
    "endsWith": 1,
    "getDate": (0, 1),
    "getDayOfMonth": (0, 1),
    "getDayOfWeek": (0, 1),
    "getDayOfYear": (0, 1),
    "getFullYear": (0, 1),
    "getHours": (0, 1),
    "getMilliseconds": (0, 1),
    "getMinutes": (0, 1),
    "getMonth": (0, 1),
    "getSeconds": (0, 1),
    "matches": 1,
    "size": 0,
    "startsWith": 1,
}
"""The same for what is called on a value."""

COMPREHENSIONS: Final = frozenset({"all", "exists", "exists_one", "filter", "map"})
"""What walks over a list or map: Envoy has it switched off."""

_WORDS: Final = {"true", "false", "null"}
_RESERVED: Final = frozenset(
    re.findall(
        r"\w+",
        "as break const continue else for function if import let loop package namespace return var void while",
    )
)
"""Words that no name may be (langdef, Syntax)."""

_DEPTH_MAX: Final = 32
"""Deepest nesting taken. Envoy's parser allows more; no person reads that."""

_TOKEN: Final = re.compile(
    r"""\s+|//[^\n]*
    |(?P<text>[rR]?[bB]?[rR]?(?:\"\"\".*?\"\"\"|'''.*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?|\d+[uU]?)
    |(?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)

_RELATIONS: Final = frozenset({"<", "<=", ">", ">=", "==", "!=", "in"})
_LEVELS: Final = (
    frozenset({"||"}),
    frozenset({"&&"}),
    _RELATIONS,
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)
"""Operators of two values, those that bind loosest first."""

Count = int | tuple[int, int]


def check_expression(text: str, path: str) -> str:
    """Return an expression as it is, empty for none; raise ConfigError where it is none that Envoy takes."""
    if text.strip():
        _Parser(text, path).whole()
    return text.strip()


class _Parser:
    """One expression, read from left to right."""

    def __init__(self, text: str, path: str) -> None:
        self._text, self._path = text, path
        self._tokens = list(self._split())
        self._at = 0
        self._depth = 0

    def whole(self) -> None:
        """Read all of it."""
        self._expression()
        if self._kind:
            raise self._fail(f"has {show(self._lexeme)} where it should end")

    def _split(self) -> list[tuple[str, str]]:
        out: list[tuple[str, str]] = []
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise self._fail(f"has {show(self._text[at])}, which begins nothing")
            if found.lastgroup is not None:
                out.append((found.lastgroup, found.group()))
            at = found.end()
        return out

    def _fail(self, reason: str) -> ConfigError:
        return ConfigError(self._path, f"is no CEL expression that Envoy takes: it {reason}")

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def _lexeme(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> tuple[str, str]:
        kind, lexeme = self._kind, self._lexeme
        self._at += 1
        return kind, lexeme

    def _take(self, *signs: str) -> bool:
        if self._kind in {"sign", "name"} and self._lexeme in signs:
            self._at += 1
            return True
        return False

    def _want(self, sign: str) -> None:
        if not self._take(sign):
            got = show(self._lexeme) if self._kind else "the end"
            raise self._fail(f"has {got} where {sign} should be")

    def _expression(self) -> None:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._fail(f"is nested deeper than {_DEPTH_MAX}")
        self._level(0)
        if self._take("?"):
            self._level(0)
            self._want(":")
            self._expression()
        self._depth -= 1

    def _level(self, level: int) -> None:
        if level == len(_LEVELS):
            self._unary()
            return
        self._level(level + 1)
        while self._take(*_LEVELS[level]):
            self._level(level + 1)

    def _unary(self) -> None:
        sign = self._lexeme if self._kind == "sign" and self._lexeme in "!-" else ""
        while sign and self._take(sign):
            pass
        self._primary()
        while self._kind == "sign" and self._lexeme in {".", "["}:
            self._member()

    def _member(self) -> None:
        if self._take("["):
            self._expression()
            self._want("]")
            return
        self._want(".")
        kind, name = self._next()
        if kind != "name":
            raise self._fail(f"has {show(name)} where the name of a field should be")
        if self._take("("):
            self._call(name, METHODS, on_value=True)

    def _primary(self) -> None:
        if self._take("("):
            self._expression()
            self._want(")")
        elif self._take("["):
            self._list("]")
        elif self._take("{"):
            self._map()
        else:
            self._word()

    def _word(self) -> None:
        kind, lexeme = self._next()
        match kind:
            case "text":
                self._check_text(lexeme)
            case "number":
                pass
            case "name" if lexeme in _WORDS:
                pass
            case "name" if lexeme in _RESERVED or lexeme == "in":
                raise self._fail(f"has the reserved word {lexeme} where a value should be")
            case "name" if self._take("("):
                self._call(lexeme, FUNCTIONS, on_value=False)
            case "name" if lexeme in ROOTS:
                pass
            case "name":
                raise self._fail(f"names {lexeme}; known are {', '.join(sorted(ROOTS))}")
            case _:
                raise self._fail(f"has {show(lexeme) if lexeme else 'the end'} where a value should be")

    def _call(self, name: str, known: dict[str, int] | dict[str, Count], *, on_value: bool) -> None:
        if on_value and name in COMPREHENSIONS:
            raise self._fail(f"calls {name}: Envoy walks over no list")
        if name not in known:
            what = "method" if on_value else "function"
            raise self._fail(f"calls {name}, which is no {what}; known are {', '.join(sorted(known))}")
        start = self._at
        count = self._list(")")
        low, high = _bounds(known[name])
        if not low <= count <= high:
            raise self._fail(f"calls {name} with {count} arguments, it takes {low}")
        if name == "matches":
            self._check_pattern(self._tokens[start : self._at - 1])
        if name == "has" and not _is_selection(self._tokens[start : self._at - 1]):
            raise self._fail("has a has() of something else than a field, a.b")

    def _list(self, end: str) -> int:
        count = 0
        while not self._take(end):
            if count:
                self._want(",")
                if end != ")" and self._take(end):
                    break
            self._expression()
            count += 1
        return count

    def _map(self) -> None:
        while not self._take("}"):
            self._expression()
            self._want(":")
            self._expression()
            if not self._take(","):
                self._want("}")
                return

    def _check_text(self, lexeme: str) -> None:
        """Refuse escapes that CEL does not have; Python's are nearly the same."""
        bare = lexeme.lstrip("rRbB")
        if "r" in lexeme[: len(lexeme) - len(bare)].lower():
            return
        try:
            ast.literal_eval(bare.replace("\\?", "?").replace("\\`", "`"))
        except (SyntaxError, ValueError):
            raise self._fail(f"has a text with an escape that there is not: {show(lexeme)}") from None

    def _check_pattern(self, tokens: list[tuple[str, str]]) -> None:
        kind, lexeme = tokens[-1] if tokens else ("", "")
        if kind != "text":
            return
        bare = lexeme.lstrip("rRbB")
        prefix = "r" if "r" in lexeme[: len(lexeme) - len(bare)].lower() else ""
        pattern = str(ast.literal_eval(prefix + bare))
        try:
            regex_program(pattern)
        except ValueError as error:
            raise self._fail(f"has a pattern that is no RE2 regex: {error}") from None


def _is_selection(tokens: list[tuple[str, str]]) -> bool:
    """Tell whether the tokens end as the choice of a field; ``a['b']`` is none (langdef, Field Selection)."""
    return len(tokens) > 2 and tokens[-1][0] == "name" and tokens[-2][1] == "."


def _bounds(count: Count) -> tuple[int, int]:
    return (count, count) if isinstance(count, int) else count
