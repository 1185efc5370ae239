"""Configurations in YAML and JSON: every key of every class with values of the wrong kind, and odd texts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from campaign.case import Case, Draw, damage
from campaign.oracle import audio_is, says_no_nan
from campaign.world import World

NAN, INF = float("nan"), float("inf")
VALUES: tuple[Any, ...] = (
    None, True, False, NAN, INF, -INF, -1, 0, 1, 2, 3, 7, 10**9, 10**19, 10**400, -(10**9), 0.5, 1e-320, 1e308, -0.0,
    "", " ", "x",
    "1", "nan", ".inf", "٣", "yes", "no", "on", "auto", "\0", "\u2028", "é", "\ud800", "x" * 5000, [], [1], [1, 2],
    [2, 1], [NAN, NAN], [[]],
    [1] * 1000, ["a", "a"], ["yes", "no", True], {}, {"a": 1}, {"name": "x"}, {"kind": "rbf"}, "searched",
    "hifigan-22k@16000", "hifigan-22k@1",
)  # fmt: skip
TEXTS = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "latin-1": lambda text: text.encode() + b"\n# \xe9\n",
    "tabs": lambda text: text.replace("  ", "\t").encode(),
    "NUL": lambda text: text.encode() + b"\0",
    "U+2028": lambda text: text.replace("\n", "\u2028", 1).encode(),
    "deep": lambda text: b"a: " + b"[" * 20_000,
    "deep mapping": lambda text: b"{a: " * 5_000,
    "itself": lambda text: text.encode() + b"\nx: &x [*x]\n",
    "itself below": lambda text: b"model: &m\n  network: *m\n",
    "laughs": lambda text: (
        b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (i, i, i - 1, i - 1) for i in range(98, 123))
    ),
    "two documents": lambda text: text.encode() + b"\n---\na: 1\n",
    "twice a key": lambda text: text.encode() + b"\nmodel: 1\n",
    "python object": lambda text: text.encode() + b"\nx: !!python/object/apply:os.system ['touch pwned']\n",
    "unknown tag": lambda text: text.encode() + b"\nx: !thing 1\n",
    "long integer": lambda text: text.encode() + b"\nx: " + b"9" * 5000 + b"\n",
    "date": lambda text: text.encode() + b"\nx: 2001-01-01\n",
    "bad date": lambda text: text.encode() + b"\nx: 2001-13-41\n",
    "list": lambda text: b"- 1\n- 2\n",
    "text": lambda text: b"hello\n",
    "nothing": lambda text: b"",
    "comment": lambda text: b"# nothing\n",
    "merge": lambda text: b"x: &x {a: 1}\n<<: *x\n" + text.encode(),
    "number keys": lambda text: text.encode() + b"\n1: 2\n? [a, b]\n: 3\n",
    "labels": lambda text: text.replace("labels: []", "labels: [yes, no, on, off, 01, ~]").encode(),
}
COMMANDS = (
    "train",
    "train",
    "train",
    "info",
    "vocode",
    "generate",
    "class",
    "class",
    "class",
    "class",
    "set",
    "export",
)


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Change a configuration, and use it."""
    command = draw.choice(COMMANDS)
    if command == "class":
        return _of_a_class(draw, folder)
    values = yaml.safe_load(world.conf.read_text())
    model = world.generator if command == "generate" else world.vocoder
    document = json.loads((model / "config.json").read_text())
    is_yaml = command in ("train", "set")
    wanted = values if is_yaml else document
    if command != "set" and draw.random() < 0.25:
        about, data = _as_text(draw, wanted, is_yaml)
    else:
        wanted, path, value = _changed(draw, wanted)
        about = f"{path} = {str(value)[:60]!r}"
        data = (yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True) if is_yaml else json.dumps(wanted)).encode(
            errors="surrogatepass"
        )
    if command == "set":
        return Case(
            ["train", str(world.conf), "--dry-run", "--set", f"{path}={_inline(value)}"],
            about,
            names=[path.split(".")[-1], "set"],
            check=says_no_nan,
            seconds=20,
        )
    if is_yaml:
        (folder / "conf.yaml").write_bytes(data)
        return Case(
            ["train", "conf.yaml", "--dry-run"],
            about,
            names=["conf.yaml", "data.train", "data.valid", *about.split(" = ")[0].split(".")[-1:]],
            check=says_no_nan,
            seconds=20,
        )
    world.copy(model, folder / "model")
    (folder / "model" / "config.json").write_bytes(data)
    commands = {
        "info": (["info", "model", *draw.choice([[], ["--json"]])], None),
        "vocode": (
            ["vocode", str(world.clip), "-o", "out.wav", "--model", "model", "--resample"],
            audio_is("out.wav", rate=_rate(data), sounds=False),
        ),
        "generate": (["generate", "--model", "model", "-o", "out"], None),
        "export": (["export", "model", "out"], None),
    }
    run, check = commands[command]
    return Case(
        run,
        about,
        names=["config.json", "model", *about.split(" = ")[0].split(".")[-1:]],
        check=check,
        keeps=command == "generate",
        seconds=10,
    )


def _rate(data: bytes) -> int:
    try:
        return int(json.loads(data)["config"]["sample_rate"])
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return 8000


def _of_a_class(draw: Draw, folder: Path) -> Case:
    """Give one key of one configuration class an odd value, by the library."""
    from audiodiff.config import base, mel, model, network, run

    kinds = sorted(
        {
            kind
            for module in (base, mel, model, network, run)
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, base.Config) and kind is not base.Config
        },
        key=lambda kind: kind.__name__,
    )
    kind = draw.choice(kinds)
    key, value = draw.choice(sorted(kind.model_fields)), draw.choice(VALUES)
    values: Any = {key: value} if draw.random() < 0.95 else value

    def parse() -> None:
        config = base.parse_config(kind, values, "the file")
        text = config.model_dump_json()
        if any(word in text for word in ("NaN", "Infinity")):
            raise AssertionError(f"not finite: {text[:200]}")
        if kind.model_validate_json(text) != config:
            raise AssertionError("does not survive JSON")

    return Case(parse, f"{kind.__name__}.{key} = {str(value)[:60]!r}", names=["the file"])


def _leaves(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        found += _leaves(value, (*path, key))
    return found


def _changed(draw: Draw, values: Any) -> tuple[Any, str, Any]:
    """Return plain values with one of them changed, removed or renamed; and where and to what."""
    values = copy.deepcopy(values)
    path = draw.choice(_leaves(values))
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    how = draw.choice(["value"] * 8 + ["remove", "add"])
    value = draw.choice(VALUES)
    if how == "remove":
        value = "(removed)"
        del parent[path[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent["unknown_key"] = value
        path = (*path[:-1], "unknown_key")
    else:
        parent[path[-1]] = value
    return values, ".".join(map(str, path)), value


def _as_text(draw: Draw, values: Any, is_yaml: bool) -> tuple[str, bytes]:
    text = yaml.safe_dump(values, sort_keys=False) if is_yaml else json.dumps(values)
    if draw.random() < 0.3:
        data, how = damage(text.encode(), draw)
        return f"text {how}", data
    how = draw.choice(sorted(TEXTS))
    return f"text {how}", TEXTS[how](text)


def _inline(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=False, width=10**6).removesuffix("\n...\n").strip()
    )
