#!/usr/bin/env bash
# Spoken digits by label: the Free Spoken Digit Dataset, 8,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/fsdd
conf=("$here/conf/digits.yaml") # or, by a U-Net, --conf "$here/conf/unet.yaml"
data() { python -m recipes.fsdd "$1" "$exp/data"; }
synthesise() {
  local label
  for label in 0 1 2 3 4 5 6 7 8 9; do
    audiodiff generate --model "$last/best" --label "$label" --count 8 --output "$exp/wav" --overwrite
  done
}
evaluate() { audiodiff doctor "$exp/wav" --crop-seconds 0.1; } # silence, clipping, copies, levels
source "$here/../../run.sh"
