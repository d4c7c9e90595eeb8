"""What papers report for the protocols that muse can evaluate: data, each row with its source.

Kept as printed, to one decimal; what we could not check against a second copy is left out rather
than remembered. Another setting than a head on frozen features: these methods fine-tune CLIP
ViT-B/32 with the head, and take the epoch that is best on the test set. Knows nothing of stores.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SETTING = (
    "Published rows: CLIP ViT-B/32 fine-tuned together with the head, single runs, the best epoch "
    "on the test set. A head on frozen features is another setting: expect less of it."
)
_SUMMED = ("R@1", "R@5", "R@10")
_CLIP4CLIP = "Luo et al., arXiv 2104.08860"
_MUSE = "Tang et al., arXiv 2408.10575"
_QUOTED = "as quoted by Jiang et al., arXiv 2211.09623"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One method on one protocol."""

    method: str
    source: str
    """Where the numbers were read, a phrase."""
    text_to_video: Mapping[str, float]
    """Percent and ranks by the names of `DirectionNumbers.as_json`; what is not known is not
    there."""
    video_to_text: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedProtocol:
    """One test set, and who reports it."""

    title: str
    """Of the benchmark, as `muse.pipeline.datasets` writes it."""
    split: str
    num_videos: int
    """N of the literature: the gallery of text to video."""
    num_captions: int
    rows: tuple[PublishedRow, ...]
    remark: str = ""
    """What is missing, a sentence."""

    def is_of_size(self, *, num_videos: int, num_captions: int) -> bool:
        """Whether an evaluation had as many videos and captions as the papers'."""
        return (num_videos, num_captions) == (self.num_videos, self.num_captions)


def published_protocol(protocol: str, split: str) -> PublishedProtocol | None:
    """Who reports a split of a store's protocol; None where we have nobody's numbers.

    Args:
        protocol: Of the store's header: benchmarks and their splits, such as ``MSVD train+test``
            or ``MSR-VTT 1k-A train + MSR-VTT full test-full``.
        split: What was evaluated.
    """
    for part in protocol.split(" + "):
        title, _, splits = part.rpartition(" ")
        for known in PUBLISHED:
            if (title, split) == (known.title, known.split) and split in splits.split("+"):
                return known
    return None


def _numbers(
    *recalls: float, mdr: float | None = None, mnr: float | None = None
) -> dict[str, float]:
    """R@1, R@5 and R@10, the ranks that are known, and Rsum where all three recalls are."""
    found = dict(zip(_SUMMED, recalls, strict=False))
    if mdr is not None:
        found["MdR"] = mdr
    if mnr is not None:
        found["MnR"] = mnr
    if len(recalls) == len(_SUMMED):
        found["Rsum"] = sum(recalls)
    return found


PUBLISHED: tuple[PublishedProtocol, ...] = (
    PublishedProtocol(
        title="MSR-VTT 1k-A",
        split="test",
        num_videos=1000,
        num_captions=1000,
        rows=(
            PublishedRow(
                method="MUSE",
                source=f"{_MUSE}, depth 4; median ranks and video to text from the training log "
                "of its code, epoch 2",
                text_to_video=_numbers(44.8, 71.6, 82.1, mdr=2.0, mnr=15.6),
                video_to_text=_numbers(44.9, 70.8, 82.2, mdr=2.0, mnr=11.4),
            ),
            PublishedRow(
                method="CLIP4Clip, mean pooling",
                source=f"{_CLIP4CLIP}, 9k training videos, {_QUOTED}, Table 4",
                text_to_video=_numbers(43.1, 70.4, 80.8, mdr=2.0, mnr=16.2),
                video_to_text=_numbers(43.1, 70.5, 81.2, mnr=12.4),
            ),
        ),
    ),
    PublishedProtocol(
        title="MSVD",
        split="test",
        num_videos=670,
        num_captions=27763,
        rows=(
            PublishedRow(
                method="CLIP4Clip, mean pooling",
                source=f"{_CLIP4CLIP}, {_QUOTED}, Tables 1 and 3",
                text_to_video=_numbers(46.2, 76.1, 84.6, mnr=10.0),
                video_to_text=_numbers(56.6, 79.7, 84.3, mnr=7.6),
            ),
        ),
        remark="MUSE's paper has no row of this protocol.",
    ),
    PublishedProtocol(
        title="DiDeMo (paragraph)",
        split="test",
        num_videos=1004,
        num_captions=1004,
        rows=(
            PublishedRow(
                method="CLIP4Clip, mean pooling",
                source=f"{_CLIP4CLIP}, {_QUOTED}, Tables 1 and 3",
                text_to_video=_numbers(43.4, 70.2, 80.6, mdr=2.0, mnr=17.5),
                video_to_text=_numbers(42.5, 70.6, 80.2, mnr=11.6),
            ),
        ),
        remark="MUSE's paper has a row of this protocol, which muse does not keep yet.",
    ),
    PublishedProtocol(
        title="ActivityNet Captions (paragraph, val1)",
        split="test",
        num_videos=4917,
        num_captions=4917,
        rows=(
            PublishedRow(
                method="CLIP4Clip, mean pooling",
                source=f"{_CLIP4CLIP}; other numbers are left out, because copies of them differ",
                text_to_video=_numbers(40.5, mdr=2.0),
                video_to_text={},
            ),
        ),
        remark="MUSE's paper has a row of this protocol, which muse does not keep yet.",
    ),
)
