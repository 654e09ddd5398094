"""JavaScript packages of a web page: fetched by npm or copied from a folder, at the versions of `lock.json`."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from compress.core.disk.files import copy_file, make_folder, write_bytes
from compress.core.disk.reading import read_mapping
from compress.core.disk.safe_paths import name_fault
from compress.core.errors import ModelError, UsageError

RUNTIME = "onnxruntime-web"
TOKENIZERS = "@huggingface/tokenizers"

_LOCK = Path(__file__).with_name("lock.json")
_TARBALL_ROOT = "package/"
"""Top-level folder of an npm tarball."""
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Package:
    """An npm package: `integrity` is `sha512-<base64>` of its tarball, `files` are those that a page needs."""

    name: str
    version: str
    integrity: str
    files: tuple[str, ...]


def pinned_package(name: str) -> Package:
    """Return the package as pinned in `lock.json`."""
    entry = json.loads(_LOCK.read_text(encoding="utf-8"))[name]
    return Package(name, entry["version"], entry["integrity"], tuple(entry["files"]))


def install_packages(names: Sequence[str], out: Path, runtime_folder: Path | None) -> None:
    """Write the files of each package into a subfolder of `out` with the package's name.

    Args:
        names: packages of `lock.json`.
        out: the folder of the page.
        runtime_folder: an installed onnxruntime-web, with the other packages next to it as installed by npm; None: npm
            fetches the tarballs.

    Raises:
        UsageError: npm is not installed, or the folder does not contain the pinned version.
        ModelError: npm could not fetch a package, or the tarball is not the pinned one.
    """
    for name in names:
        package = pinned_package(name)
        target = out / name
        make_folder(target)
        if runtime_folder is not None:
            _copy(package, runtime_folder if name == RUNTIME else runtime_folder.parent / name, target)
            continue
        with tempfile.TemporaryDirectory() as work:
            tarball = _fetch(package, Path(work))
            check_integrity(tarball, package)
            unpack(tarball, package, target)


def check_integrity(tarball: Path, package: Package) -> None:
    """Compare the sha512 of a tarball with the pinned one.

    Raises:
        ModelError: they differ.
    """
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != package.integrity:
        raise ModelError(
            f"the tarball of {package.name} {package.version} is not the pinned one: its sha512 differs",
            where=package.name,
            hint="Something between here and the registry alters downloads. Nothing from this one was used.",
        )


def unpack(tarball: Path, package: Package, target: Path) -> None:
    """Write the files that a page needs from a package into `target`, without subfolders.

    Raises:
        ModelError: the tarball cannot be read, lacks a file, or contains a link or a path that leads out of it.
    """
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            members = {member.name: member for member in archive if _is_regular_file(member, package)}
            for file in package.files:
                stream = archive.extractfile(members[_TARBALL_ROOT + file])
                assert stream is not None
                write_bytes(target / PurePosixPath(file).name, stream.read())
    except KeyError as error:
        raise ModelError(f"the package lacks {error.args[0]}", where=package.name) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelError(f"the package cannot be unpacked: {error}", where=package.name) from error


def _is_regular_file(member: tarfile.TarInfo, package: Package) -> bool:
    """Whether a member is a regular file; False for folders, and an error for anything else."""
    if name_fault(member.name) is not None:
        raise ModelError(
            f"the package contains a path outside itself: {member.name!a}",
            where=package.name,
            code="outside-folder",
        )
    if not member.isfile() and not member.isdir():
        raise ModelError(
            f"the package contains {member.name!r}, which is neither a file nor a folder", where=package.name
        )
    return member.isfile()


def _fetch(package: Package, work: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(
            f"npm is not installed, so {package.name} cannot be fetched",
            hint=f"Install Node.js, or pass an installed {RUNTIME} with `--{RUNTIME} FOLDER`.",
        )
    requirement = f"{package.name}@{package.version}"
    command = [
        npm,
        "pack",
        requirement,
        "--ignore-scripts",
        "--no-update-notifier",
        "--silent",
        "--pack-destination",
        str(work),
    ]
    try:
        subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        (tarball,) = work.glob("*.tgz")
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"npm could not fetch it: {last}", where=requirement) from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise ModelError("npm did not fetch it", where=requirement) from error
    return tarball


def _copy(package: Package, folder: Path, target: Path) -> None:
    """Copy the files of an installed package."""
    try:
        version = read_mapping(folder / "package.json", error=UsageError)["version"]
    except (OSError, UsageError, KeyError) as error:
        raise UsageError(
            f"{package.name} is not installed here",
            where=str(folder),
            hint=f"Install it into node_modules: `npm install {package.name}@{package.version}`.",
        ) from error
    if version != package.version:
        raise UsageError(
            f"this is {package.name} {version}; the page needs {package.version}", where=str(folder)
        )
    for file in package.files:
        if not (folder / file).is_file():
            raise UsageError(f"the package lacks {file}", where=str(folder))
        copy_file(folder / file, target / PurePosixPath(file).name)
