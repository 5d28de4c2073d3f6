"""Put onnxruntime's headers and library into a folder: ``python docs/examples/cpp/fetch.py build/onnxruntime``.

The headers are Debian's package of unstable, which apt fetches without installing it or changing the system's lists;
the library is that of the Python package, so that host and Python run the same. A newer onnxruntime keeps what older
headers declare.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime

PACKAGE = "libonnxruntime-dev"


def main(folder: Path) -> None:
    """Fill the folder's include/ and lib/."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing; where there is no apt, take the headers of a release of onnxruntime")
    include, lib = folder / "include", folder / "lib"
    if not (include / "onnxruntime_cxx_api.h").exists():
        with tempfile.TemporaryDirectory() as work:
            headers = fetch_headers(Path(work))
            shutil.copytree(headers, include, dirs_exist_ok=True)
    lib.mkdir(parents=True, exist_ok=True)
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (lib / name).unlink(missing_ok=True)
        (lib / name).symlink_to(library)


def fetch_headers(work: Path) -> Path:
    """Download the package by an apt with its own state, unpack it, and return the folder of headers."""
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "archives" / "partial").mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb {debian_mirror()} unstable main\n")
    settings = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "APT::Sandbox::User": "root",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    for command in (["apt-get", *options, "update"], ["apt-get", *options, "download", PACKAGE]):
        if subprocess.run(command, cwd=work, stdout=sys.stderr, check=False).returncode:
            sys.exit(f"apt-get could not fetch {PACKAGE}; its message is above")
    (package,) = work.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, work / "unpacked"], check=True)
    return work / "unpacked" / "usr" / "include" / "onnxruntime"


def debian_mirror() -> str:
    """Return the address of the Debian mirror that this system uses."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    for origin, codename, address in (line.split(" ", 2) for line in listed if line.count(" ") == 2):
        if origin == "Debian" and "-" not in codename:
            return address
    sys.exit("this system has no Debian mirror in its lists; run apt-get update, or take the headers of a release")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
