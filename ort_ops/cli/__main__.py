"""Run the command line as ``python -m``."""

import sys

from ort_ops.cli.main import main

sys.exit(main())
