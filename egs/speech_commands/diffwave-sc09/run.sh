#!/usr/bin/env bash
# DiffWave on SC09 as published: the ten digits of Speech Commands from nothing, 16,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/sc09-diffwave
conf=("$here/conf/sc09.yaml")
data() { python -m recipes.speech_commands "$1" "$exp/data" --words sc09; }
synthesise() { audiodiff generate --model "$last/best" --count 2048 --output "$exp/wav" --overwrite; }
evaluate() { recognise --frechet --json "$exp/scores.json"; }
source "$here/../../run.sh"
