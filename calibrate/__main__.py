"""``python -m calibrate``: from measurements to prices."""

from __future__ import annotations

import sys

from calibrate.commands import main

sys.exit(main())
