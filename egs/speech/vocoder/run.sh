#!/usr/bin/env bash
# The bundled vocoder: several speech corpora, first denoising alone, then the unrolled few-step sampler as well.
# CORPORA holds any of the folders ljspeech, reader, librispeech, fullband, kerstin. The others: --conf egs/speech/vocoder/conf/tiny.yaml or stream.yaml
here=$(dirname "$0") usage=CORPORA exp=exp/speech
conf=("$here/conf/denoise.yaml" "$here/conf/few-step.yaml" "$here/conf/default.yaml")
data() {
  local corpora=$1 corpus part list lists
  mkdir -p "$exp/lists/all"
  rm -f "$exp"/lists/all/*.jsonl
  for corpus in ljspeech reader librispeech fullband kerstin; do
    [[ -d $corpora/$corpus ]] || continue
    lists=()
    for part in valid test; do
      list=$here/lists/$corpus-$part.txt
      if [[ -f $list ]]; then lists+=("--$part-list" "$list"); fi
    done
    # A corpus without a list is for training alone.
    ((${#lists[@]})) || lists=(--valid-fraction 0 --test-fraction 0)
    audiodiff prepare "$corpora/$corpus" "$exp/lists/$corpus" "${lists[@]}"
    for part in train valid test; do # paths stay right, because every list lies equally deep
      cat "$exp/lists/$corpus/$part.jsonl" >> "$exp/lists/all/$part.jsonl"
    done
  done
  # LJ Speech is a small part of the hours, and counts three times.
  if [[ -d $corpora/ljspeech ]]; then
    cat "$exp"/lists/ljspeech/train.jsonl "$exp"/lists/ljspeech/train.jsonl >> "$exp/lists/all/train.jsonl"
  fi
}
test_corpora() { # calls vocode on the test recordings of each corpus that has some
  local corpus
  for corpus in ljspeech librispeech; do
    [[ -s $exp/lists/$corpus/test.jsonl ]] || continue
    audiodiff vocode "$exp/lists/$corpus/test.jsonl" --model "$last/last" --output "$exp/wav/$corpus" \
      --resample --overwrite "$@"
  done
}
synthesise() { test_corpora; }
evaluate() { test_corpora --score; }
source "$here/../../run.sh"
