"""The listening page is one file that plays, whose clips are equally loud, and whose forms count."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.listening_test import (
    COLUMNS,
    _plot_clips,
    match_loudness,
    mean_opinion_scores,
    missing_packages,
    rating_tables,
    read_ratings,
    write_report,
)
from audiodiff.evaluation.scoring import METRICS

RATE = 16000


@pytest.fixture(scope="module")
def page(tmp_path_factory, evaluation) -> Path:
    pytest.importorskip("pyloudnorm")
    path = tmp_path_factory.mktemp("page") / "index.html"
    shares: list[float] = []
    write_report(path, evaluation, 3, shares.append)
    assert sum(shares) == pytest.approx(1)
    return path


def embedded(page: Path) -> dict[tuple[str, str], np.ndarray]:
    """Decode every clip of a page, by item and system."""
    pattern = r'data-item="(.+?)" data-system="(.+?)" src="data:audio/flac;base64,(.+?)"'
    found = re.findall(pattern, page.read_text(encoding="utf-8"))
    return {(item, system): soundfile.read(io.BytesIO(base64.b64decode(data)))[0] for item, system, data in found}


def test_the_page_holds_every_clip_and_needs_nothing_else(page):
    clips = embedded(page)
    assert {system for _, system in clips} == {"reference", "good", "bad"}
    assert sorted({item for item, _ in clips}) == ["clip0", "clip1", "clip2"]
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/webp') == 9
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "http" not in text.replace("data:", "")
    assert "[[" not in re.sub(r"base64,[^\"]+", "", text)


def test_clips_are_as_loud_as_their_original(page):
    """The bad system is 6 dB too low in its files; on the page all are as loud as the original."""
    pyloudnorm = pytest.importorskip("pyloudnorm")
    meter = pyloudnorm.Meter(RATE)
    clips = embedded(page)
    for (item, _system), clip in clips.items():
        expected = meter.integrated_loudness(clips[item, "reference"])
        assert meter.integrated_loudness(clip) == pytest.approx(expected, abs=0.05)


def test_loud_clips_are_turned_down_together_and_short_and_silent_ones_are_taken():
    pytest.importorskip("pyloudnorm")
    noise = torch.randn(RATE // 8, generator=torch.Generator().manual_seed(0))
    spike = 0.1 * noise
    spike[100] = 4
    first, second = match_loudness([0.1 * noise, spike], RATE)
    assert max(first.abs().max(), second.abs().max()) == pytest.approx(0.99)
    silent = match_loudness([0.1 * noise, torch.zeros(RATE // 8)], RATE)
    assert not silent[1].any()
    torch.testing.assert_close(silent[0], 0.1 * noise)


def test_scores_and_problems_are_on_the_page(page, evaluation, tmp_path):
    assert "griffin" not in page.read_text(encoding="utf-8")
    mean = evaluation.systems[0].summary("m_stft").mean
    assert f"{mean:.3f} ±" in page.read_text(encoding="utf-8")
    evil = evaluation.model_copy(deep=True)
    evil.systems[0].name = "<script>alert(1)</script>"
    write_report(tmp_path / "evil.html", evil, 1)
    assert "<script>alert" not in (tmp_path / "evil.html").read_text(encoding="utf-8")


def test_what_cannot_be_shown_is_refused(evaluation, tmp_path, monkeypatch):
    lonely = evaluation.model_copy(deep=True)
    lonely.systems[0].files = []
    with pytest.raises(AudioError, match="no recording was scored for every system"):
        write_report(tmp_path / "x.html", lonely)
    assert list(tmp_path.iterdir()) == []


def test_the_base_install_makes_a_page_and_says_what_it_lacks(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr("audiodiff.evaluation.listening_test.find_spec", lambda package: None)
    for package in ("pyloudnorm", "matplotlib", "pesq"):
        monkeypatch.setitem(sys.modules, package, None)
    assert [re.search(r"audiodiff\[(\w+)\]", line)[1] for line in missing_packages()] == ["plots", "eval"]
    write_report(tmp_path / "x.html", evaluation, 1)
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "have the mean power of the original" in text
    assert "<img" not in text
    clips = embedded(tmp_path / "x.html")
    powers = [np.square(clip).mean() for clip in clips.values()]
    assert powers == pytest.approx([powers[0]] * 3, rel=0.02)


def test_the_note_names_a_row_only_where_it_is(page, evaluation, tmp_path):
    title = METRICS["rms_ratio_db"].title
    without = evaluation.model_copy(deep=True)
    without.metrics = [name for name in evaluation.metrics if name != "rms_ratio_db"]
    write_report(tmp_path / "x.html", without, 1)
    assert f"“{title}” above" not in (tmp_path / "x.html").read_text(encoding="utf-8")
    without.metrics = [*without.metrics, "rms_ratio_db"]
    write_report(tmp_path / "x.html", without, 1)
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert f"“{title}” above" in text
    assert f"<th scope=row>{title}" in text


# --- in a browser -----------------------------------------------------------------------------------------------------

# Plays a listener: waits for the players, fills in both forms, plays what a trial needs, answers, takes the CSV.
LISTENER = """
<script>
const files = {};
URL.createObjectURL = (blob) => { blob.text().then((text) => { files[text.split('"')[19]] = text; }); return "#"; };
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
function work(id, plays, answer) {
  const section = document.getElementById(id);
  section.querySelector("input").value = "Ann";
  section.querySelector("form button").click();
  section.scrollIntoView({ behavior: "instant" });
  let n = 0;
  while (!section.querySelector(".trial").masked && n++ < 99) {
    const answers = [...section.querySelectorAll("[data-answer]")];
    if (!answers.every((button) => button.disabled)) throw "answered before listening";
    if (n % 2) { for (const play of plays) section.querySelector(`[data-play="${play}"]`).click(); }
    else { for (const play of plays) press(id === "mos" ? "p" : play.toLowerCase()); }
    const value = answer(section);
    if (n % 2) section.querySelector(`[data-answer="${value}"]`).click();
    else press(id === "mos" ? value : value === "A" ? "1" : "2");
  }
  section.querySelector(".download").click();
  return section.querySelector(".result").textContent;
}
const playing = () => document.querySelector("body > audio").src;
const matching = (src) => players.find((player) => player.src === src).dataset.system;
addEventListener("load", () => setTimeout(() => {
  const heard = {};
  const marks = { reference: "5", good: "4", bad: "2" };
  document.querySelector("#abx-setup select[name=second]").value = "bad";
  const verdicts = [];
  verdicts.push(work("abx", ["A", "B", "X"], (section) => {
    const x = playing();
    section.querySelector('[data-play="A"]').click();
    return playing() === x ? "A" : "B";
  }));
  verdicts.push(work("mos", ["clip"], () => marks[matching(playing())]));
  setTimeout(() => {
    const out = document.createElement("pre");
    out.id = "out";
    out.textContent = JSON.stringify({ ready: document.getElementById("ready").textContent, verdicts, files,
      width: document.documentElement.scrollWidth - innerWidth });
    document.body.append(out);
  }, 500);
}, 2500));
</script>
</body>"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium")
@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_players_load_and_the_forms_count(page, tmp_path, size):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", LISTENER), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=15000", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (found,) = re.findall(r'<pre id="out">(.+?)</pre>', dom, re.DOTALL)
    seen = json.loads(found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert seen["ready"] == "9 of 9 players ready"
    assert seen["verdicts"] == ["3 of 3 right.", "9 clips rated. Thank you."]
    assert seen["width"] <= 0, "the page is wider than the window"
    for name, text in seen["files"].items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8", newline="")
        assert tuple(next(csv.reader(io.StringIO(text)))) == COLUMNS
    answers = read_ratings([tmp_path / "abx.csv", tmp_path / "mos.csv"])
    assert len(answers) == 12
    assert {system: mos.mean for system, (mos, _) in mean_opinion_scores(answers).items()} == {
        "reference": 5,
        "good": 4,
        "bad": 2,
    }


def mos(listener, item, system, score, seconds=1.0):
    return ["mos", listener, item, system, "", "", score, score, seconds]


def abx(listener, item, right, first="a", second="b", seconds=1.0):
    return ["abx", listener, item, first, second, "A", "A" if right else "B", int(right), seconds]


@pytest.fixture
def save(tmp_path):
    def write(name, rows, columns=COLUMNS):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([columns, *rows])
        return tmp_path / name

    return write


def test_means_are_those_of_listeners(save):
    """Ann rates twice as often, and counts no more for it: (1 + 4) / 2 and not (1 + 1 + 4) / 3."""
    file = save("x.csv", [mos("Ann", "1", "a", 1), mos("Ann", "2", "a", 1), mos("Bob", "1", "a", 4)])
    (estimate, n) = mean_opinion_scores(read_ratings([file]))["a"]
    assert (estimate.mean, n) == (2.5, 3)
    assert estimate.low == pytest.approx(2.5 - 12.706 * 1.5, abs=0.01)  # t of one degree of freedom, deviation 2.12


def test_one_listener_says_nothing_of_others(save):
    table = rating_tables(read_ratings([save("x.csv", [mos("Ann", "1", "a", 3), mos("Ann", "2", "a", 4)])]))
    assert "3.50" in table
    assert "One listener" in table


def test_abx_is_a_binomial_test_whichever_system_was_a(save):
    rows = [abx("Ann", str(i), True, *("ab" if i % 2 else "ba")) for i in range(8)]
    table = rating_tables(read_ratings([save("x.csv", rows)]))
    assert "a - b" in table
    assert "1.00" in table
    assert f"{0.5**8:.4f}" in table
    assert "0.68 to 1.00" in table  # Wilson: 8 / (8 + 1.96^2)


def test_answers_in_two_files_count_once(save, caplog):
    first = save("x.csv", [mos("Ann", "1", "a", 3)])
    both = save("y.csv", [mos("Ann", "1", "a", 3), mos("Ann", "1", "a", 3, seconds=2.0)])
    with caplog.at_level(logging.WARNING, "audiodiff"):
        assert len(read_ratings([first, both])) == 2
    assert "1 answers are in more than one file" in caplog.text


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([["mos", "A", "1", "a", "", "", "6", "6", "1"]], COLUMNS, r"x.csv:2: test 'mos' with score '6'; expected"),
        ([["abc", "A", "1", "a", "", "", "1", "1", "1"]], COLUMNS, "test 'abc'"),
        ([["1", "2"]], ("a", "b"), "has not the columns test, listener"),
        ([["mos", "A"]], COLUMNS, "x.csv:2 has 2 cells; the header has 9"),
        ([], COLUMNS, "hold no answers"),
    ],
)
def test_what_is_no_answer_is_named(save, rows, columns, message):
    with pytest.raises(DataError, match=message):
        read_ratings([save("x.csv", rows, columns)])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.csv cannot be read"):
        read_ratings([tmp_path / "none.csv"])


def test_clips_of_any_length_have_a_loudness_and_a_picture():
    pytest.importorskip("pyloudnorm")
    noise = 0.1 * torch.randn(RATE // 2, generator=torch.Generator().manual_seed(0))
    for rate, n_samples in ((8000, 1), (8000, 2031), (22050, 386), (24000, 190), (44100, 8821), (48000, 19199)):
        whole, quieter = match_loudness([noise[:n_samples], 0.5 * noise[:n_samples]], rate)
        torch.testing.assert_close(quieter, whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(_plot_clips([clip[:n_samples]], 8000) for clip in (noise, 0 * noise) for n_samples in (1, 192, 1000))
