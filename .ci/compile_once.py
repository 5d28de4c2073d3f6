#!/usr/bin/env python3
"""Compile the same C++ once in a run of .ci/run: a launcher for CMake, CMAKE_CXX_COMPILER_LAUNCHER.

Several builds have the same code: the install, the C++ tests, the CUDA check, the wheel. All but the first get its
object. Code is the same where compiler and flags are, those for the preprocessor apart, and what the preprocessor makes
of the source. An object is kept only if its compiler had nothing to say, so that -Werror makes no difference. An object
that notes lines and paths of the source, for a sanitizer or a debugger, is compiled each time. MYLINEAR_OBJECTS is the
folder of the objects.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PREPROCESSOR = ("-D", "-U", "-I", "-M")
WITH_VALUE = ("-o", "-MF", "-MT", "-MQ", "-D", "-U", "-I", "-isystem", "-include")


def main(command: list[str]) -> int:
    """Run the compiler, or copy what it made of the same code before; return the exit status."""
    notes_lines = any(word.startswith(("-g", "-fsanitize")) for word in command)
    if "-c" not in command or "-o" not in command or notes_lines or "MYLINEAR_OBJECTS" not in os.environ:
        return subprocess.call(command)
    at = command.index("-o") + 1
    output = Path(command[at])
    text = output.with_suffix(".preprocessed")
    # With all its flags, so that the file of dependencies is written too.
    done = subprocess.run([*command[:at], text, *command[at + 1 :], "-E", "-P"], capture_output=True)
    if done.returncode != 0 or done.stderr:
        text.unlink(missing_ok=True)
        return subprocess.call(command)
    compiler = Path(shutil.which(command[0]) or command[0]).resolve()
    key = hashlib.sha256(repr((str(compiler), compiler.stat().st_mtime_ns, flags(command))).encode())
    key.update(text.read_bytes())
    text.unlink()
    kept = Path(os.environ["MYLINEAR_OBJECTS"], key.hexdigest())
    if kept.exists():
        shutil.copyfile(kept, output)
        return 0
    done = subprocess.run(command, stderr=subprocess.PIPE)
    sys.stderr.buffer.write(done.stderr)
    if done.returncode == 0 and not done.stderr:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.copyfile(output, part)
        part.replace(kept)
    return done.returncode


def flags(command: list[str]) -> list[str]:
    """Return the words that change what becomes of preprocessed source, in their order."""
    source, found = command[command.index("-c") + 1], []
    words = iter(command[1:])
    for word in words:
        if word in WITH_VALUE:
            next(words)
        elif word not in ("-Werror", source) and not word.startswith(PREPROCESSOR):
            found.append(word)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
