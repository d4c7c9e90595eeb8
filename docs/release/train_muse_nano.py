"""Trains muse-nano, the CLIP that comes with muse, on still frames of the made world.

Two losses. A frame and a sentence about that frame: CLIP's (Radford et al. 2021, fig. 3). Two ways
to say one fact, against other facts, the opposite answers among them: language alone, which is how
the text tower learns to tell sentences about time apart; no frame is ever aligned to one of those.
Only compositions of the training split are shown or spoken of.

Usage: python docs/release/train_muse_nano.py OUT [--steps 3000] [--stills 160000] [--seed 0]
writes OUT/muse-nano.safetensors and OUT/training.jsonl; needs a GPU, and about as much memory on
it as the stills take (150 kB each).
"""

# Legend: N stills, M facts, C captions of each, L tokens of a caption, B batch, D joint width.

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import AXES
from muse.pipeline.world.frames import draw
from muse.pipeline.world.grammar import captions_of
from muse.pipeline.world.stills import still_caption
from muse.pipeline.world.stories import contrast_group
from muse.pipeline.world.things import Split

NAME = "muse-nano"
CAPTIONS = 4
STILLS_PER_STORY = 2
BATCH = 1024
PEAK_LR, WEIGHT_DECAY, WARMUP = 1e-3, 0.1, 500
NUM_HELD_OUT = 1000
CHUNK = 500  # stills, or facts, that one call of a worker makes
MAX_LOGIT_SCALE = math.log(100)  # CLIP sec. 2.5
LOG_EVERY = 250
Arrays = dict[str, np.ndarray]


# --- what it is trained on ---------------------------------------------------------------------


def stills_of(chunk: int, *, split: Split, seed: int) -> Arrays:
    """``CHUNK`` frames and ``CAPTIONS`` sentences about each, as tokens."""
    dice = Dice("stills", split, seed, chunk)
    frames: list[np.ndarray] = []
    sentences: list[str] = []
    while len(frames) < CHUNK:
        for _, scene in contrast_group(dice.pick(AXES), split, dice):
            for _ in range(STILLS_PER_STORY):
                moment = dice.between(0, 999) / 1000
                captions = [still_caption(scene, moment, dice) for _ in range(CAPTIONS)]
                if all(captions) and len(frames) < CHUNK:
                    frames.append(draw(scene, moment))
                    sentences += captions
    return {"frames": np.stack(frames), "captions": tokenised(sentences)}


def facts_of(chunk: int, *, split: Split, seed: int) -> Arrays:
    """``CHUNK`` facts said in ``CAPTIONS`` ways each, contrast groups together."""
    dice = Dice("facts", split, seed, chunk)
    sentences: list[str] = []
    while len(sentences) < CHUNK * CAPTIONS:
        for fact, _ in contrast_group(dice.pick(AXES), split, dice):
            sentences += captions_of(fact, dice, CAPTIONS)
    return {"captions": tokenised(sentences[: CHUNK * CAPTIONS])}


def tokenised(sentences: list[str]) -> np.ndarray:
    """(len / C, C, L) int32."""
    tokens = open_clip.get_tokenizer(NAME)(sentences).numpy().astype(np.int32)
    return tokens.reshape(-1, CAPTIONS, tokens.shape[-1])


def gathered(
    pool: ProcessPoolExecutor, make: Callable[[int], Arrays], num_items: int, device: str
) -> dict[str, Tensor]:
    """The arrays of all chunks on the device."""
    parts: dict[str, list[Tensor]] = {}
    for arrays in pool.map(make, range(math.ceil(num_items / CHUNK))):
        for name, array in arrays.items():
            parts.setdefault(name, []).append(torch.from_numpy(array).to(device))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def register() -> None:
    """Makes the model's configuration known to open_clip in this process."""
    import muse.pipeline.encoders as encoders

    open_clip.add_model_config(Path(encoders.__path__[0]) / "nano")


# --- the training ------------------------------------------------------------------------------


def normalised(frames_BHWC: Tensor, *, augment: bool) -> Tensor:
    """(B, 3, H, W) as the weights will get it; augmented frames look compressed and noisy."""
    pixels = frames_BHWC.permute(0, 3, 1, 2).float() / 255
    if augment:
        luma = pixels.mean(1, keepdim=True)
        chroma = F.interpolate(F.avg_pool2d(pixels - luma, 2), scale_factor=2)  # as 4:2:0 does
        gain = 1 + 0.1 * (torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * 2 - 1)
        noise = 0.02 * torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
        pixels = ((luma + chroma) * gain + noise * torch.randn_like(pixels)).clamp(0, 1)
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (pixels - mean) / std


