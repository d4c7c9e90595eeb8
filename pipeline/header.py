"""What a store says of itself, and when two stores hold the same kind of features.

A header is written once, when the store is created, and enforced ever after: an extract run that
goes on, a head, an evaluation and a search compare it field by field before they touch a vector.
Knows nothing of files: ``store_writer`` writes it, ``store_zarr`` reads it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from muse.errors import IncompatibleStoreError, StoreError, UsageError
from muse.pipeline.sealed_json import hash_of_json

FORMAT_VERSION = 2
SamplingKind = Literal["uniform", "fps", "keyframes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which instants of a video are looked at."""

    kind: SamplingKind = "fps"
    """``uniform``: midpoints of T equal parts. ``fps``: a regular rate, then uniform to T.
    ``keyframes``: instead of each midpoint the keyframe that is nearest, which is quick to decode
    and another frame; of a file that names none as ``uniform``."""
    num_frames: int = 12
    """T, the most frames a video can have; MUSE uses 12 on MSR-VTT."""
    fps: float = 1.0
    """Frames a second before the cut to T, of ``fps``; the others take none."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind):
            raise UsageError(f"sampling {self.kind!r}: choose one of {get_args(SamplingKind)}")
        if self.num_frames < 1:
            raise UsageError(f"num_frames {self.num_frames}: at least 1 frame a video is needed")
        if not 0 < self.fps <= 1000:
            raise UsageError(
                f"fps {self.fps}: choose a rate above 0 and up to 1000 frames a second"
            )
        if self.kind != "fps" and self.fps != 1.0:
            # It would be part of the fingerprint and change nothing.
            raise UsageError(f"fps {self.fps}: sampling {self.kind!r} takes no rate; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How an RGB frame becomes an encoder's input: the weights' own, nothing of ours."""

    size: int
    """Side of the square input, pixels."""
    resize_to: int
    """Length the shorter side is resized to before the centre crop, pixels."""
    interpolation: Literal["bicubic", "bilinear"]
    """PIL's antialiased filter."""
    mean: tuple[float, float, float]
    """Subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float]
    """Divided by, after the mean."""
    resize: Literal["pil"] = "pil"
    """Which implementation of the filter: no two give the same pixels."""

    @property
    def kept_side(self) -> int:
        """S, pixels of the squares that views of frames keep: 8/7 of ``size``, even; 256 of 224."""
        return 2 * round(self.size * 4 / 7)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderInfo:
    """An image-text encoder, as far as its features depend on it."""

    spec: str
    """What ``--encoder`` takes, such as ``openclip:ViT-B-32-quickgelu/openai``."""
    weights_sha256: str
    """Over the names, shapes, dtypes and bytes of all weights, as loaded."""
    dim: int
    """D, width of the joint space."""
    tokens_per_frame: int
    """K = 1 + P, class token first."""
    grid: int
    """G, patches along one side; P = G * G."""
    width: int
    """W, width of the tokens before the projection."""
    num_blocks: int
    """Blocks of the image transformer; 0 where the image tower is none."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Of the matrix products; what is stored is float16 always."""
    logit_scale: float
    """Natural logarithm of the factor on the cosine; where a head's own begins."""
    preprocessing: Preprocessing
    token_layout: Literal["class-first"] = "class-first"
    """Class token, then the patches in raster order, none normalised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What the encoder made of muse's built-in clip and caption: base64 of little-endian float16.

    Compared at every start, so that a library that changes features is caught before it writes.
    """

    class_token: str
    """(D,) of the built-in frame."""
    mean_patch: str
    """(D,) mean of the frame's patch tokens."""
    text: str
    """(D,) of the built-in caption."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far a run's features were from those of the encoder's own library, on its first frames.

    The library's: PIL's resize and crop, and its own forward pass in float32, eager, on a CPU. What
    they are compared with is float16, as a store has it (`muse.pipeline.parity`).
    """

    num_videos: int
    num_frames: int
    """Of these videos."""
    device: str
    """Of the run: ``cpu`` or ``cuda``."""
    pixels: float
    """Mean distance of the encoder's input, in levels of 1/255; 0 where each pixel is the same."""
    class_token_mean: float
    """Cosine, mean over the frames."""
    class_token_min: float
    patch_tokens_mean: float
    """Cosine, mean over all patches of all frames."""
    patch_tokens_min: float
    cosine_limit: float
    """That ``class_token_min`` and ``patch_tokens_mean`` had to reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """All that decides what the rows of a store are and mean."""

    encoder: EncoderInfo
    sampling: Sampling
    protocol: str
    """The listing's label, such as ``MSVD test``."""
    num_videos: int
    """N, listed videos; failed ones keep their row, empty."""
    num_captions: int
    """Q."""
    shard_size: int
    """Videos a shard: the unit of work, of resumption and of writing."""
    batch_videos: int
    """Videos a forward pass; a video's place in its batch is fixed, so its bits are."""
    listing_sha256: str
    """Over the ids of the videos and over the captions, in row order."""
    views: tuple[str, ...] = ("tokens",)
    """What is kept of each video, by the names that ``--views`` takes (`muse.pipeline.views`)."""
    text_length: int | None = None
    """Tokens at which captions are cut, start and end included; None: at the encoder's limit."""
    golden: Golden | None = None
    """None in stores that tests make without an encoder."""
    parity: Parity | None = None
    """Of the run that created the store; None where it had no frame to encode, in stores that were
    encoded from others, and in those of a muse that measured none."""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """Of the packages that the store was created with; not part of the fingerprint."""
    thumbnail_side: int = 0
    """Pixels of the shorter edge of the pictures for people; 0 in a store without any."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the tables and of each ``zarr.json``, by name; none while the store grows."""
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """A hash of what a vector's meaning depends on: encoder, sampling and format."""
        parts = {
            "encoder": dataclasses.asdict(self.encoder),
            "sampling": dataclasses.asdict(self.sampling),
            "format_version": self.format_version,
        }
        return hash_of_json(parts)

    def as_json(self) -> dict[str, Any]:
        """The content of ``store.json``; what a store may lack only where there is any."""
        content = {**dataclasses.asdict(self), "fingerprint": self.fingerprint}
        if self.text_length is None:
            del content["text_length"]
        if not self.thumbnail_side:
            del content["thumbnail_side"]
        if self.parity is None:
            del content["parity"]
        return content


