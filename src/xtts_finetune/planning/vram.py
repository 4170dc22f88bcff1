"""A memory's size as it is typed. Without torch: a slip is told at once."""

import re

_UNITS = {"": 30, "g": 30, "gb": 30, "gib": 30, "m": 20, "mb": 20, "mib": 20}


def parsed_size(text: str) -> int:
    """Bytes of a size as cards have it on their boxes: 8GiB, 8GB and 8 are all 8 × 1024³.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(\d{1,7}(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    size = int(float(match[1]) * 2 ** _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if not size:
        raise ValueError(f"{text!r} is no size of a memory, as 8GiB is one")
    return size
