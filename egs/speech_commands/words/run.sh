#!/usr/bin/env bash
# Ten spoken commands by label: Speech Commands, 16,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/words
conf=("$here/conf/words.yaml")
words=down,go,left,no,off,on,right,stop,up,yes
data() { python -m recipes.speech_commands "$1" "$exp/data" --words "$words" --resplit; }
synthesise() {
  local label
  for label in ${words//,/ }; do
    audiodiff generate --model "$last/last" --label "$label" --count 8 --output "$exp/wav" --overwrite
  done
}
evaluate() {
  audiodiff doctor "$exp/wav" --crop-seconds 0.1 # silence, clipping, copies, levels
  audiodiff evaluate "$exp/data/train.jsonl" --train-classifier "$exp/real.safetensors" --held-out "$exp/data/test.jsonl"
  audiodiff evaluate "$exp/wav" "$exp/data/train.jsonl" --classifier "$exp/real.safetensors" -c "real=$exp/data/test.jsonl" |
    tee "$exp/scores.txt"
}
source "$here/../../run.sh"
