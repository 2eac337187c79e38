"""Generate the private, typed copy of the Envoy API into ``xds/pb``.

Run by ``make gen`` and by the wheel hook, always in an environment of its own
that holds ``xds-protos`` and ``grpcio-tools``: that wheel installs top-level
packages ``xds`` and ``envoy`` which would shadow ours. It must never be
imported by the server. Files are renamed inside the FileDescriptorSet, so
message names and type URLs stay those of Envoy.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

HERE = Path(__file__).resolve().parent
PREFIX = "xds/pb/"
FILTER_CHAIN = "envoy.extensions.filters.http.filter_chain.v3"
"""An extension of Envoy 1.40 that the released package of its API does not hold yet."""

WELL_KNOWN = "google/protobuf/"
"""Well-known types come with the protobuf runtime and keep their place."""


METRICS = "opentelemetry/proto/metrics/v1/metrics.proto"
UNREAD = {(METRICS, "NumberDataPoint", "attributes"), (METRICS, "HistogramDataPoint", "attributes")}
"""Messages that stay bytes (the same on the wire): a sidecar sends the same labels every 5 s, and telling that they are
the same costs a tenth of reading them."""


def read_roots() -> list[str]:
    """Return the dotted names of the root files listed in ``envoy.txt``."""
    lines = (HERE / "envoy.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def collect(roots: list[str]) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Return every file that the roots reach, dependencies first."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name in found:
            return
        for dependency in file.dependencies:
            visit(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        found[file.name] = proto

    for root in roots:
        visit(importlib.import_module(f"{root}_pb2").DESCRIPTOR)
    newer = filter_chain()
    return {**found, newer.name: newer}


def filter_chain() -> descriptor_pb2.FileDescriptorProto:
    """Return the file of the filter that holds filters, by its documented fields."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{FILTER_CHAIN.replace('.', '/')}/filter_chain.proto",
        package=FILTER_CHAIN,
        syntax="proto3",
        dependency=["envoy/config/core/v3/extension.proto"],
    )
    extension = ".envoy.config.core.v3.TypedExtensionConfig"
    for name, inner, of, label in (
        ("FilterChain", "filters", extension, field.LABEL_REPEATED),
        ("FilterChainConfig", "default_filter_chain", f".{FILTER_CHAIN}.FilterChain", field.LABEL_OPTIONAL),
        ("FilterChainConfigPerRoute", "filter_chain", f".{FILTER_CHAIN}.FilterChain", field.LABEL_OPTIONAL),
    ):
        file.message_type.add(name=name).field.add(
            name=inner, number=1, label=label, type=field.TYPE_MESSAGE, type_name=of
        )
    return file


def leave_unread(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """Turn the message fields of ``UNREAD`` into bytes."""
    for name, message_name, field_name in UNREAD & {
        (name, message.name, field.name)
        for name, file in files.items()
        for message in file.message_type
        for field in message.field
    }:
        message = next(found for found in files[name].message_type if found.name == message_name)
        field = next(found for found in message.field if found.name == field_name)
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        field.ClearField("type_name")


def rename(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> tuple[bytes, list[str], list[str]]:
    """Move the files under ``xds/pb``: the set's bytes, all our files, those with services."""
    names = {name: PREFIX + name for name in files if not name.startswith(WELL_KNOWN)}
    out = descriptor_pb2.FileDescriptorSet()
    for name, file in files.items():
        file.name = names.get(name, name)
        for i, dependency in enumerate(file.dependency):
            file.dependency[i] = names.get(dependency, dependency)
        out.file.append(file)
    services = [names[name] for name, file in files.items() if file.service and name in names]
    return out.SerializeToString(), list(names.values()), services


def protoc(*arguments: str) -> None:
    """Run grpcio-tools' protoc; raises CalledProcessError with its words on stderr."""
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)


def main() -> None:
    """Write ``xds/pb`` below ``--out`` (default: the repository), replacing what stood there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent)
    out: Path = parser.parse_args().out
    files = collect(read_roots())
    leave_unread(files)
    descriptors, ours, services = rename(files)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        descriptor_file = Path(scratch, "descriptors.bin")
        descriptor_file.write_bytes(descriptors)
        source = f"--descriptor_set_in={descriptor_file}"
        protoc(source, f"--python_out={scratch}", f"--pyi_out={scratch}", *ours)
        protoc(source, f"--grpc_python_out={scratch}", *services)
        target = out / "xds" / "pb"
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(Path(scratch, "xds", "pb"), target)
    (target / "__init__.py").write_text(
        '"""Generated: the private copy of the Envoy API."""\n', encoding="utf-8"
    )
    sys.stdout.write(f"{len(ours)} files in {target}\n")


if __name__ == "__main__":
    main()
