"""Results as files, for commands whose terminal output is for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Mapping[str, Any], *, flag: str = "--json") -> None:
    """The file that ``--json FILE`` asks for, in a folder that is made for it.

    Raises:
        UsageError: If it can't be written, naming the flag.
    """
    write_text(file, json.dumps(content, indent=1) + "\n", flag=flag)


def write_text(file: Path, text: str, *, flag: str) -> None:
    """The file that a flag asks for, in a folder that is made for it.

    Raises:
        UsageError: If it can't be written, naming the flag.
    """
    from muse.errors import UsageError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{flag} {file}: can't be written ({error.strerror}).") from error
