#!/usr/bin/env bash
# Ten spoken commands by label: Speech Commands, 16,000 Hz.
here=$(dirname "$0") usage=CORPUS_DIR exp=exp/words
conf=("$here/conf/words.yaml")
words=down,go,left,no,off,on,right,stop,up,yes
data() { python -m recipes.speech_commands "$1" "$exp/data" --words "$words" --whole --resplit; }
synthesise() { generate_each ${words//,/ }; }
evaluate() { examine; recognise; }
source "$here/../../run.sh"