def contrast(left_BD: Tensor, right_BD: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE, CLIP fig. 3."""
    logits = log_scale.exp() * F.normalize(left_BD, dim=-1) @ F.normalize(right_BD, dim=-1).T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def batches(
    stills: dict[str, Tensor], facts: dict[str, Tensor], num_steps: int, device: str
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Frames, a sentence about each, and two sentences about each of a run of facts."""
    num_stills, num_facts = len(stills["frames"]), len(facts["captions"])
    for _ in range(num_steps):
        rows = torch.randint(num_stills, (BATCH,), device=device)
        says = torch.randint(CAPTIONS, (BATCH,), device=device)
        first = int(torch.randint(num_facts - BATCH, (1,)))  # neighbours are a contrast group
        fact_rows = torch.arange(first, first + BATCH, device=device)
        two = torch.rand(BATCH, CAPTIONS, device=device).argsort(1)[:, :2]
        pair = facts["captions"][fact_rows[:, None], two].long()
        yield stills["frames"][rows], stills["captions"][rows, says].long(), pair[:, 0], pair[:, 1]


def learning_rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    return PEAK_LR * min(1, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(args: argparse.Namespace, device: str) -> None:
    """All of it."""
    out, started = Path(args.out), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    context = multiprocessing.get_context("spawn")  # a fork may inherit a lock of torch's threads
    with ProcessPoolExecutor(initializer=register, mp_context=context) as pool:
        stills, facts, val_stills, val_facts = (
            gathered(pool, partial(make, split=split, seed=args.seed), count, device)
            for split, count in (("train", args.stills), ("val", NUM_HELD_OUT))
            for make in (stills_of, facts_of)
        )

    model = open_clip.create_model(NAME).to(device)
    text_scale = nn.Parameter(torch.tensor(math.log(20.0), device=device))
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [*(p for p in model.parameters() if p.ndim < 2), text_scale]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0}],
        betas=(0.9, 0.98),
    )
    log = Log(out / "training.jsonl")
    log.add({"command": vars(args), "torch": torch.__version__, "open_clip": open_clip.__version__})
    log.add({"seconds_to_make_the_data": round(time.perf_counter() - started)})
    for step, (frames, says, one, other) in enumerate(
        batches(stills, facts, args.steps, device), start=1
    ):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            image_BD = model.encode_image(normalised(frames, augment=True))
            text_BD = model.encode_text(torch.cat([says, one, other]))
        says_BD, one_BD, other_BD = text_BD.float().chunk(3)
        frame_loss = contrast(image_BD.float(), says_BD, model.logit_scale)
        fact_loss = contrast(one_BD, other_BD, text_scale)
        optimizer.zero_grad()
        (frame_loss + fact_loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for scale in (model.logit_scale, text_scale):
                scale.clamp_(max=MAX_LOGIT_SCALE)
        if step % LOG_EVERY == 0 or step == args.steps:
            line = {
                "step": step,
                "seconds": round(time.perf_counter() - started, 1),
                "frame_loss": round(frame_loss.item(), 4),
                "fact_loss": round(fact_loss.item(), 4),
                "logit_scale": round(model.logit_scale.item(), 4),
                **measured(model, val_stills, val_facts),
            }
            log.add(line)
            save(model, [stills["captions"], facts["captions"]], out)


@torch.no_grad()
def measured(
    model: nn.Module, stills: dict[str, Tensor], facts: dict[str, Tensor]
) -> dict[str, float]:
    """Percent right on unseen compositions: 1 of 1000 sentences, and 1 of 1000 facts."""
    model.eval()
    device = stills["frames"].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        image_BD = F.normalize(
            model.encode_image(normalised(stills["frames"], augment=False)).float(), dim=-1
        )
        says_BD, one_BD, other_BD = (
            F.normalize(model.encode_text(tokens.long()).float(), dim=-1)
            for tokens in (
                stills["captions"][:, 0],
                facts["captions"][:, 0],
                facts["captions"][:, 1],
            )
        )
    model.train()
    return {
        "val_frame_to_text": percent_first(image_BD, says_BD),
        "val_fact_to_fact": percent_first(one_BD, other_BD),
    }


def percent_first(left_BD: Tensor, right_BD: Tensor) -> float:
    """How many of the left have their own on the right nearest."""
    own = torch.arange(len(left_BD), device=left_BD.device)
    return round(100 * ((left_BD @ right_BD.T).argmax(1) == own).float().mean().item(), 1)


def save(model: nn.Module, captions: list[Tensor], out: Path) -> None:
    """Weights in float16; the rows of words that were never read are zero, not left at random."""
    state = {name: tensor.half().cpu() for name, tensor in model.state_dict().items()}
    table = state["token_embedding.weight"]
    read = torch.zeros(len(table), dtype=torch.bool)
    for tokens in captions:
        read[tokens.unique().long().cpu()] = True
    table[~read] = 0
    save_file(state, out / f"{NAME}.safetensors", metadata={"words_read": str(int(read.sum()))})


class Log:
    """A file of JSON lines, printed too."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w", encoding="utf-8")

    def add(self, line: dict[str, object]) -> None:
        """Writes one line."""
        print(json.dumps(line), file=self._file, flush=True)
        print(json.dumps(line), flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--stills", type=int, default=160_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    register()
    train(args, "cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
