#!/usr/bin/env bash
# The bundled vocoder: several speech corpora, first denoising alone, then the unrolled few-step sampler as well.
# usage: egs/speech/vocoder/run.sh CORPORA [STAGE]
#   CORPORA holds any of the folders ljspeech, reader, librispeech, kerstin
#   stages: 0 data, 1 train by denoising, 2 fine-tune for few steps, 3 synthesise and score the test recordings
set -euo pipefail
corpora=${1:?usage: $0 CORPORA [STAGE]}
stage=${2:-0}
here=$(dirname "$0")
exp=exp/speech

if ((stage <= 0)); then
  mkdir -p "$exp/lists/all"
  rm -f "$exp"/lists/all/*.jsonl
  for corpus in ljspeech reader librispeech kerstin; do
    [[ -d $corpora/$corpus ]] || continue
    lists=()
    for part in valid test; do
      list=$here/lists/$corpus-$part.txt
      if [[ -f $list ]]; then lists+=("--$part-list" "$list"); fi
    done
    # A corpus without a list is for training alone.
    ((${#lists[@]})) || lists=(--valid-share 0 --test-share 0)
    audiodiff prepare "$corpora/$corpus" "$exp/lists/$corpus" "${lists[@]}"
    for part in train valid test; do # paths stay right, because every list lies equally deep
      cat "$exp/lists/$corpus/$part.jsonl" >> "$exp/lists/all/$part.jsonl"
    done
  done
  # LJ Speech is a small part of the hours, and counts three times.
  if [[ -d $corpora/ljspeech ]]; then
    cat "$exp"/lists/ljspeech/train.jsonl "$exp"/lists/ljspeech/train.jsonl >> "$exp/lists/all/train.jsonl"
  fi
fi
if ((stage <= 1)); then audiodiff train "$here/conf/denoise.yaml" --run "$exp/denoise"; fi
if ((stage <= 2)); then audiodiff train "$here/conf/few-step.yaml" --run "$exp/few-step"; fi
if ((stage <= 3)); then
  for corpus in ljspeech librispeech; do
    audiodiff vocode "$exp/lists/$corpus/test.jsonl" --model "$exp/few-step/last" --output "$exp/wav/$corpus" \
      --resample --score --overwrite
  done
fi
