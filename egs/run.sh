#!/usr/bin/env bash
# The shared stage runner: 0 data, 1 train, 2 synthesise, 3 evaluate. An eg's run.sh sets variables and sources this.
#
# set by the eg    here       its folder
#                  usage      what it needs on the command line, such as CORPUS_DIR
#                  exp        where everything goes
#                  conf       the configuration, or several in the order in which they are trained; --conf replaces them;
#                             none where nothing is trained
# and, where the usual stages do not do
#                  data, train, synthesise, evaluate    functions; "$@" are the words of the command line that are no options
#                  run_of     a function: the folder of the run of a configuration
set -euo pipefail

needs=${usage:-} stage=0 stop_stage=3 settings=() keep=() words=()
explain() {
  echo "usage: ${here}/run.sh ${needs} [--stage N] [--stop-stage N] [--conf FILE.yaml] [--set KEY=VALUE]... [--keep-curve]"
  echo "stages: 0 data, 1 train, 2 synthesise, 3 evaluate; results are in ${exp}"
}
while (($#)); do
  case $1 in
    --stage) stage=${2:?--stage needs a number}; shift 2 ;;
    --stop-stage) stop_stage=${2:?--stop-stage needs a number}; shift 2 ;;
    --conf) conf=(${2:?--conf needs a file}); shift 2 ;;
    --set) settings+=(--set "${2:?--set needs KEY=VALUE}"); shift 2 ;;
    --keep-curve) keep=(--keep-curve); shift ;;
    -h | --help) explain; exit ;;
    -*) echo "unknown option $1" >&2; explain >&2; exit 2 ;;
    *) words+=("$1"); shift ;;
  esac
done
if ((${#words[@]} != $(wc -w <<< "$needs"))); then explain >&2; exit 2; fi

defined() { declare -F "$1" > /dev/null; }
defined run_of || run_of() { echo "$exp/$(basename "$1" .yaml)"; }
last=
if ((${#conf[@]})); then last=$(run_of "${conf[-1]}"); fi

# what the egs of generators have in common
generate_each() { # labels
  local label
  for label in "$@"; do
    audiodiff generate --model "$last/best" --label "$label" --count 8 --output "$exp/wav" --overwrite
  done
}
examine() { audiodiff doctor "$exp/wav" --crop-seconds 0.1; } # silence, clipping, copies, levels
recognise() { # by a classifier of the real clips, which never hears those held out; further options of `evaluate sets`
  audiodiff evaluate classifier "$exp/real.safetensors" "$exp/data/train.jsonl" --held-out "$exp/data/test.jsonl"
  audiodiff evaluate sets "$exp/wav" "$exp/data/train.jsonl" --classifier "$exp/real.safetensors" -c "real=$exp/data/test.jsonl" "$@" |
    tee "$exp/scores.txt"
}

defined train || train() {
  local file
  for file in ${conf[@]+"${conf[@]}"}; do
    audiodiff train "$file" --run "$(run_of "$file")" ${settings[@]+"${settings[@]}"} ${keep[@]+"${keep[@]}"}
  done
}
defined synthesise || synthesise() {
  audiodiff vocode "$exp/data/test.jsonl" --model "$last/best" --output "$exp/wav" --resample --overwrite
}
defined evaluate || evaluate() {
  audiodiff vocode "$exp/data/test.jsonl" --model "$last/best" --output "$exp/wav" --resample --score --overwrite |
    tee "$exp/scores.txt"
}

number=0
for name in data train synthesise evaluate; do
  if ((stage <= number && number <= stop_stage)); then
    echo "== stage $number: $name" >&2
    "$name" ${words[@]+"${words[@]}"}
  fi
  ((number += 1))
done
