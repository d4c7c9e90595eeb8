"""Where a number comes from: the store, the split and the head it was taken of, as plain JSON.

Everything that a reader needs to take the number again, or to find out why theirs differs: hashes
of what was read, settings of what read it, and what of the split is not in it. Knows nothing of the
numbers, nor of the command that asked for them.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from muse.head.data import ALL_SPLITS, SplitSelection
from muse.head.evaluate import MEAN_POOL
from muse.head.run_files import CONFIG_FILE, HEAD_FILE, read_tensors
from muse.head.selection import read_selection
from muse.pipeline.records import Caption
from muse.pipeline.sealed_json import hash_of_json
from muse.pipeline.store import FeatureStore

IDS_LISTED = 100  # missing videos by name; a hash tells of all of them
PENDING = "pending"  # the store's extraction has not come to it
NO_CAPTION = "no caption embedded"
_NOT_QUOTED = ("golden", "files")  # long, and root_sha256 covers them
_OF_THE_RUN = ("head", "train", "view", "ran_on", "command", "versions")


def store_provenance(store: FeatureStore) -> dict[str, Any]:
    """Where a store is, hashes of all that is in it, and its header.

    ``root_sha256`` is over everything committed, ``timestamps_sha256`` over the frames that were
    really decoded; ``view`` is what the head read. The rest is `muse.pipeline.header.StoreHeader`:
    encoder, weights, precision, preprocessing, sampling, format, versions.
    """
    header = store.header.as_json()
    return {
        "location": store.location,
        "root_sha256": store.root_sha256,
        "timestamps_sha256": store.timestamps_sha256,
        "view": store.token_view,
        **{name: value for name, value in header.items() if name not in _NOT_QUOTED},
    }


def split_provenance(store: FeatureStore, selection: SplitSelection) -> dict[str, Any]:
    """Which videos and captions a split's numbers are of, by hash, and which are in none of them.

    A hash is over the canonical JSON of the list of ids, or of each caption's video, text, split
    and axis, in the order of the store's rows.

    Args:
        store: What the selection is of.
        selection: Of `muse.head.data.select_split`.
    """
    used = [store.video_ids[row] for row in selection.video_rows_V]
    captions = [store.captions[row] for row in selection.caption_rows_Q]
    listed = _listed_captions(store, selection.split)
    return {
        "name": selection.split,
        "num_videos": len(used),
        "num_videos_listed": selection.num_videos_listed,
        "num_captions": len(captions),
        "num_captions_listed": selection.num_captions_listed,
        "video_ids_sha256": hash_of_json(used),
        "captions_sha256": hash_of_json([caption.hashed for caption in captions]),
        "listed_captions_sha256": hash_of_json([caption.hashed for caption in listed]),
        "missing_videos": _missing_videos(store, used=set(used), listed=listed),
        "num_missing_captions": len(listed) - len(captions),
    }


def head_provenance(head: str) -> dict[str, Any]:
    """Which weights, how they were trained and chosen, and on what.

    Args:
        head: ``mean-pool``, of which there is nothing to say, or the folder of a run.

    Raises:
        CheckpointError: If a file of the run is damaged.
    """
    if head == MEAN_POOL:
        return {"name": head}
    run = Path(head)
    config = json.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))
    record = read_selection(run)
    _, metadata = read_tensors(run / HEAD_FILE)  # of a chosen epoch's weights there is no step
    step = record.chosen.step if record else int(metadata["step"]) if "step" in metadata else None
    return {
        "name": head,
        "folder": str(run.resolve()),
        "weights_sha256": hashlib.sha256((run / HEAD_FILE).read_bytes()).hexdigest(),
        "step": step,
        "selection": {**record.as_json(), "chosen_step": step} if record else None,
        "config": {name: config[name] for name in _OF_THE_RUN if name in config},
        "trained_on": {
            "split": config["train"].get("split"),
            "num_videos": config["num_videos"],
            "num_captions": config["num_captions"],
            "view": config["view"],
            "root_sha256": config["root_sha256"],
            "timestamps_sha256": config["timestamps_sha256"],
            "fingerprint": config["store"].get("fingerprint"),
            "protocol": config["store"]["protocol"],
        },
    }


def _listed_captions(store: FeatureStore, split: str) -> list[Caption]:
    return [caption for caption in store.captions if split in (ALL_SPLITS, caption.split)]


def _missing_videos(
    store: FeatureStore, *, used: set[str], listed: list[Caption]
) -> dict[str, Any]:
    """How many, why, and the first of them by name."""
    missing = [i for i in dict.fromkeys(caption.video_id for caption in listed) if i not in used]
    failed = {failure.video_id: failure.reason for failure in store.failures}
    there = {i for i, has in zip(store.video_ids, store.has_features_N, strict=True) if has}
    reasons = {i: failed.get(i, NO_CAPTION if i in there else PENDING) for i in missing}
    return {
        "count": len(missing),
        "by_reason": dict(sorted(Counter(reasons.values()).items())),
        "ids_sha256": hash_of_json(missing),
        "first": [{"video_id": i, "reason": reasons[i]} for i in missing[:IDS_LISTED]],
    }
