#!/usr/bin/env bash
# Put the models that egs/gpu-train.sh left in parts together: usage: egs/gpu-join.sh OUT FOLDER; makes FOLDER/NAME for each.
set -euo pipefail
out=${1:?the folder with NAME.tar.0 ...} folder=${2:?where model folders go}
mkdir -p "$folder"
for first in "$out"/*.tar.0; do
  cat "${first%.0}".? | tar -C "$folder" -xf -
  echo "$folder/$(basename "$first" .tar.0)"
done
