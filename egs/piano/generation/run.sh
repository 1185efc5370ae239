#!/usr/bin/env bash
# Piano notes by key and velocity: SplendidGrandPiano, 22,050 Hz.
here=$(dirname "$0") usage=NOTES_DIR exp=exp/piano
conf=("$here/conf/notes.yaml")
data() { python -m recipes.piano "$1" "$exp/data" --fill; }
synthesise() {
  local key velocity
  for key in C2 Fs3 C4 A4 Ds5; do
    for velocity in pp ff; do
      audiodiff generate --model "$last/best" --label "$key" --speaker "$velocity" --count 4 --output "$exp/wav" --overwrite
    done
  done
}
evaluate() { examine; }
source "$here/../../run.sh"
