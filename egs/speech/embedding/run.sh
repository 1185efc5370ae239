#!/usr/bin/env bash
# RBF against sinusoidal noise-level embedding, three seeds each; with a small network also Fourier features, training on
# grids of noise levels, and what else can be switched.
here=$(dirname "$0") usage=FOLDER_WITH_RECORDINGS exp=exp/embedding
conf=("$here/conf/rbf.yaml" "$here/conf/sinusoidal.yaml")
data() { audiodiff prepare "$1" "$exp/data" --valid-fraction 0.1 --test-fraction 0.1; }
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
small() { # a name, and settings
  local name=$1
  shift
  audiodiff train "$here/conf/small.yaml" --run "$exp/small-$name" ${settings[@]+"${settings[@]}"} "$@"
}
train_on_grids() { # validation at the levels of the grid and halfway between
  local levels kind
  for levels in 50 9; do
    for kind in rbf fourier sinusoidal; do
      small "$levels-$kind" --set "model.network.embedding.kind=$kind" --set "model.diffusion.n_levels=$levels" \
        --set "training.validation_levels=$((2 * levels - 1))"
    done
  done
}
train_switched() {
  small plain
  small rbf-layers --set model.network.activation=rbf
  small min-snr --set training.loss_weighting=min-snr
}
train() { # on lines of their own: a failure before && would not end the script
  each_run train_one
  train_on_grids
  train_switched
}
synthesise() { each_run vocode_one; }
evaluate() {
  score=yes each_run vocode_one
  for what in 50-{rbf,fourier,sinusoidal} 9-{rbf,fourier,sinusoidal} plain rbf-layers min-snr; do
    audiodiff plot loss-by-noise-level "$exp/small-$what" --output "$exp/levels-$what.svg"
  done
}
source "$here/../../run.sh"
