#!/usr/bin/env bash
# A vocoder of one voice: LJ Speech, 22,050 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/ljspeech
conf=("$here/conf/stft.yaml")
data() { python -m recipes.ljspeech "$1" "$exp/data"; }
source "$here/../../run.sh"
