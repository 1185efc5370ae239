#!/usr/bin/env bash
# DiffWave BASE as published: LJ Speech, 22,050 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/ljspeech-base
conf=("$here/conf/base.yaml")
data() { python -m recipes.ljspeech "$1" "$exp/data"; }
source "$here/../../run.sh"
