#!/usr/bin/env bash
# Train models one after the other on a machine that is lent for minutes, and leave them where they are fetched from.
# usage: egs/gpu-train.sh RUNS OUT DATA
#   RUNS  a file with a run per line:  NAME CONF.yaml MINUTES INITIAL LISTS [--set KEY=VALUE]...
#         INITIAL is the model to start from, LISTS names DATA/lists/LISTS-train.jsonl and -valid.jsonl; - is what CONF says
#   OUT   gets log.txt and, once a minute and at the end of a run, the averaged weights as a model folder in float16:
#         NAME.tar.0, NAME.tar.1 ... below 16 MiB each, which egs/gpu-join.sh puts together
# PYTHON is the interpreter, EXP the folder of the runs (/tmp/audiodiff-exp). A run that fails does not stop the next.
set -u
runs=${1:?a file of runs} out=${2:?a folder for the models} data=${3:?the folder of the data}
python=${PYTHON:-python3} exp=${EXP:-/tmp/audiodiff-exp}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$out" "$exp"

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

ship() { # a run's averaged weights; an older model stays until all parts of the new one are written
  local name=$1 folder=$exp/$1/last temporary
  [[ -f $folder/model.safetensors ]] || return 1
  temporary=$(mktemp -d "$exp/ship.XXXX")
  if "$python" -m audiodiff export "$folder" "$temporary/$name" --half > /dev/null &&
    tar -C "$temporary" -cf - "$name" | split -b 15M -d -a 1 - "$temporary/$name.tar."; then
    mv "$temporary/$name".tar.? "$out/" && say "$name: $(cat "$out/$name".tar.? | wc -c) bytes in $out"
  fi
  rm -rf "$temporary"
}

train() {
  local name=$1 conf=$2 minutes=$3 initial=$4 lists=$5 options=() pid shipped=$SECONDS limit
  shift 5
  if [[ $initial != - ]]; then options+=(--set "training.initial_model=$initial"); fi
  if [[ $lists != - ]]; then
    options+=(--data "$data/lists/$lists-train.jsonl" --set "data.valid=$data/lists/$lists-valid.jsonl")
  fi
  limit=$(awk "BEGIN {print int(60 * $minutes + 45)}") # the run ends by itself; should it hang, the next one begins
  say "$name: $conf for $minutes minutes from $initial"
  timeout --signal=TERM --kill-after=10 "$limit" "$python" -m audiodiff -v train "$conf" --run "$exp/$name" \
    --minutes "$minutes" ${options[@]+"${options[@]}"} --set training.checkpoint_minutes=0.75 "$@" &
  pid=$!
  while kill -0 "$pid" 2> /dev/null; do
    sleep 2
    if ((SECONDS - shipped >= 60)) && [[ $exp/$name/last -nt $exp/$name.shipped ]]; then
      touch "$exp/$name.shipped"
      ship "$name"
      shipped=$SECONDS
    fi
  done
  wait "$pid" && say "$name: done" || say "$name: FAILED with exit code $?"
  ship "$name" || say "$name: no model"
}

all() {
  local line
  while read -r line; do
    [[ -z $line || $line == \#* ]] && continue
    # shellcheck disable=SC2086  # a line is words
    train $line < /dev/null
  done < "$runs"
  say "all runs are over"
  ls -l "$out"
}
all 2>&1 | tee -a "$out/log.txt"
