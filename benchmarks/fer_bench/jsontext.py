"""JSON that a person can read and a list of ten thousand times does not fill with lines."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# A line break never stands inside a JSON string, so what opens with one is a list and no text.
_NUMBERS = re.compile(r"\[\n\s*((?:[-+.\deE]+|null)(?:,\s+(?:[-+.\deE]+|null))*)\n\s*\]")


def json_text(content: Any) -> str:
    """Indented JSON, each list of numbers on one line. NaN and infinity, which JSON has not, become null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
