"""How modules of transformers are called, by which attacks and baselines find them: ``blocks.0``, ``layers.3``."""

from __future__ import annotations

import re

_PLACE = r"(^|\.)(blocks|layers|layer|h)\.\d+"
BLOCK = re.compile(_PLACE + "$")
"""The name of a block."""
INSIDE_BLOCK = re.compile(_PLACE + r"\.")
"""The name of something inside of one."""
