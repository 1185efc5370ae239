#!/usr/bin/env bash
# All stages in three minutes on a CPU, on the recordings that come with the project: five sentences, 16,000 Hz.
here=$(dirname "$0") exp=exp/quick
conf=("$here/conf/tiny.yaml")
data() {
  audiodiff prepare "$here/../../../audiodiff/assets/clips" "$exp/data" \
    --valid-list "$here/lists/valid.txt" --test-list "$here/lists/test.txt"
  audiodiff doctor "$exp/data"
}
source "$here/../../run.sh"
