"""Run the `mylinear` command as ``python -m exporter``."""

import sys

from ort_ops.cli.main import main

sys.exit(main())
