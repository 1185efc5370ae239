#!/usr/bin/env bash
# Drum sounds by instrument: any folder tree of one-shots, 22,050 Hz.
here=$(dirname "$0") usage=SOUNDS_DIR exp=exp/drums
conf=("$here/conf/instruments.yaml")
data() { python -m recipes.drums "$1" "$exp/data"; }
synthesise() {
  local label
  for label in kick snare hihat tom cymbal clap cowbell conga bongo rim tambourine shaker percussion; do
    audiodiff generate --model "$last/best" --label "$label" --count 8 --output "$exp/wav" --overwrite
  done
}
evaluate() { audiodiff doctor "$exp/wav" --crop-seconds 0.1; } # silence, clipping, copies, levels
source "$here/../../run.sh"
