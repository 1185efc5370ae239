#!/usr/bin/env bash
# Drum sounds by instrument: any folder tree of one-shots, 22,050 Hz.
here=$(dirname "$0") usage=SOUNDS_DIR exp=exp/drums
conf=("$here/conf/instruments.yaml")
data() { python -m recipes.drums "$1" "$exp/data" --valid-fraction 0.03 --test-fraction 0; }
synthesise() { generate_each kick snare hihat tom cymbal clap cowbell conga bongo rim tambourine shaker percussion; }
evaluate() { examine; }
source "$here/../../run.sh"
