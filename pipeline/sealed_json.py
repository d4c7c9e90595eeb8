"""JSON files that carry a hash of their own content, so that a flipped bit in one is noticed.

Knows nothing of what the files say.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SEAL = "seal_sha256"


def sealed_bytes(content: Mapping[str, Any]) -> bytes:
    """The content of a file: sorted keys, a line each, with the seal among them."""
    return json_bytes({**content, _SEAL: hash_of_json(content)})


def unsealed(content: bytes) -> dict[str, Any]:
    """What `sealed_bytes` was given.

    Raises:
        ValueError: If it is no JSON object, has no seal, or is not what was sealed.
    """
    fields = json.loads(content)
    if not isinstance(fields, dict) or _SEAL not in fields:
        raise ValueError(f"no {_SEAL} in it")
    del fields[_SEAL]
    if sealed_bytes(fields) != content:  # also where a flipped bit leaves the same value, e and E
        raise ValueError(f"its content is not what {_SEAL} says")
    return fields


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A JSON object with sorted keys, one a line."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, sort_keys=True)}"
        for key, value in sorted(content.items())
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def hash_of_json(content: object) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
