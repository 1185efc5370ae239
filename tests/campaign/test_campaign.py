"""Cases of every kind: some hundred in the quick tests, 10,000 in the slow ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from campaign.command import counts, describe
from campaign.oracle import BARS
from campaign.runner import KINDS, Verdict

QUICK = counts(260)
ALL = counts(10_000)
SHARD = 100
"""Cases in one slow test."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and forks are those of Linux")

Run = Callable[[str, int, int], list[Verdict]]


@pytest.fixture(scope="session")
def campaign() -> Iterator[Run]:
    """Give a function that runs the cases of a kind from one seed up to another; its process is started once."""
    command = [sys.executable, str(Path(__file__).parent), "--serve", "--jobs", str(len(os.sched_getaffinity(0)))]
    counted = Counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        while server.stdout.readline() not in ("ready\n", ""):
            pass

        def run(kind: str, first: int, end: int) -> list[Verdict]:
            server.stdin.write(f"{kind}:{first}-{end - 1}\n")
            server.stdin.flush()
            verdicts = [
                Verdict(**json.loads(line))
                for line in iter(server.stdout.readline, "\n")
                if line or pytest.fail("it ended")
            ]
            counted.update(cases=len(verdicts))
            counted.update(finding.partition(":")[0] for verdict in verdicts for finding in verdict.findings)
            return verdicts

        yield run
        server.stdin.close()
    print(f"\ncampaign: {counted['cases']} cases, " + ", ".join(f"{counted[bar]} {bar}" for bar in BARS))


def check(verdicts: list[Verdict]) -> None:
    failed = [verdict for verdict in verdicts if verdict.findings]
    if failed:
        pytest.fail(f"{len(failed)} of {len(verdicts)} cases fail\n" + "\n".join(map(describe, failed)), pytrace=False)


@pytest.mark.parametrize("kind", KINDS)
def test_some_cases_of_a_kind(campaign, kind):
    check(campaign(kind, 0, QUICK[kind]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first"), [(kind, first) for kind in KINDS for first in range(QUICK[kind], ALL[kind], SHARD)]
)
def test_all_cases(campaign, kind, first):
    check(campaign(kind, first, min(first + SHARD, ALL[kind])))
