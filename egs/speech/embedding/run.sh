#!/usr/bin/env bash
# RBF against sinusoidal noise-level embedding: one network, one budget, three seeds each.
# usage: egs/speech/embedding/run.sh FOLDER_WITH_RECORDINGS [STAGE]     (stages: 0 data, 1 train, 2 synthesise and score)
set -euo pipefail
recordings=${1:?usage: $0 FOLDER_WITH_RECORDINGS [STAGE]}
stage=${2:-0}
here=$(dirname "$0")
exp=exp/embedding

if ((stage <= 0)); then
  audiodiff prepare "$recordings" "$exp/data" --valid-share 0.1 --test-share 0.1
fi
for embedding in rbf sinusoidal; do
  for seed in 0 1 2; do
    run=$exp/$embedding-$seed
    if ((stage <= 1)); then
      audiodiff train "$here/conf/$embedding.yaml" --run "$run" --set "training.seed=$seed"
    fi
    if ((stage <= 2)); then
      echo "== $embedding, seed $seed"
      audiodiff vocode "$exp/data/test.jsonl" --model "$run/last" --output "$run/wav" --resample --score --overwrite
    fi
  done
done
