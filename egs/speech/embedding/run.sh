#!/usr/bin/env bash
# What the RBF noise-level embedding buys: one thing at a time is varied in a vocoder and in a generator of spoken digits,
# with three seeds; the embeddings also in a larger vocoder, and in training on a grid of noise levels.
here=$(dirname "$0") usage="READER FSDD" exp=exp/embedding
conf=()
embedding=model.network.embedding
data() {
  audiodiff prepare "$1" "$exp/data" --valid-fraction 0.1 --test-fraction 0.1
  python -m recipes.fsdd "$2" "$exp/digits-data"
}
sweep() { # a configuration, and what varies
  local file=$1
  shift
  audiodiff train "$here/conf/$file" --run "$exp/${file%.yaml}" --seeds 0,1,2 ${settings[@]+"${settings[@]}"} "$@"
}
sweep_all() { # the first, kind=rbf, is what the others are compared with
  sweep "$1" --vary $embedding.kind=rbf,sinusoidal,fourier
  sweep "$1" --vary $embedding.fourier_scale=2 --set $embedding.kind=fourier
  sweep "$1" --vary $embedding.centres=4,8,16,64
  sweep "$1" --vary $embedding.spread=4
  sweep "$1" --vary $embedding.initialisation=quantiles,random,k-means
  sweep "$1" --vary $embedding.learnable=false
}
train_on_grids() { # validation at the levels of the grid and halfway between
  local kind
  for kind in rbf fourier sinusoidal; do
    audiodiff train "$here/conf/vocoder.yaml" --run "$exp/grid/$kind" ${settings[@]+"${settings[@]}"} --set training.steps=600 \
      --set $embedding.kind=$kind --set model.diffusion.n_levels=50 --set training.validation_levels=99
  done
}
train() {
  sweep_all vocoder.yaml
  sweep_all digits.yaml
  sweep vocoder.yaml --vary model.network.activation=rbf
  sweep large.yaml --vary $embedding.kind=rbf,sinusoidal
  train_on_grids
}
synthesise() { # scores go to scores.txt of each folder
  local run
  for run in "$exp"/vocoder/{kind,fourier_scale,activation}=*/seed=* "$exp"/large/*/seed=*; do
    audiodiff vocode "$exp/data/test.jsonl" --model "$run/last" --output "$run/wav" --resample --overwrite --score | tee "$run/scores.txt"
  done
}
evaluate() {
  local name
  for name in vocoder digits large; do audiodiff compare "$exp/$name/kind=rbf" "$exp/$name"; done
  audiodiff plot rbf "$exp"/{vocoder,digits}/kind=rbf/seed=0/last --output "$exp/centres.svg"
  audiodiff plot loss-by-noise-level "$exp"/grid/* --output "$exp/levels.svg"
}
source "$here/../../run.sh"
