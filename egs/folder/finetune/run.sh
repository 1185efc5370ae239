#!/usr/bin/env bash
# The bundled model, fine-tuned on a folder of recordings of yours; twenty are enough to begin with.
here=$(dirname "$0") usage=RECORDINGS_DIR exp=exp/finetune
conf=("$here/conf/finetune.yaml")
data() {
  python -m recipes.folder "$1" "$exp/data" --valid-fraction 0.1 --test-fraction 0.2
  audiodiff doctor "$exp/data"
}
evaluate() { # before and after
  audiodiff vocode "$exp/data/test.jsonl" --output "$exp/wav-before" --resample --score --overwrite | tee "$exp/scores-before.txt"
  audiodiff vocode "$exp/data/test.jsonl" --model "$last/best" --output "$exp/wav" --resample --score --overwrite |
    tee "$exp/scores.txt"
}
source "$here/../../run.sh"
