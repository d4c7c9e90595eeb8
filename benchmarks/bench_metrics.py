"""How long ranking takes once the embeddings are there, both directions and all numbers.

ActivityNet's test is 4,917 paragraphs and as many videos, MSVD's 27,763 sentences and 670. The
fastest of some rounds counts, and all are printed: a machine's other work only makes one slower.

Usage: python benchmarks/bench_metrics.py --rounds 3
       python benchmarks/bench_metrics.py --captions 100000 --videos 100000 --rounds 1
"""

import argparse
import json
import os
import resource
import time

import torch
from torch import Tensor

from muse.head.metrics import retrieval_numbers, retrieval_ranks

CASES = ((4917, 4917), (27763, 670))
DIM = 512  # CLIP ViT-B/32's


def unit_rows(num_rows: int, device: str) -> Tensor:
    rows_ND = torch.randn(num_rows, DIM, generator=torch.Generator().manual_seed(num_rows))
    for row_D in rows_ND:  # in place: the peak is to be the ranking's
        row_D /= row_D.norm()
    return rows_ND.to(device)


def seconds_of(num_captions: int, num_videos: int, *, rounds: int, device: str) -> list[float]:
    """Of each round; an unmeasured small one goes first."""
    text_QD, video_VD = unit_rows(num_captions, device), unit_rows(num_videos, device)
    video_of_Q = torch.arange(num_captions, device=device) * num_videos // num_captions
    retrieval_numbers(retrieval_ranks(text_QD[:64], video_VD, video_of_Q[:64]))
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        retrieval_numbers(retrieval_ranks(text_QD, video_VD, video_of_Q))
        seconds.append(round(time.perf_counter() - started, 3))
    return seconds


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, help="instead of both benchmarks' sizes")
    parser.add_argument("--videos", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    cases = ((flags.captions, flags.videos),) if flags.captions else CASES
    numbers = {}
    for captions, videos in cases:
        seconds = seconds_of(captions, videos, rounds=flags.rounds, device=flags.device)
        numbers[f"{captions}x{videos}"] = {"seconds": min(seconds), "rounds": seconds}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    machine = {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    print(json.dumps({"device": flags.device, **machine, "peak_rss_mb": peak // 1024, **numbers}))


if __name__ == "__main__":
    main()
