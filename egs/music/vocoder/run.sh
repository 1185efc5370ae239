#!/usr/bin/env bash
# A vocoder of music and its stems at 44,100 Hz: MUSDB18-HQ.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/music
conf=("$here/conf/stft.yaml")
data() { python -m recipes.musdb18hq "$1" "$exp/data" --stem all; }
source "$here/../../run.sh"
