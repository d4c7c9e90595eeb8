"""Receipts: the proof that a shard is committed, and the only one that counts.

A receipt is written after the files it speaks of, under a temporary name and then renamed. Knows
nothing of how arrays lie on disk.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from muse.errors import StoreError
from muse.pipeline.records import Failure

RECEIPTS_FOLDER = "receipts"
ReceiptKind = Literal["videos", "captions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Proof that a shard is committed, and what it holds."""

    kind: ReceiptKind
    index: int
    first_row: int
    num_rows: int
    failures: tuple[tuple[int, Failure], ...]
    """(row, failure) of the rows that stay empty."""
    sha256: dict[str, str]
    """Of each file the shard wrote, by its path in the store."""

    def as_json(self) -> dict[str, Any]:
        """The content of the receipt's file."""
        failures = [{"row": row, **failure.as_json()} for row, failure in self.failures]
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "failures"}
        return {**plain, "failures": failures}


def read_receipts(store_path: Path, kind: ReceiptKind) -> list[Receipt]:
    """Of all committed shards of a store, in order.

    Raises:
        StoreError: If one can't be read.
    """
    files = sorted((store_path / RECEIPTS_FOLDER).glob(f"{kind}-*.json"))
    return [_read_receipt(file) for file in files]


def write_receipt(store_path: Path, receipt: Receipt) -> None:
    """Commits a shard."""
    name = f"{receipt.kind}-{receipt.index:05d}.json"
    write_json(store_path / RECEIPTS_FOLDER / name, receipt.as_json())


def write_json(path: Path, content: object) -> None:
    """Writes a file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read_receipt(file: Path) -> Receipt:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        failures = tuple(
            (failure.pop("row"), Failure(**failure)) for failure in fields.pop("failures")
        )
        return Receipt(**fields, failures=failures)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{file}: not a receipt ({error}). Remove it, and `muse extract` writes its shard "
            "again."
        ) from error
