"""Check a wheel that wheels.sh made: the library's platform, what it exports, what it needs of the system.

    python cpp_ops/check_wheel.py PLATFORM WHEEL

Prints a line; exits with 1 and says what is wrong otherwise. Needs `lief`, which reads ELF, PE and Mach-O.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import lief

# platform: machine, file, and the libraries that every such system has.
_GLIBC = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
_WINDOWS = re.compile(r"(kernel32|ntdll|msvcrt|ucrtbase|advapi32|api-ms-win-.*)\.dll", re.IGNORECASE)
_MAX_GLIBC = (2, 17)
# zig's linker for macOS takes no list of symbols: C++'s new and delete, which it links in, stay visible. They are weak,
# and do what those of every other library in the process do.
_TOLERATED_ON_MACOS = re.compile(r"_Zn[aw].*|_Zd[al].*|__dso_handle|_mh_dylib_header")
_EXPECTED = {
    "linux-x86_64": ("X86_64", "libmylinear_ort.so"),
    "linux-aarch64": ("AARCH64", "libmylinear_ort.so"),
    "windows-x86_64": ("AMD64", "libmylinear_ort.dll"),
    "macos-arm64": ("ARM64", "libmylinear_ort.dylib"),
    "macos-x86_64": ("X86_64", "libmylinear_ort.dylib"),
}


def exports_wanted() -> set[str]:
    """Return the names in exports.map."""
    text = (Path(__file__).parent / "exports.map").read_text()
    return set(re.findall(r"^ +(\w+);", text.split("local:")[0], re.MULTILINE))


def machine_of(binary: Any) -> str:
    """Return the machine's name as the file format has it."""
    header = binary.header
    found = getattr(header, "machine_type", None) or getattr(header, "machine", None) or header.cpu_type
    return str(found.name)


def complaints(platform: str, binary: Any) -> list[str]:
    """Return what is wrong with a library."""
    machine, _ = _EXPECTED[platform]
    found: list[str] = []
    if machine_of(binary) != machine:
        found.append(f"its machine must be {machine}, got {machine_of(binary)}")
    system = platform.split("-")[0]
    exported = {str(symbol.name).removeprefix("_" if system == "macos" else "") for symbol in exported_of(binary)}
    differing = exported ^ exports_wanted()
    if system == "macos":
        differing = {name for name in differing if not _TOLERATED_ON_MACOS.fullmatch(name)}
    if differing:
        found.append(f"it must export what exports.map lists, got {sorted(differing)} more or less")
    needed = {getattr(library, "name", library) for library in binary.libraries}
    if system == "linux":
        strange = {name for name in needed if name not in _GLIBC and not name.startswith("ld-linux")}
        versions = {
            tuple(map(int, name.removeprefix("GLIBC_").split(".")))
            for requirement in binary.symbols_version_requirement
            for name in (entry.name for entry in requirement.get_auxiliary_symbols())
            if re.fullmatch(r"GLIBC_[\d.]+", name)
        }
        if max(versions) > _MAX_GLIBC:
            found.append(f"it needs glibc {max(versions)}, the tag says {_MAX_GLIBC}")
    elif system == "windows":
        strange = {name for name in needed if not _WINDOWS.fullmatch(name)}
    else:
        own = "@rpath/libmylinear_ort.dylib"
        strange = {name for name in needed if not name.startswith("/usr/lib/") and name != own}
    if strange:
        found.append(f"it needs libraries that a user may not have: {', '.join(sorted(strange))}")
    return found


def exported_of(binary: Any) -> list[Any]:
    """Return the symbols or functions that a library exports."""
    if isinstance(binary, lief.ELF.Binary):
        return [symbol for symbol in binary.dynamic_symbols if symbol.exported]
    if isinstance(binary, lief.PE.Binary):
        return list(binary.exported_functions)
    return list(binary.exported_symbols)


def main() -> None:
    """Check one wheel."""
    platform, wheel = sys.argv[1:]
    _, name = _EXPECTED[platform]
    with zipfile.ZipFile(wheel) as files:
        libraries = [file for file in files.namelist() if re.search(r"libmylinear_ort\.\w+$", file)]
        if libraries != [f"ort_ops/{name}"]:
            sys.exit(f"{wheel}: it must have ort_ops/{name} alone, got {libraries}")
        content = files.read(libraries[0])
    binary = lief.parse(list(content))
    if isinstance(binary, lief.MachO.FatBinary):
        binary = binary.at(0)
    wrong = complaints(platform, binary)
    if wrong:
        sys.exit(f"{wheel}: {'; '.join(wrong)}")
    needed = sorted(str(getattr(library, "name", library)) for library in binary.libraries)
    print(f"{wheel}: {name} {len(content) / 2**20:.1f} MiB, needs {', '.join(needed)}")


if __name__ == "__main__":
    main()
