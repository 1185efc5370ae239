#!/usr/bin/env bash
# A vocoder of many voices at 48,000 Hz: VCTK.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/vctk
conf=("$here/conf/stft.yaml")
data() { python -m recipes.vctk "$1" "$exp/data"; }
source "$here/../../run.sh"
