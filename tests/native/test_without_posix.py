"""What Windows lacks of Python's library, taken away here: the serving side and the command must not need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

# "Availability: Unix" in Python's documentation, as far as a program like this one would use it.
_TAKE_AWAY = """
import os, signal, sys

for name in ("register_at_fork", "fork", "chown", "mkfifo", "set_blocking", "O_NONBLOCK", "O_CLOEXEC", "getuid",
             "geteuid", "sched_getaffinity", "statvfs"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGALRM", "SIGUSR1", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
"""
_RUN = """
import numpy as np
import ort_ops
from ort_ops import python_kernels
from ort_ops.cli.main import main

model, data, output = sys.argv[1:]

@ort_ops.python_kernel("my.domain::Double")
def double(x: ort_ops.Float) -> ort_ops.Float:
    return x + x


session = ort_ops.InferenceSession(model)
x = np.load(data)
np.save("session.npy", session.run(None, {session.get_inputs()[0].name: x})[0])
sys.exit(main(["run", model, "--input", data, "--output", output]))
"""


def test_a_model_runs(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "models" / "linear.onnx"
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((5, 2)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _TAKE_AWAY + _RUN, str(model), "x.npy", "y.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.load(tmp_path / "session.npy"))
