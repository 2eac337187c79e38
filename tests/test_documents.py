"""Text to values: what YAML and JSON mean, where everything stands, and what is refused."""

from __future__ import annotations

import pytest

from xds.documents import ALIASED_NODES_MAX, DEPTH_MAX, DocumentError, Place, locate, parse_json, parse_yaml


def value_of(text: str) -> object:
    """Parse a text of one document."""
    (document,) = parse_yaml(text)
    if document.error:
        raise document.error
    return document.value


def refusal(text: str) -> str:
    """Return the error of a text of one document, with its place."""
    with pytest.raises(DocumentError) as caught:
        value_of(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("80", 80),
        ("-1", -1),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0777", 511),
        ("0o17", 15),
        ("0b101", 5),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1e999", float("inf")),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("12:30", "12:30"),
        ("1.2.3", "1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        ("0x", "0x"),
        ('"80"', "80"),
        ("'yes'", "yes"),
        ("!!str 80", "80"),
        ("0b12", "0b12"),
    ],
)
def test_scalars_mean_what_kubernetes_takes_them_for(scalar: str, value: object) -> None:
    """Plain scalars follow YAML 1.1 without dates and base 60; quoted ones are text."""
    assert value_of(f"a: {scalar}") == {"a": value}


def test_a_long_integer_becomes_a_float_that_no_field_takes() -> None:
    """Turning millions of digits into an integer would take minutes."""
    assert value_of("a: " + "9" * 5000) == {"a": float("inf")}


def test_keys_are_text() -> None:
    """Numbers and booleans as keys turn into strings, as on the way through JSON."""
    assert value_of("{1: a, yes: b, ~: c}") == {"1": "a", "yes": "b", "~": "c"}


def test_a_merge_key_fills_in_what_the_object_does_not_say() -> None:
    """Own keys win over merged ones, and earlier sources over later ones."""
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], a: 3}"

    assert value_of(text) == {"x": {"a": 1, "b": 1}, "y": {"b": 2, "c": 2}, "z": {"a": 3, "b": 1, "c": 2}}


def test_a_quoted_merge_key_is_a_key() -> None:
    """Quotes take the meaning away."""
    assert value_of("{'<<': 1}") == {"<<": 1}


def test_documents_without_content_are_passed_over() -> None:
    """A file that begins with --- or ends with a comment holds no empty objects."""
    assert [d.value for d in parse_yaml("---\n# nothing\n---\na: 1\n---\n")] == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: 2\na: 3\n", '3:1: key "a" appears twice'),
        ("a: &a [*a]", '1:8: alias "a" stands inside or before its anchor'),
        ("a: !!binary aGk=", '1:4: tag "tag:yaml.org,2002:binary" is not taken: write plain YAML'),
        ("a: !thing {}", '1:4: tag "!thing" is not taken: write plain YAML'),
        ("? [a]\n: b", "1:3: a key must be a string, not a list or an object"),
        ("x: &x 1\n*x : 2", "2:1: an alias as a key is not taken: write the key out"),
        ("<<: 1", "1:5: '<<' must name an object or a list of objects"),
        ("a: {{ .Values.a }}", "1:5: is a template ({{ … }}): render it first, as `helm template` does"),
        (
            "{{- if .Values.a }}\na: b\n{{- end }}",
            "1:3: is a template ({{ … }}): render it first, as `helm template` does",
        ),
        ("a:\n\tb: c", "2:1: is not YAML: a tab indents this line; use spaces"),
        ("a: b\tc: d", "1:7: is not YAML: mapping values are not allowed in this context"),
        ("a: [", "2:1: is not YAML: did not find expected node content, while parsing a flow node"),
        ("a: \x01", "1:4: is not YAML: control characters are not allowed"),
        ("ä: \x01", "1:4: is not YAML: control characters are not allowed"),
        ("[" * 100_000, "1:1001: is not YAML: exceeded maximum nesting depth, while increasing flow level"),
    ],
)
def test_what_is_refused_is_refused_with_its_place(text: str, error: str) -> None:
    """The error names line and column and says what is wrong."""
    assert refusal(text) == error


def test_nesting_is_bounded() -> None:
    """The deepest level that is taken, and the first that is not."""
    assert value_of("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    assert refusal("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1)) == "1:65: is nested deeper than 64 levels"


def test_nesting_through_aliases_is_bounded() -> None:
    """Each alias is shallow, and together they would be deep."""
    half = "[" * 40 + "]" * 40
    text = f"a: &a {half}\nb: {'[' * 40}*a{']' * 40}"

    assert refusal(text) == "2:44: is nested deeper than 64 levels"


def test_aliases_cannot_multiply() -> None:
    """Nine levels of nine aliases are 387 million nodes in 200 bytes: refused at the first too many."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]

    assert f"aliases add more than {ALIASED_NODES_MAX} nodes" in refusal("\n".join(lines))


def test_a_broken_document_does_not_hide_the_next() -> None:
    """What breaks the rules, but not the grammar, costs one document."""
    first, second = parse_yaml("a: 1\na: 2\n---\nb: 1\n")

    assert first.error is not None
    assert second.value == {"b": 1}


def test_locate_finds_fields() -> None:
    """Keys that hold dots, list elements and whole documents have places."""
    text = "a: 1\n---\nlabels: {x.y/z: v}\nports:\n- port: 80\n- {port: 81}\n"
    wanted = [(0, "a"), (1, ""), (1, "labels.x.y/z"), (1, "ports[0].port"), (1, "ports[1].port")]

    found = locate(text, wanted)

    assert [str(found[each]) for each in wanted] == ["1:1", "3:1", "3:10", "5:3", "6:4"]


def test_locate_falls_back_to_what_is_around() -> None:
    """A missing field is reported where it should stand."""
    wanted = [(0, "a.b[7].c.d"), (0, "zzz"), (0, "a.b[0].missing")]

    found = locate("a:\n  b:\n  - x: 1\n", wanted)

    assert [str(found[each]) for each in wanted] == ["2:3", "1:1", "3:5"]


@pytest.mark.parametrize("path", ["a.b[x.dev/y]", "a.b[x", "a.b]", "a..b"])
def test_locate_ends_for_any_path(path: str) -> None:
    """A key with dots in brackets, or no path at all, is placed at what is around, and never looked for for ever."""
    assert locate("a:\n  b: 1\n", [(0, path)])[0, path] in {Place(1, 1), Place(2, 3)}


def test_locate_leaves_out_what_lies_behind_the_break() -> None:
    """No place is invented for a document that cannot be read."""
    assert locate("a: 1\n---\nb: [", [(0, "a"), (1, "b")]) == {(0, "a"): Place(1, 1)}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1, "a": 2}', '1:1: key "a" appears twice'),
        ('{"a": }', "1:7: is not JSON: Expecting value"),
        ("[" * 70 + "]" * 70, "1:1: is nested deeper than 64 levels"),
        ("[" * 100_000, "1:1: is nested deeper than 64 levels"),
    ],
)
def test_json_is_refused_by_the_same_rules(text: str, error: str) -> None:
    """Duplicate keys, broken syntax and deep nesting."""
    with pytest.raises(DocumentError) as caught:
        parse_json(text)

    assert str(caught.value) == error


def test_json_takes_what_yaml_cannot() -> None:
    """Escaped surrogate pairs are valid JSON, and no YAML."""
    assert parse_json('{"a": "\\ud83d\\ude00", "b": NaN}').value != {}
