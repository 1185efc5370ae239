"""Are mels named rightly, and right ones not refused? `python tests/mel_cases FOLDERS --cases 100 --true 1000`.

The FOLDERS hold other recordings, of other speakers, than those that the statistics were made of (`--build`).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402

from mel_cases.cases import false_refusals, run  # noqa: E402
from mel_cases.recordings import find, speech_of  # noqa: E402
from mel_cases.statistics_of_mels import build  # noqa: E402


def main():
    """Run the cases, and print a table and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="one folder of recordings per corpus")
    parser.add_argument("--build", type=int, metavar="N", help="make the statistics anew, from N excerpts per kind")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="mels of other toolkits, of speech")
    parser.add_argument("--true", type=int, default=0, metavar="N", help="right mels, of speech, music and noise")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.folders, arguments.build)
        return
    corpora, rng = find(arguments.folders), np.random.default_rng(arguments.seed)
    _report(list(run(speech_of(corpora), arguments.cases, rng)))
    refused = list(false_refusals(corpora, arguments.true, rng))
    print(f"{len(refused)} of {arguments.true} right mels refused")
    for convention, name, said in refused:
        print(f"  {convention} of {name}: {said}")


def _report(outcomes):
    table = Counter()
    for outcome in outcomes:
        table[outcome.case.name, " or ".join(sorted(outcome.names)), outcome.accepted] += 1
    for (name, names, accepted), count in sorted(table.items()):
        print(f"{name:44}{count:4}  {'vocoded' if accepted else 'refused'}  {names}")
    wrong = [outcome for outcome in outcomes if not set(outcome.case.right) & set(outcome.names)]
    for outcome in wrong:
        print(f"WRONG: {outcome.case.name} of {outcome.audio}: {outcome.names}")
    other = [outcome for outcome in outcomes if outcome.accepted and not outcome.case.usable]
    noise = [outcome for outcome in other if not outcome.case.tolerable]
    alone = sum(outcome.separable for outcome in outcomes) - sum(outcome.separable for outcome in wrong)
    print(f"{len(outcomes) - len(wrong)} of {len(outcomes)} named rightly, {alone} of them as the only likely one")
    print(f"{len(noise)} unusable mels vocoded: {Counter(outcome.case.name for outcome in noise)}")
    print(f"{len(other) - len(noise)} mels of other conventions vocoded that sound tolerable as they are")


if __name__ == "__main__":
    main()
