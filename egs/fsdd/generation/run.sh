#!/usr/bin/env bash
# Spoken digits by label: the Free Spoken Digit Dataset, 8,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/fsdd
conf=("$here/conf/digits.yaml") # or, by DiffWave, --conf "$here/conf/diffwave.yaml"
data() { python -m recipes.fsdd "$1" "$exp/data"; }
synthesise() { generate_each 0 1 2 3 4 5 6 7 8 9; }
evaluate() { examine; recognise; }
source "$here/../../run.sh"
