#!/usr/bin/env bash
# What CI can't check: the tests marked gpu, and the commands on a GPU with Ray, bf16 and mamba-ssm's
# scan, on a corpus made here. Prints timings; fails where a store's root differs.
# Usage: check_gpu.sh WORK [NUM_VIDEOS]     with muse, and mamba-ssm if wanted, importable
set -euo pipefail
work=$1 num_videos=${2:-256}
muse() { python3 -m muse "$@"; }
timed() { local start=$SECONDS; "$@"; echo "[$((SECONDS - start)) s] ${*:1:3}"; }
root() { muse store info "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["root_sha256"])'; }
encoder=openclip:ViT-B-32-quickgelu/random:0

MUSE_REQUIRE_CUDA=1 python3 -m pytest -q -m gpu tests
python3 benchmarks/corpus.py "$work/corpus" --num-videos "$num_videos" --seconds 12
extract() {
  muse extract "$work/corpus/videos" --captions "$work/corpus/captions.csv" --encoder "$encoder" \
    --shard-size 32 "$@"
}

for engine in ray local; do
  timed extract --engine $engine --out "$work/$engine"
done

# The encoding actor and decoding workers are killed while a third store is made.
extract --engine ray --out "$work/killed" &
run=$!
for _ in $(seq 10); do
  sleep 1.5
  pkill -9 -f 'ray::EncodeActor' || true
  pkill -9 -f 'ray::decode_video' || true
done
wait $run || extract --engine ray --out "$work/killed"

for store in local killed; do
  [ "$(root "$work/ray")" = "$(root "$work/$store")" ] || { echo "$store: another root" >&2; exit 1; }
  muse store verify "$work/$store"
done
echo "ray, local and killed: the same root"

timed muse train-head "$work/ray" --out "$work/run" --epochs 5
for scan in mamba-ssm cpu; do
  timed muse evaluate "$work/ray" --head "$work/run" --scan $scan --json "$work/scores-$scan.json"
done
timed muse search "$work/ray" "a red square rises on the left" --head "$work/run" -k 3
timed muse store info "$work/ray"
python3 benchmarks/bench_views.py --device cuda
tail -n 2 "$work/run/log.jsonl"
