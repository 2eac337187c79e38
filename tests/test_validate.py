"""``proa validate``: problems with their places, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xds.__main__ import main

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  ports: [{name: http, port: 80}]
"""

ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - route:
    - destination:
        host: %s
"""

UNMESHED = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, annotations: {proa.dev/app-address: 127.0.0.2}}
spec: {containers: [{name: web}]}
status: {podIP: 127.0.0.3}
"""

NAMESPACE = """\
---
apiVersion: v1
kind: Namespace
metadata: {name: books, labels: {proa.dev/inject: enabled}}
"""


def validate(directory: Path, *arguments: str) -> Result:
    """Run the command on a directory."""
    return CliRunner().invoke(main, ["validate", str(directory), *arguments])


def test_a_good_directory_passes(tmp_path: Path) -> None:
    """Nothing on stdout, the sum on stderr."""
    (tmp_path / "a.yaml").write_text(f"{SERVICE}---\n{ROUTE % 'orders'}")

    result = validate(tmp_path)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "0 errors, 0 other remarks\n"


def test_what_reading_finds_is_an_error(tmp_path: Path) -> None:
    """With file, line and column of the field."""
    (tmp_path / "a.yaml").write_text(SERVICE.replace("80", "0"))

    result = validate(tmp_path)

    assert result.exit_code == 1
    assert result.stdout == (
        f"{tmp_path}/a.yaml:5:24: error: Service shop/orders: spec.ports[0].port: must be 1..65535, got 0\n"
    )


def test_what_compiling_finds_is_an_error_with_a_place(tmp_path: Path) -> None:
    """A host that no Service has can only be told with the whole directory at hand."""
    (tmp_path / "a.yaml").write_text(f"{SERVICE}---\n{ROUTE % 'absent'}")

    result = validate(tmp_path)

    assert result.exit_code == 1
    assert result.stdout.startswith(
        f"{tmp_path}/a.yaml:15:9: error: VirtualService shop/orders: spec.http[0].route[0].destination.host: "
    )


def test_warnings_pass(tmp_path: Path) -> None:
    """They are printed, and an automatic check may go on."""
    (tmp_path / "a.yaml").write_text(SERVICE.replace("name: http", "name: web"))

    result = validate(tmp_path)

    assert result.exit_code == 0
    assert ": info: Service shop/orders: spec.ports[0].name: tells no protocol" in result.stdout


def test_json_is_one_document(tmp_path: Path) -> None:
    """The fields of the admin API's problems."""
    (tmp_path / "a.yaml").write_text(SERVICE.replace("80", "0"))

    result = validate(tmp_path, "-o", "json")

    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "problems": [
            {
                "severity": "error",
                "object": "Service shop/orders",
                "field": "spec.ports[0].port",
                "reason": "must be 1..65535, got 0",
                "where": f"{tmp_path}/a.yaml:5:24",
            }
        ]
    }


@pytest.mark.parametrize("argument", ["absent", "file.yaml"])
def test_what_is_no_directory_is_a_usage_error(tmp_path: Path, argument: str) -> None:
    """Exit code 2, as for every other misuse."""
    (tmp_path / "file.yaml").write_text("")

    assert validate(tmp_path / argument).exit_code == 2


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """Neither from a manifest nor from the name of its file: both may come from anybody."""
    (tmp_path / "a\x1b[31m.yaml").write_text('apiVersion: v1\nkind: "Pod\\e[31m"\n')

    result = validate(tmp_path)

    assert "a\\x1b[31m.yaml" in result.stdout
    assert "\x1b" not in result.output


def test_the_module_is_light() -> None:
    """Its help needs neither grpc nor protobuf nor a YAML parser."""
    heavy = "{'grpc', 'google.protobuf', 'kubernetes', 'rich', 'yaml', 'watchfiles', 'msgspec'}"
    program = f"import sys, xds.cli.validate; sys.exit(str({heavy} & sys.modules.keys()) != 'set()')"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_sidecars_annotation_outside_the_mesh_is_a_warning(tmp_path: Path) -> None:
    """A namespace without the label gives its Pods no listeners, and the annotation shows that some were meant."""
    (tmp_path / "a.yaml").write_text(UNMESHED)
    (tmp_path / "b.yaml").write_text(UNMESHED.replace("shop", "books") + NAMESPACE)

    result = validate(tmp_path)

    assert result.exit_code == 0
    assert result.stdout == (
        f"{tmp_path}/a.yaml:3:40: warning: Pod shop/web: metadata.annotations[proa.dev/app-address]: "
        "has no effect: the Pod is outside the mesh; label Namespace shop proa.dev/inject: enabled, "
        "or the Pod proa.dev/inject: true\n"
    )