def header_from_json(content: object, *, source: str) -> StoreHeader:
    """The header that `StoreHeader.as_json` wrote.

    Raises:
        StoreError: If a field is missing, unknown or of another format version, with its name.
    """
    fields = dict(_mapping(content, source=source))
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{source}: format version {version!r}, this muse reads {FORMAT_VERSION}. "
            "Install the muse that wrote it, or extract into another --out."
        )
    fields.pop("fingerprint", None)
    try:
        encoder = dict(_mapping(fields.pop("encoder"), source=source))
        crop = dict(_mapping(encoder.pop("preprocessing"), source=source))
        crop["mean"], crop["std"] = tuple(crop["mean"]), tuple(crop["std"])
        sampling = Sampling(**_mapping(fields.pop("sampling"), source=source))
        golden = fields.pop("golden")
        fields["golden"] = golden and Golden(**_mapping(golden, source=source))
        if "parity" in fields:
            fields["parity"] = Parity(**_mapping(fields["parity"], source=source))
        fields["views"] = tuple(fields["views"])
        info = EncoderInfo(**encoder, preprocessing=Preprocessing(**crop))
        return StoreHeader(**fields, encoder=info, sampling=sampling)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{source}: not a store header ({error}). Extract into another --out."
        ) from error


def require_same_features(found: StoreHeader, wanted: StoreHeader, *, what: str) -> None:
    """Nothing, if both headers describe the same kind of features.

    Args:
        found: Of the store at hand.
        wanted: Of the store that the run or the head was made for.
        what: The store at hand, for the message.

    Raises:
        IncompatibleStoreError: Naming the first field that differs and both its values.
    """
    for name in ("encoder", "sampling", "format_version"):
        _require_equal(
            name,
            getattr(found, name),
            getattr(wanted, name),
            what=what,
            advice="Use the store it was made for, or extract one with that setting.",
        )


def require_same_encoder(found: EncoderInfo, wanted: EncoderInfo, *, what: str) -> None:
    """Nothing, if two encoders give the same features.

    Raises:
        IncompatibleStoreError: Naming the first field that differs and both its values.
    """
    _require_equal(
        "encoder",
        found,
        wanted,
        what=what,
        advice="Use the weights and the precision of the store, or extract into another --out.",
    )


def _require_equal(prefix: str, found: object, wanted: object, *, what: str, advice: str) -> None:
    right = flat_fields(prefix, wanted)
    for name, value in flat_fields(prefix, found).items():
        if value != right.get(name):
            raise IncompatibleStoreError(
                f"{what}: {name} is {value!r}, but {right.get(name)!r} is needed. {advice}"
            )


def flat_fields(prefix: str, value: object) -> dict[str, object]:
    """The leaves of a dataclass by dotted name; the value itself under the prefix if it is none."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {prefix: value}
    return dict(_leaves(prefix, dataclasses.asdict(value)))


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, value


def _mapping(value: object, *, source: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StoreError(f"{source}: expected an object, found {type(value).__name__}.")
    return cast("Mapping[str, Any]", value)
