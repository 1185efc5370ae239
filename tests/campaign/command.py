"""The command line of the campaign: all cases, some of a kind, or one again."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from campaign.oracle import BARS
from campaign.runner import KINDS, Runner, Verdict

WEIGHTS = {
    "audio": 20,
    "options": 16,
    "configs": 15,
    "mels": 10,
    "models": 8,
    "manifests": 10,
    "checkpoints": 6,
    "archives": 5,
    "names": 5,
    "surroundings": 4,
    "library": 1,
}
"""How many of each hundred cases are of a kind."""


def counts(total: int) -> dict[str, int]:
    """Return how many cases of each kind make up so many."""
    weights = {kind: WEIGHTS[kind] for kind in KINDS}
    return {kind: round(total * weight / sum(weights.values())) for kind, weight in weights.items()}


def main() -> None:
    """Run what the command line asks for; exit with 1 where a case fails."""
    parser = argparse.ArgumentParser(prog="python tests/campaign", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="KIND[:SEED[-SEED]]", help=f"of {', '.join(KINDS)}; all by default")
    parser.add_argument("--total", type=int, default=10_000, help="how many cases, where no seeds are given")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders of the cases here")
    parser.add_argument("--serve", action="store_true", help="read KIND:SEED-SEED from stdin; for the tests")
    options = parser.parse_args()
    if unknown := {word.partition(":")[0] for word in options.cases} - set(KINDS):
        parser.error(f"no kind {sorted(unknown)[0]!r}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runner = Runner(folder.resolve(), options.jobs, bool(options.keep))
        if options.serve:
            serve(runner)
        else:
            sys.exit(1 if report(run(runner, options.cases, options.total)) else 0)


def seeds_of(word: str, total: int) -> tuple[str, range]:
    """Turn KIND, KIND:SEED or KIND:FIRST-LAST into a kind and its seeds."""
    kind, colon, seeds = word.partition(":")
    if not colon:
        return kind, range(counts(total)[kind])
    first, _, last = seeds.partition("-")
    return kind, range(int(first), int(last or first) + 1)


def run(runner: Runner, words: Iterable[str], total: int) -> Iterator[Verdict]:
    """Run the named cases."""
    for word in list(words) or KINDS:
        yield from runner.run(*seeds_of(word, total))


def serve(runner: Runner) -> None:
    """Answer each line of stdin with a line of JSON per case, then an empty one."""
    print("ready", flush=True)
    for line in sys.stdin:
        for verdict in run(runner, [line.strip()], 0):
            print(json.dumps(asdict(verdict)), flush=True)
        print(flush=True)


def report(verdicts: Iterable[Verdict]) -> int:
    """Print what is found as it is found, and counts at the end; return how many cases fail."""
    begun, n, failed, seen = time.monotonic(), Counter(), 0, Counter()
    for verdict in verdicts:
        n[verdict.name.partition(":")[0]] += 1
        seen.update({finding.partition(":")[0] for finding in verdict.findings})
        if verdict.findings:
            failed += 1
            print(describe(verdict), flush=True)
    print(
        f"\n{sum(n.values())} cases in {time.monotonic() - begun:.0f} s: " + ", ".join(f"{k} {v}" for k, v in n.items())
    )
    print(", ".join(f"{seen[bar]} {bar}" for bar in BARS) + f"; {failed} cases fail")
    return failed


def describe(verdict: Verdict) -> str:
    """Return what a failing case is, what is wrong, and the line that reruns it."""
    findings = "\n".join(f"    {finding[:600]}" for finding in verdict.findings[:4])
    return f"python tests/campaign {verdict.name}   ({verdict.about})\n    {verdict.command}\n{findings}"
