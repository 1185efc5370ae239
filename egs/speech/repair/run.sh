#!/usr/bin/env bash
# Repair with a model that was not trained to: LJ Speech's test clips, damaged, mended plainly and by the bundled vocoder.
here=$(dirname "$0") usage=LJSPEECH_DIR exp=exp/repair
conf=() # nothing is trained
kinds=(gap-10 gap-20 gap-50 gap-100 declip-0.3 declip-0.1 denoise-20 denoise-10 extend-4000 extend-2000)
data() { audiodiff prepare "$1" "$exp/data" --test-list "$here/../vocoder/lists/ljspeech-test.txt"; }
damage() { # the options of a kind; gaps begin every half second of the first five
  local kind=$1 amount=${1#*-}
  case $kind in
    gap-*) awk -v s="$amount" 'BEGIN { for (t = 0.5; t < 5; t += 0.5) printf "--gap %.3f-%.3f ", t, t + s / 1000 }' ;;
    *) echo "--${kind%%-*} $amount" ;;
  esac
}
synthesise() {
  local kind
  for kind in "${kinds[@]}"; do
    # shellcheck disable=SC2046 # the options are words
    audiodiff repair "$exp/data/test.jsonl" --degrade $(damage "$kind") --output "$exp/$kind" --overwrite | tee "$exp/$kind.txt"
  done
}
evaluate() {
  local kind version
  for kind in "${kinds[@]}"; do
    audiodiff evaluate pairs "$exp/$kind/repaired" "$exp/data/test.jsonl" --name repaired --compare baseline="$exp/$kind/baseline" \
      --compare degraded="$exp/$kind/degraded" --metrics pesq_wb,estoi,m_stft --json "$exp/$kind.json"
  done
  for kind in "${kinds[@]}"; do # means over the clips of what `repair` measured where the damage was
    for version in degraded baseline repaired; do
      sed "s/.*  $version SNR \([^ ]*\) dB, LSD \([^ ]*\) dB.*/\1 \2/" "$exp/$kind.txt" |
        awk -v name="$kind $version" '{ snr += $1; lsd += $2 } END { printf "%s: SNR %.2f dB, LSD %.2f dB\n", name, snr / NR, lsd / NR }'
    done
  done | tee "$exp/where.txt"
}
source "$here/../../run.sh"
