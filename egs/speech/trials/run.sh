#!/usr/bin/env bash
# One thing at a time, in small networks and two minutes each: whitening, patches, targets, weighting, data. Lists are those of
# speech/vocoder. CORPORA holds any of the folders ljspeech, reader, librispeech, kerstin, piano.
here=$(dirname "$0") usage=CORPORA exp=exp/speech
conf=("$here/conf/stft.yaml" "$here/conf/patches.yaml")
data() {
  "$here/../vocoder/run.sh" "$1" --stop-stage 0
  audiodiff prepare "$1/piano" "$exp/lists/piano" --valid-fraction 0 --test-fraction 0
  mkdir -p "$exp/lists/music"
  cat "$exp/lists/all/train.jsonl" "$exp/lists/piano/train.jsonl" > "$exp/lists/music/train.jsonl"
}
each_trial() { # calls a function with a name, a configuration and settings; the steps of patches cost the same time
  local stft=${conf[0]} patches=${conf[1]} n=model.network d=model.diffusion w=model.whitening
  "$1" spectral-0.5 "$stft"
  "$1" spectral-1 "$stft" --set "$w.exponent=1"
  "$1" energy "$stft" --set "$w.kind=energy" --set "$w.exponent=1"
  "$1" none "$stft" --set "$w.kind=none"
  "$1" logistic "$stft" --set "$d.distribution=logistic"
  "$1" min-snr "$stft" --set training.loss_weighting=min-snr
  "$1" few-step "$stft" --set training.few_step_weight=2 --set training.steps=120 --set model.synthesis.steps=2
  "$1" one-reader "$stft" --set "data.train=$exp/lists/reader/train.jsonl"
  "$1" with-piano "$stft" --set "data.train=$exp/lists/music/train.jsonl"
  "$1" not-masked "$stft" --set data.mask_bandwidth=false
  "$1" patch-1 "$patches" --set "$n.patch=1" --set training.steps=20
  "$1" patch-4 "$patches" --set "$n.patch=4" --set training.steps=80
  "$1" patch-8 "$patches"
  "$1" patch-16 "$patches" --set "$n.patch=16" --set training.steps=290
  "$1" patch-8-v "$patches" --set "$d.target=v"
  "$1" patch-8-x0 "$patches" --set "$d.target=x0"
}
train_one() {
  local name=$1 file=$2
  shift 2
  audiodiff train "$file" --run "$exp/trials/$name" "$@" ${settings[@]+"${settings[@]}"}
}
vocode_one() { # LJ Speech from the estimate and from noise, LibriSpeech from the estimate
  vocode_test "$1" ljspeech estimate
  vocode_test "$1" ljspeech noise --start noise --steps 12
  vocode_test "$1" librispeech estimate
}
vocode_test() { # the name of a trial, a corpus, a name of the start, and options
  local trial=$1 corpus=$2 start=$3
  shift 3
  echo "== $trial, $corpus from $start"
  audiodiff vocode "$exp/lists/$corpus/test.jsonl" --model "$exp/trials/$trial/last" --resample --overwrite \
    --output "$exp/trials/$trial/$corpus-$start" "$@" ${score:+--score}
}
train() { each_trial train_one; }
synthesise() { each_trial vocode_one; }
evaluate() { score=yes each_trial vocode_one; }
source "$here/../../run.sh"
