#!/usr/bin/env bash
# What the dated reports of a GPU are made from, in parts of at most ten minutes on an H200.
#
# Lines of JSON go to FOLDER/PART.jsonl, all else to FOLDER/PART.log; a step that fails or takes too
# long leaves a line that says so, and the next one begins.
#
# Usage: bash benchmarks/gpu_reports.sh tests|head|finetune|nvdec|extract|gpus FOLDER

set -u
part=$1 folder=$2
here=$(dirname "$0")
mkdir -p "$folder"

# Seconds at most, then a benchmark with its flags.
run() {
  local seconds=$1 status=0
  shift
  timeout "$seconds" python "$here/$1" "${@:2}" \
    >>"$folder/$part.jsonl" 2>>"$folder/$part.log" || status=$?
  [ $status -eq 0 ] || echo "{\"failed\": \"$*\", \"status\": $status}" >>"$folder/$part.jsonl"
}

case $part in
  tests)
    MUSE_REQUIRE_CUDA=1 timeout 580 python -m pytest -q -m gpu "$here/../tests" \
      >"$folder/$part.log" 2>&1
    ;;
  head)
    run 120 bench_head.py
    run 60 bench_head.py --settings 128x12 --inference
    run 60 bench_head.py --settings 128x12 --mixers muse
    run 120 bench_scan.py --shapes 128x3060 16x3060 16x16320 1x3060 1x100000
    run 60 bench_scan.py --shapes 128x3060 16x16320 --threads 128
    run 120 bench_head.py --line 16
    ;;
  finetune)
    for row in 6 7 8; do run 120 bench_finetune.py "$folder" --table epoch --row $row; done
    for row in 8 9 10; do run 90 bench_finetune.py "$folder" --table frames --row $row; done
    ;;
  nvdec)
    MUSE_REQUIRE_CUDA=1 timeout 200 python -m pytest -q -m gpu \
      "$here/../tests/pipeline/test_nvdec_cuda.py" >"$folder/$part.log" 2>&1
    run 150 bench_decode.py "$folder" --corpora 1920x1080x10g60 --num-videos 16 --rounds 1 \
      --sessions 1 2 4 8
    ;;
  extract) # a process takes 20 s to import what it needs from a cold disk, and Ray as long again
    encoder=openclip:ViT-B-32-quickgelu/random:0
    run 60 bench_batches.py --encoder $encoder --source 240x320
    run 330 bench_extract.py "$folder" --ways muse plain decode --encoder $encoder \
      --num-videos 4096 --rounds 1
    run 150 bench_extract.py "$folder" --ways muse decode --encoder $encoder --num-videos 4096 \
      --rounds 1 --engine local --corpora 320x240x15g30
    ;;
  gpus)
    run 400 bench_extract_gpus.py "$folder" --corpus 160x120x5g15
    ;;
  *)
    sed -n 's/^# Usage: //p' "$0" >&2
    exit 2
    ;;
esac
