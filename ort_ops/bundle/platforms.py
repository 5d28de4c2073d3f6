"""Names of platforms, and which one a shared library is for."""

from __future__ import annotations

import platform
import struct
import sys

PLATFORMS = ("linux-x86_64", "linux-aarch64", "macos-arm64", "macos-x86_64", "windows-x86_64", "windows-arm64")
_SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}
_ELF_MACHINES = {62: "linux-x86_64", 183: "linux-aarch64"}
_MACH_MACHINES = {0x01000007: "macos-x86_64", 0x0100000C: "macos-arm64"}
_MACH_SEGMENT = 0x19
_PE_MACHINES = {0x8664: "windows-x86_64", 0xAA64: "windows-arm64"}


def this_platform() -> str:
    """Return the name of this machine's platform; one that has no name here is called as Python calls it."""
    system = _SYSTEMS.get(sys.platform, sys.platform)
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    return f"{system}-{'aarch64' if (system, machine) == ('linux', 'arm64') else machine}"


def platforms_of(head: bytes) -> tuple[str, ...]:
    """Return the platforms that a library is for, by its first kilobyte; none for what is no library.

    >>> platforms_of(b"\\x7fELF\\x02\\x01" + bytes(12) + b"\\x3e\\x00" + bytes(8)), platforms_of(b"text")
    (('linux-x86_64',), ())
    """
    found: str | None = None
    if head[:6] == b"\x7fELF\x02\x01" and len(head) >= 20:
        found = _ELF_MACHINES.get(struct.unpack_from("<H", head, 18)[0])
    elif head[:4] == b"\xcf\xfa\xed\xfe" and len(head) >= 8:
        found = _MACH_MACHINES.get(struct.unpack_from("<I", head, 4)[0])
    elif head[:4] == b"\xca\xfe\xba\xbe" and len(head) >= 8:
        count = min(struct.unpack_from(">I", head, 4)[0], (len(head) - 8) // 20)
        machines = [struct.unpack_from(">I", head, 8 + 20 * index)[0] for index in range(count)]
        return tuple(_MACH_MACHINES[machine] for machine in machines if machine in _MACH_MACHINES)
    elif head[:2] == b"MZ" and len(head) >= 64:
        at = struct.unpack_from("<I", head, 60)[0]
        if head[at : at + 4] == b"PE\0\0" and len(head) >= at + 6:
            found = _PE_MACHINES.get(struct.unpack_from("<H", head, at + 4)[0])
    return () if found is None else (found,)


def needed_nbytes(head: bytes) -> int:
    """Return how many bytes a library has at least, as its headers say; 0 for what is no library.

    A process that loads a library which is cut off ends by a signal, when it reads what is not there.
    """
    ends = [0]
    try:
        if head[:6] == b"\x7fELF\x02\x01":
            programs, sections = struct.unpack_from("<QQ", head, 32)
            size, count, section_size, num_sections = struct.unpack_from("<4H", head, 54)
            ends.append(sections + section_size * num_sections)
            for at in range(programs, programs + size * count, size):
                ends.append(struct.unpack_from("<Q", head, at + 8)[0] + struct.unpack_from("<Q", head, at + 32)[0])
        elif head[:4] == b"\xcf\xfa\xed\xfe":
            at = 32
            for _ in range(struct.unpack_from("<I", head, 16)[0]):
                kind, size = struct.unpack_from("<II", head, at)
                if kind == _MACH_SEGMENT:
                    ends.append(sum(struct.unpack_from("<QQ", head, at + 40)))
                at += size
        elif head[:2] == b"MZ":
            at = struct.unpack_from("<I", head, 60)[0]
            count, size = struct.unpack_from("<H", head, at + 6)[0], struct.unpack_from("<H", head, at + 20)[0]
            for section in range(at + 24 + size, at + 24 + size + 40 * count, 40):
                ends.append(sum(struct.unpack_from("<II", head, section + 16)))
    except struct.error:  # headers that go on beyond the head tell enough
        pass
    return max(ends)
