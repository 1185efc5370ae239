#!/usr/bin/env bash
# Piano notes from nothing: any folder of single notes, 22,050 Hz.
here=$(dirname "$0") usage=NOTES_DIR exp=exp/piano
conf=("$here/conf/notes.yaml")
data() { python -m recipes.folder "$1" "$exp/data"; }
synthesise() {
  audiodiff generate --model "$last/best" --count 16 --output "$exp/wav" --overwrite
}
evaluate() { examine; }
source "$here/../../run.sh"
