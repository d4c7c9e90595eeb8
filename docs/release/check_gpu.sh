#!/usr/bin/env bash
# What CI can't check: the tests marked gpu, and the three commands on a GPU with Ray, bf16 and
# mamba-ssm's scan, on a corpus made here. Prints timings; fails where the engines' bytes differ.
# Usage: check_gpu.sh WORK [NUM_VIDEOS]     with muse, and mamba-ssm if wanted, importable
set -euo pipefail
work=$1 num_videos=${2:-256}
muse() { python3 -m muse "$@"; }
timed() { local start=$SECONDS; "$@"; echo "[$((SECONDS - start)) s] ${*:1:3}"; }
encoder=openclip:ViT-B-32-quickgelu/random:0

MUSE_REQUIRE_CUDA=1 python3 -m pytest -q -m gpu tests
python3 benchmarks/corpus.py "$work/corpus" --num-videos "$num_videos" --seconds 12

for engine in ray local; do
  timed muse extract "$work/corpus/videos" --captions "$work/corpus/captions.csv" \
    --encoder "$encoder" --engine $engine --out "$work/$engine"
  cat "$work/$engine/stats.jsonl"
done
diff -r --exclude run.json --exclude stats.jsonl "$work/ray" "$work/local"
echo "ray and local: the same bytes"

timed muse train-head "$work/ray" --out "$work/run" --epochs 5
for scan in mamba-ssm cpu; do
  timed muse evaluate "$work/ray" --head "$work/run" --scan $scan --json "$work/scores-$scan.json"
done
timed muse search "$work/ray" "a red square rises on the left" --head "$work/run" -k 3
timed muse store info "$work/ray"
tail -n 2 "$work/run/log.jsonl"
