#!/usr/bin/env bash
# A vocoder of many voices: LibriTTS, 24,000 Hz. Readings that were MP3 before have their true band noted.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/libritts
conf=("$here/conf/stft.yaml")
data() { python -m recipes.libritts "$1" "$exp/data" --bandwidth; }
source "$here/../../run.sh"
