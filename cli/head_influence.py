"""``muse head influence``: what of a video a trained head looks at."""

from typing import TYPE_CHECKING, Annotated

import typer

from muse.cli.evaluated import open_head_on
from muse.cli.flags import (
    DeviceOption,
    EncodedOption,
    ScanFlag,
    ScanOption,
    StoreArgument,
    ViewOption,
)

if TYPE_CHECKING:
    from rich.table import Table

    from muse.head.influence import GradientShares, TokenShare
    from muse.head.scale_removal import How, RecallChange, RemovalReport

HARDLY = 0.001  # a share that the words call so: a thousandth of the squared gradient
ERRORS_OF_A_CHANGE = 2.0  # a smaller change of recall may be the choice of videos


def influence(
    store: StoreArgument,
    head: Annotated[str, typer.Option("--head", help="Run folder of `muse train-head`.")],
    split: Annotated[str, typer.Option(help="Whose videos; all for every split.")] = "test",
    videos: Annotated[
        int, typer.Option(help="At most this many for the gradients; recall takes the split.")
    ] = 256,
    probes: Annotated[int, typer.Option(help="Random directions a video, at least 2.")] = 4,
    seed: Annotated[int, typer.Option(help="Of videos, probes and foreign cells.")] = 0,
    view: ViewOption = None,
    encoded: EncodedOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line instead of tables.")] = False,
) -> None:
    """Print how much each scale has of the embedding's gradient, and recall at 1 without it."""
    from muse.cli.report import print_json_line, print_line, print_table
    from muse.head.influence import split_shares
    from muse.head.scale_removal import recalls_without_scales

    found = open_head_on(store, head, view=view, device=device, scan=scan, encoded=encoded)
    opened, where = found.store, found.device
    shares = split_shares(
        opened,
        found.head,
        split=split,
        num_videos=videos,
        num_probes=probes,
        seed=seed,
        device=where,
    )
    report = recalls_without_scales(opened, found.head, split=split, seed=seed, device=where)
    if as_json:
        content = {"head": head, "protocol": opened.header.protocol, "split": split, "seed": seed}
        print_json_line({**content, "gradient": shares.as_json(), "recall": report.as_json()})
        return
    print_line(
        f"{opened.header.protocol}, split {split}: {report.num_videos} videos, "
        f"{report.num_captions} captions; head {head}. R@1 {report.text_to_video:.1f} text to "
        f"video, {report.video_to_text:.1f} video to text"
    )
    print_table(scale_table(shares, report))
    print_table(distance_table(shares))
    print_line(
        f"Gradients of {shares.num_videos} videos, {shares.num_probes} probes each. Zeroed: the "
        "scale's tokens are zeros; foreign: they are another video's. Distance: places from the "
        "nearest one where a frame is read."
    )
    for sentence in sentences(shares, report):
        print_line(sentence)


def scale_table(shares: "GradientShares", report: "RemovalReport") -> "Table":
    """A row for the class tokens, one a scale, one for all scales."""
    from rich.table import Table

    from muse.head.scale_removal import ALL_SCALES

    table = Table(
        "tokens of", "a video", "gradient", "each",
        "t2v R@1 zeroed", "foreign", "v2t R@1 zeroed", "foreign",
    )  # fmt: skip
    table.add_row(*_share_cells(shares.by_scale[0]), *(["-"] * 4))
    for share in shares.by_scale[1:]:
        table.add_row(*_share_cells(share), *_recall_cells(report, share.name))
    percent = percent_text(shares.share_of_scales)
    table.add_row(ALL_SCALES, "", percent, "", *_recall_cells(report, ALL_SCALES))
    return table


def distance_table(shares: "GradientShares") -> "Table":
    """A row for each range of distance in which there is a token of a scale."""
    from rich.table import Table

    table = Table("distance", "tokens", "gradient", "each")
    for share in shares.by_distance:
        if share.num_tokens:
            table.add_row(*_share_cells(share))
    return table


def sentences(shares: "GradientShares", report: "RemovalReport") -> list[str]:
    """What the numbers say of each scale, in words."""
    removed: tuple[tuple[How, str], ...] = (
        ("zeroed", "without it"),
        ("foreign", "with another video's"),
    )
    found = []
    for share in shares.by_scale[1:]:
        verb = "hardly feels" if share.share < HARDLY else "feels"
        recalls = [
            f"{words} R@1 text to video {change_text(report.of(share.name, how).text_to_video)}"
            for how, words in removed
        ]
        found.append(
            f"The embedding {verb} {share.name}: {percent_text(share.share)} of its squared "
            f"gradient; {'; '.join(recalls)}."
        )
    return found


def change_text(change: "RecallChange") -> str:
    """``is the same``, or by how much it changes, and whether that may be the choice of videos."""
    if change.change == 0:
        return "is the same"
    verb = "falls" if change.change < 0 else "rises"
    text = f"{verb} by {abs(change.change):.2g} ± {change.standard_error:.2g}"
    is_clear = abs(change.change) > ERRORS_OF_A_CHANGE * change.standard_error
    return text if is_clear else f"{text}, which may be chance"


def percent_text(share: float) -> str:
    """``12.3 %``, ``0.0012 %``, ``3e-17 %``: two digits or more, however small."""
    percent = 100 * share
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _share_cells(share: "TokenShare") -> list[str]:
    error = f" ± {percent_text(share.standard_error)}" if share.standard_error else ""
    each = percent_text(share.share_per_token)
    return [share.name, f"{share.num_tokens:.0f}", percent_text(share.share) + error, each]


def _recall_cells(report: "RemovalReport", scale: str) -> list[str]:
    """Text to video, zeroed and foreign, then video to text."""
    removed = [report.of(scale, "zeroed"), report.of(scale, "foreign")]
    changes = [one.text_to_video for one in removed] + [one.video_to_text for one in removed]
    return [f"{one.recall_at_1:.1f} ({one.change:+.1f})" for one in changes]
