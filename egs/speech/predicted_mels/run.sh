#!/usr/bin/env bash
# The bundled tiny vocoder, fine-tuned on blurred mels beside their recordings, and on true mels with noise.
# RECORDINGS_DIR is the folder wavs of LJ Speech; for another corpus, change the lists of stage 0.
here=$(dirname "$0") usage=RECORDINGS_DIR exp=exp/predicted-mels
conf=("$here/conf/predicted.yaml" "$here/conf/noise.yaml")
data() {
  local lists=$here/../vocoder/lists
  python -m recipes.folder "$1" "$exp/true" --mels hifigan-22k --mel-precision float32
  python "$here/blur.py" "$exp/true/mels/hifigan-22k" "$exp/mels" # your text-to-speech model, in this experiment
  audiodiff prepare "$1" "$exp/data" --mels "$exp/mels" \
    --valid-list "$lists/ljspeech-valid.txt" --test-list "$lists/ljspeech-test.txt"
  audiodiff doctor "$exp/data"
}
synthesise() { # the mels that the manifest names
  audiodiff vocode "$exp/data/test.jsonl" --model speech-22k-tiny --output "$exp/wav/bundled" --overwrite
  local name
  for name in predicted noise; do
    audiodiff vocode "$exp/data/test.jsonl" --model "$exp/$name/last" --output "$exp/wav/$name" --overwrite
  done
}
evaluate() {
  audiodiff evaluate pairs "$exp/wav/bundled" "$exp/data/test.jsonl" -m m_stft,pesq_wb,estoi \
    --compare "predicted=$exp/wav/predicted" --compare "noise=$exp/wav/noise" | tee "$exp/scores.txt"
}
source "$here/../../run.sh"
