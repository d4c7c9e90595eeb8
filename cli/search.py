"""``muse search``: the videos of a store that a text describes best."""

from typing import TYPE_CHECKING, Annotated

import typer

from muse.cli.flags import (
    DeviceOption,
    EncodedOption,
    HeadOption,
    ScanFlag,
    ScanOption,
    StoreArgument,
    ViewOption,
)

if TYPE_CHECKING:
    from torch import Tensor

    from muse.pipeline.reencode import ReEncoder
    from muse.pipeline.store import FeatureStore


def search(
    store: StoreArgument,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    head: HeadOption = "mean-pool",
    k: Annotated[int, typer.Option("-k", min=1, help="How many videos to print.")] = 5,
    view: ViewOption = None,
    encoded: EncodedOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Print the videos nearest to a text."""
    import numpy as np

    from muse.cli.reencoded import store_of_head
    from muse.cli.report import print_line
    from muse.errors import StoreError, UsageError
    from muse.head.embeddings import embed_videos
    from muse.head.evaluate import open_head, rank_videos

    if not text.strip():
        raise UsageError("the text is empty. Write what to look for.")
    found_store = store_of_head(store, head, view, device=device, encoded=encoded)
    opened = found_store.store
    rows = np.flatnonzero(opened.has_features_N)
    if not len(rows):
        raise StoreError(f"{store}: no video has features yet. Run `muse extract` to the end.")
    opened_head, where = open_head(
        head,
        opened,
        device=device,  # type: ignore[arg-type]  # checked by open_head
        scan=scan.value,
        any_view=view is not None,
        own_encoder=found_store.own_encoder,
    )
    text_embedding = _embed_text(opened, text, device=device, own=found_store.encoder)
    videos = embed_videos(opened, rows, opened_head, device=where)
    found = rank_videos(text_embedding, videos, k)
    ids = [opened.video_ids[rows[answer.place]] for answer in found]
    if not as_json:
        print_line(
            f"{opened.header.protocol}: {len(rows)} of {len(opened.video_ids)} videos searched"
        )
    print_answers(ids, [answer.cosine for answer in found], as_json=as_json)


def _embed_text(
    store: "FeatureStore", text: str, *, device: str, own: "ReEncoder | None" = None
) -> "Tensor":
    """(D,) by a run's own text tower, or by the captions' encoder, checked to be the same."""
    import torch

    from muse.errors import StoreError
    from muse.head.reencoder import FINETUNED
    from muse.pipeline.derivation import derivation_of
    from muse.pipeline.encoders.base import build_encoder, resolve_device
    from muse.pipeline.golden import require_same_text
    from muse.pipeline.header import require_same_encoder

    made = own.encode_texts([text]) if own is not None else None
    if made is not None:
        return torch.from_numpy(made[0]).float()
    made_from = derivation_of(store)
    header = made_from.header if made_from and made_from.texts == "copied" else store.header
    info = header.encoder
    if info.spec.startswith(FINETUNED):
        raise StoreError(
            f"{store.location}: its texts are those of {info.spec}, and only that run can embed "
            "one. Name it with --head, and its store as `muse evaluate` left it."
        )
    encoder = build_encoder(info.spec, device=resolve_device(device), precision=info.precision)
    require_same_encoder(encoder.info, info, what="the encoder at hand")
    if header.golden is not None:
        require_same_text(encoder, header.golden, what=store.location)
    embedding = encoder.encode_texts([text], header.text_length)[0]
    return torch.from_numpy(embedding).float()


def print_answers(ids: list[str], cosines: list[float], *, as_json: bool) -> None:
    """Videos and their cosines, best first, as a table or as JSON lines."""
    from rich.table import Table
    from rich.text import Text

    from muse.cli.report import print_json_line, print_table

    answers = list(enumerate(zip(ids, cosines, strict=True), start=1))
    if as_json:
        for rank, (video_id, cosine) in answers:
            print_json_line({"rank": rank, "video_id": video_id, "cosine": round(cosine, 6)})
        return
    table = Table("rank", "video", "cosine")
    for rank, (video_id, cosine) in answers:
        # A file's name is no markup, whatever brackets it has.
        table.add_row(str(rank), Text(video_id), f"{cosine:.3f}")
    print_table(table)
