#!/usr/bin/env bash
# The demo: what a user would type, and what comes out.
# Usage: run.sh OUT                    on a made world with known answers, with muse-nano
#        run.sh OUT VIDEOS CAPTIONS    on a folder of one's own, with ConSE; splits train and test
set -euo pipefail
out=$1 videos=${2:-} captions=${3:-}
run() { printf '\n$'; printf ' %q' "$@"; echo; "$@"; }

if [ -z "$videos" ]; then
  run muse world make "$out/world" --num-videos 640 --seed 0
  listing=(--dataset world --root "$out/world" --split "train,val,test" --encoder openclip:muse-nano --num-frames 8)
  # The coarsest scale alone and two blocks: a head that two cores train in two minutes.
  training=(--factors 0.5 --depth 2 --batch-size 32 --epochs 8 --lr 3e-3)
  # 000118 does, and its three sisters go elsewhere.
  query="a black crescent with checks starts at the left and ends at the right, with a yellow hourglass with stripes in view"
else
  out=$out/own # a store belongs to one listing
  : "${captions:?the caption file is missing: make demo VIDEOS=folder CAPTIONS=captions.csv}"
  listing=("$videos" --captions "$captions" --encoder conse --num-frames 6)
  training=(--factors 0.5 --depth 2 --batch-size 16 --epochs 2)
  query="a cat"
fi

run muse extract "${listing[@]}" --sampling uniform --out "$out/store" ||
  [ $? -eq 3 ] # some videos failed: they are listed, and the others are there
run muse store info "$out/store"
run muse train-head "$out/store" "${training[@]}" --out "$out/run"
run muse evaluate "$out/store" --head mean-pool
run muse evaluate "$out/store" --head "$out/run" --against mean-pool \
  --json "$out/scores.json" --html "$out/report.html"
run muse head influence "$out/store" --head "$out/run" --videos 64
run muse search "$out/store" "$query" --head "$out/run" -k 3
