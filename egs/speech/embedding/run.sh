#!/usr/bin/env bash
# RBF against sinusoidal noise-level embedding: one network, one budget, three seeds each.
here=$(dirname "$0") usage=FOLDER_WITH_RECORDINGS exp=exp/embedding
conf=("$here/conf/rbf.yaml" "$here/conf/sinusoidal.yaml")
data() { audiodiff prepare "$1" "$exp/data" --valid-share 0.1 --test-share 0.1; }
each_run() { # calls a function with the configuration, the seed and the folder of each run
  local file seed
  for file in "${conf[@]}"; do
    for seed in 0 1 2; do "$1" "$file" "$seed" "$exp/$(basename "$file" .yaml)-$seed"; done
  done
}
train_one() { audiodiff train "$1" --run "$3" ${settings[@]+"${settings[@]}"} --set "training.seed=$2"; }
vocode_one() {
  echo "== $(basename "$1" .yaml), seed $2"
  audiodiff vocode "$exp/data/test.jsonl" --model "$3/last" --output "$3/wav" --resample --overwrite ${score:+--score}
}
train() { each_run train_one; }
synthesise() { each_run vocode_one; }
evaluate() { score=yes each_run vocode_one; }
source "$here/../../run.sh"
