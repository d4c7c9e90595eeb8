#!/usr/bin/env bash
# The demo: what a user of a folder of their own would type, on video files made here.
# Usage: run.sh OUT VIDEOS CAPTIONS
set -euo pipefail
out=$1 videos=$2 captions=$3
run() { printf '\n$'; printf ' %q' "$@"; echo; "$@"; }

mkdir -p "$out"
if [ "$videos" != "$out/videos" ]; then
  out=$out/own # a store belongs to one listing
elif [ ! -f "$captions" ]; then
  python "$(dirname "$0")/make_clips.py" "$out"
fi

run muse extract "$videos" --captions "$captions" --encoder conse --sampling uniform --num-frames 6 --out "$out/store" ||
  [ $? -eq 3 ] # some videos failed: they are listed, and the others are there
run muse store info "$out/store"
run muse store verify "$out/store"
run muse train-head "$out/store" --split train --batch-size 16 --epochs 2 --out "$out/run"
run muse evaluate "$out/store" --split test --head mean-pool
run muse evaluate "$out/store" --split test --head "$out/run" --json "$out/scores.json"
run muse search "$out/store" "a cat" --head "$out/run" -k 3
