#!/usr/bin/env bash
# Spoken digits by label: the Free Spoken Digit Dataset, 8,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/fsdd
conf=("$here/conf/digits.yaml") # or, by DiffWave, --conf "$here/conf/diffwave.yaml"
data() { python -m recipes.fsdd "$1" "$exp/data"; }
synthesise() {
  local label
  for label in 0 1 2 3 4 5 6 7 8 9; do
    audiodiff generate --model "$last/best" --label "$label" --count 8 --output "$exp/wav" --overwrite
  done
}
evaluate() {
  audiodiff doctor "$exp/wav" --crop-seconds 0.1 # silence, clipping, copies, levels
  audiodiff evaluate "$exp/data/train.jsonl" --train-classifier "$exp/real.safetensors" --held-out "$exp/data/test.jsonl"
  audiodiff evaluate "$exp/wav" "$exp/data/train.jsonl" --classifier "$exp/real.safetensors" -c "real=$exp/data/test.jsonl" |
    tee "$exp/scores.txt"
}
source "$here/../../run.sh"
