#!/usr/bin/env bash
# Spoken digits by label: SC09, the ten digits of Speech Commands, 16,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/sc09
conf=("$here/conf/sc09.yaml")
data() { python -m recipes.speech_commands "$1" "$exp/data" --words sc09; }
synthesise() { generate_each zero one two three four five six seven eight nine; }
evaluate() { examine; }
source "$here/../../run.sh"
