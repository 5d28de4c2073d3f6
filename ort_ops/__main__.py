"""Run the `mylinear` command as ``python -m ort_ops``."""

import sys

from ort_ops.cli.main import main

sys.exit(main())
