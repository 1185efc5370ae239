"""What is wrong with the result of a case: the same bars for all, then what the case itself says of its output."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile

from campaign.case import Case, Check, Result

BARS = ("traceback", "unexpected", "hang", "memory", "partial file", "wrong or empty output")
"""Faults that are counted; every finding begins with one of them."""

LIMIT_SECONDS = 20.0
LIMIT_MEGABYTES = 4096
_LONGEST = 10_000
"""Characters of a refusal, which may repeat a value of half as many."""

_PYTHON_WARNING = re.compile(r"^\S+\.py:\d+: \w*Warning: .*$", re.MULTILINE)
_UNEXPECTED = re.compile(r"\bunexpected [A-Z]\w+: ")
_OBJECT = re.compile(r"<[\w.]+ object at 0x|<class '")
_TEMPORARY = re.compile(r"(\.part$|\.tmp$|\.temp$|^tmp|^\..+\.[a-z0-9_]{8}$|^\..*[0-9a-f]{16})")


def judge(case: Case, result: Result) -> list[str]:
    """Return what is wrong, each beginning with one of `BARS`; empty where nothing is."""
    text = result.out + result.err
    findings = []
    if "Traceback (most recent call last)" in text:
        findings.append(f"traceback: {_last_line(result.err)}")
    elif found := _UNEXPECTED.search(text):
        findings.append(f"unexpected: {text[found.start() : found.start() + 200].splitlines()[0]}")
    elif not callable(case.run) and (found := _PYTHON_WARNING.search(result.err)):
        findings.append(f"unexpected: a warning of Python: {found.group()[:200]}")
    elif found := _OBJECT.search(text):
        findings.append(f"unexpected: an object in a message: {text[max(0, found.start() - 80) : found.end() + 80]!r}")
    if result.code not in (0, 1, 2, 130, 143):
        findings.append(f"traceback: exit code {result.code}")
    if result.megabytes > LIMIT_MEGABYTES:
        findings.append(f"memory: {result.megabytes:.0f} MB")
    findings += [f"partial file: {path}" for path in result.new_files if _is_partial(path, result.folder)]
    if unexpected := set(result.changed) - set(case.changes):
        findings.append(f"wrong or empty output: inputs were changed: {sorted(unexpected)[:3]}")
    return findings or (_of_success(case, result) if result.code == 0 else _of_refusal(case, result))


def _is_partial(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder)
    if any(part.endswith(".damaged") for part in inside.parts):  # set aside by `train`, as it was
        return False
    if any(_TEMPORARY.search(part) for part in inside.parts):
        return True
    return (
        path.is_file()
        and not path.is_symlink()
        and path.stat().st_size == 0
        and path.suffix != ".jsonl"
        and path.name != "lock"
    )


def _of_refusal(case: Case, result: Result) -> list[str]:
    findings = []
    if case.expect == "accept":
        findings.append(f"wrong or empty output: refused what is right: {_last_line(result.err)}")
    if case.silent:
        return findings
    if not (result.out + result.err).strip():
        findings.append("wrong or empty output: refused without a word")
    elif case.names and not any(name in result.out + result.err for name in case.names):
        findings.append(f"wrong or empty output: names none of {list(case.names)}: {_last_line(result.err)}")
    if len(result.err) > _LONGEST:
        findings.append(f"wrong or empty output: a refusal of {len(result.err)} characters")
    if result.new_files and not case.keeps:
        left = ", ".join(str(path.relative_to(result.folder)) for path in result.new_files[:3])
        findings.append(f"partial file: refused, and left {left}")
    return findings


def _of_success(case: Case, result: Result) -> list[str]:
    if case.expect == "refuse":
        return ["wrong or empty output: exit 0 for what must be refused"]
    try:
        wrong = case.check(result) if case.check else None
    except (OSError, ValueError, KeyError, soundfile.SoundFileError) as error:
        wrong = f"the output cannot be read: {type(error).__name__}: {error}"
    return [f"wrong or empty output: {wrong}"] if wrong else []


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "(nothing)"


# --- what outputs must be ---------------------------------------------------------------------------------------------


def audio_is(
    name: str | Path,
    n_samples: int | None = None,
    rate: int | None = 8000,
    *,
    channels: int | None = None,
    sounds: bool = True,
    tolerance: int = 0,
    at_least: int = 0,
) -> Check:
    """Return a check of a file: finite samples, so many, at this rate, not silent; shorter only with a word of it.

    Args:
        name: The file, in the folder of the case.
        n_samples: Exact length; None where it is not known.
        rate: In Hz; None where it may be any.
        channels: How many.
        sounds: Whether silence would be wrong.
        tolerance: Samples by which the length may be off.
        at_least: Samples below which something was left out, which stderr must say.
    """

    def check(result: Result) -> str | None:
        path = result.folder / name
        if not path.is_file():
            return f"{name} was not written"
        samples, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate is not None and own_rate != rate:
            return f"{name} is {own_rate} Hz, not {rate}"
        if not len(samples) or not np.isfinite(samples).all():
            return f"{name} is empty or not finite"
        if n_samples is not None and abs(len(samples) - n_samples) > tolerance:
            return f"{name} has {len(samples)} samples, not {n_samples}"
        if len(samples) < at_least and "warning" not in result.err:
            return f"{name} has {len(samples)} of {at_least} samples, without a word"
        if channels is not None and samples.shape[1] != channels:
            return f"{name} has {samples.shape[1]} channels, not {channels}"
        if sounds and np.abs(samples).max() < 1e-4:
            return f"{name} is silent"
        return None

    return check


def says_no_nan(result: Result) -> str | None:
    """Refuse an empty stdout, and numbers in it that are none."""
    if not result.out.strip():
        return "nothing on stdout"
    found = re.search(r"(?<![\w-])(nan|inf|-inf|NaN|Infinity)(?![\w-])", result.out)
    return (
        f"{found.group()} on stdout: {result.out[max(0, found.start() - 60) : found.end() + 20]!r}" if found else None
    )


def all_of(*checks: Check | None) -> Check:
    """Return a check that passes where all do."""

    def check(result: Result) -> str | None:
        return next((wrong for one in checks if one and (wrong := one(result))), None)

    return check


def has_files(*names: str) -> Check:
    """Return a check that files are there and hold something."""

    def check(result: Result) -> str | None:
        for name in names:
            path = result.folder / name
            if not path.is_file() or not path.stat().st_size:
                return f"{name} is missing or empty"
        return None

    return check
