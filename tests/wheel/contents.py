"""``python tests/wheel/contents.py FILE`` checks that a wheel or source distribution has exactly the right files."""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("_C", "_cpu", "_cuda")
LEAST_BYTES, MOST_BYTES = 1 << 20, 100 << 20  # the package index accepts no more
EXTRAS = {"data", "demo", "dev", "docs", "metrics", "others", "triton"}  # the project may have more


def expected_files(cuda: bool) -> set[str]:
    """Return the package's sources, its marker, and the libraries' names without the interpreter's suffix."""
    package = ROOT / "mlloss_cuda"
    sources = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    return {*sources, "mlloss_cuda/py.typed", *(f"mlloss_cuda/{name}.so" for name in LIBRARIES[: 3 if cuda else 2])}


def problems(wheel: Path, cuda: bool) -> list[str]:
    """Return the faults of the wheel."""
    found: list[str] = []
    version = re.search(r'__version__ = "(.+)"', (ROOT / "mlloss_cuda/_version.py").read_text())
    assert version is not None
    prefix = f"mlloss_cuda-{version[1]}"
    if not re.fullmatch(rf"{re.escape(prefix)}-cp3\d+-cp3\d+-\w+\.whl", wheel.name):
        found.append(f"name: expected version, interpreter and platform, got {wheel.name}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read(f"{prefix}.dist-info/METADATA").decode())
        contents = {name: archive.read(name) for name in names}
    information = {name for name in names if name.startswith(f"{prefix}.dist-info/")}
    files = {re.sub(r"\.[^/.]+\.so$", ".so", name) for name in names if name not in information}
    wanted = expected_files(cuda)
    found += [f"missing: {name}" for name in sorted(wanted - files)]
    found += [f"does not belong there: {name}" for name in sorted(files - wanted)]
    if len(files) != len(names) - len(information):
        found.append("a library twice: of another interpreter, or left from an earlier build")
    licence = contents.get(f"{prefix}.dist-info/licenses/LICENSE", b"")
    if licence != (ROOT / "LICENSE").read_bytes():
        found.append("licenses/LICENSE: not the repository's")
    found += [f"{name}: names the folder it was built in" for name in names if str(ROOT).encode() in contents[name]]
    size = wheel.stat().st_size
    if not LEAST_BYTES < size < MOST_BYTES:
        found.append(f"size: {size} bytes")
    return found + wrong_metadata(metadata, version[1])


def problems_of_source(distribution: Path) -> list[str]:
    """Return the faults of the source distribution, which must have the files for a build and for the index."""
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    named = {"CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
    wanted = {*sources, *named, *expected_files(cuda=False)} - {"mlloss_cuda/_C.so", "mlloss_cuda/_cpu.so"}
    written = {"PKG-INFO", "setup.cfg"}  # by setuptools, beside its egg-info
    with tarfile.open(distribution) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    files = {name for name in names - written if not name.startswith("mlloss_cuda.egg-info/")}
    found = [f"missing: {name}" for name in sorted(wanted - files)]
    found += [f"does not belong there: {name}" for name in sorted(files - wanted)]
    return found + [f"missing: {name}" for name in sorted(written - names)]


def wrong_metadata(metadata: object, version: str) -> list[str]:
    """Return the faults in name, version, licence, dependencies and extras."""
    get = metadata.get_all  # type: ignore[attr-defined]
    own = {line for line in get("Requires-Dist") if "extra ==" not in line}
    checks = {
        "Name": (get("Name"), ["mlloss-cuda"]),
        "Version": (get("Version"), [version]),
        "License-Expression": (get("License-Expression"), ["Apache-2.0"]),
        "Requires-Dist": (own, {"torch>=2.11", "typing-extensions>=4.10"}),
        "Provides-Extra": (EXTRAS & set(get("Provides-Extra")), EXTRAS),
    }
    return [f"{name}: expected {wanted}, got {got}" for name, (got, wanted) in checks.items() if got != wanted]


def main() -> int:
    """Print the faults; return True if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a wheel, or a source distribution (.tar.gz)")
    parser.add_argument("--without-cuda", action="store_true", help="the wheel was built where there is no nvcc")
    options = parser.parse_args()
    source = options.file.name.endswith(".tar.gz")
    found = problems_of_source(options.file) if source else problems(options.file, not options.without_cuda)
    print("\n".join(found) or f"{options.file.name}: contents as they must be")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
