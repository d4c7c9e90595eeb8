"""Results as a JSON file, for commands whose terminal output is for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """The file that ``--json FILE`` asks for, in a folder that is made for it.

    Raises:
        UsageError: If it can't be written.
    """
    from muse.errors import UsageError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {file}: can't be written ({error.strerror}).") from error
