"""Tables say what the report holds, with the derived figures right."""

import pytest

from audiodiff.benchmark.history import read_report
from audiodiff.benchmark.results import Measurement, Report, Roofline
from audiodiff.benchmark.tables import as_markdown, as_text, report_tables, row_lines
from audiodiff.errors import ConfigError


def cells(report, title):
    (table,) = [table for table in report_tables(report) if table.title.startswith(title)]
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def test_synthesis(report):
    first, second = cells(report, "Synthesis: ")
    assert first["real-time factor"] == "0.250 (0.125-0.500)"  # 2 s for 8 s of audio
    assert first["of roofline"] == "50.0%"  # 4 GFLOP in 2 s of 4 GFLOP/s
    assert first["peak GB"] == "1.50 (+1.10)"
    assert second["of roofline"] == "n/a"  # nothing was measured in fp32
    assert second["peak GB"] == "n/a"
    assert second["seconds"] == "2.00 (once)"


def test_more_than_the_roofline_beside_a_row_is_noise(report):
    def used(rate):
        roofline = Roofline(matmul_rate=Measurement.from_values([rate]), copy_rate=Measurement.from_values([7e9]))
        row = report.synthesis[0].model_copy(update={"rooflines": {"bf16": roofline}})
        return cells(report.model_copy(update={"synthesis": (row,)}), "Synthesis: ")[0]

    assert (used(1e9)["of roofline"], used(8e9)["of roofline"]) == ("200.0% (noise)", "25.0%")  # 2 GFLOP/s
    assert used(8e9)["GFLOP/s, GB/s"] == "8.00, 7.00"


def test_a_line_has_the_figures_of_one_row(report):
    (line,) = row_lines(report, "streaming", report.streaming[0])
    assert line.startswith(
        "stream, m, fp32, 2 steps, chunks of 20 ms, threads 1: latency, ms 150; real-time factor 0.5"
    )
    ours, baseline = row_lines(report, "comparisons", report.comparisons[0])
    assert "against diffwave, 6 steps, batch 2 x 44100 samples, audiodiff, bf16: seconds 2.00 (1.00-4.00); " in ours
    assert "times diffwave 8.00 (once)" in ours
    assert "diffwave, fp32: seconds 16.0 (once)" in baseline


def test_streaming(report):
    (row,) = cells(report, "Streaming, ")
    assert (row["threads"], row["chunk, ms"], row["latency, ms"]) == ("1", "20.0", "150")
    assert row["real-time factor"] == "0.500 (0.250-1.00)"  # 2 s for 4 s of audio
    assert row["offline"] == "0.250 (once)"
    assert row["times offline"] == "2.00 (1.00-4.00)"


def test_training(report):
    (row,) = cells(report, "Training: ")
    assert row["samples/s"] == "1,500 (750-3,000)"  # 3 crops of 1000 samples


def test_contests(report):
    ours, baseline = cells(report, "Synthesis with diffwave-base")
    assert ours["times diffwave"] == "8.00 (once)"
    assert ours["real-time factor"] == "0.500 (0.250-1.00)"  # 2 s for 2 clips of 2 s
    assert ours["of roofline"] == "25.0%"
    assert (baseline["times diffwave"], baseline["real-time factor"]) == ("1", "4.00 (once)")
    learning, _ = cells(report, "Training with diffwave-base")
    assert learning["samples/s"] == "44,100 (22,050-88,200)"
    titles = [table.title for table in report_tables(report)]
    assert "6 steps (of the baseline 1 timed, and scaled up)" in titles[-3]


def test_every_table_is_well_formed_markdown(report):
    text = as_markdown(report_tables(report))
    blocks = [block.splitlines() for block in text.split("\n\n")]
    grids = [block for block in blocks if block[0].startswith("|")]
    assert len(grids) == len(report_tables(report)) - 1  # notes are a list
    for grid in grids:
        assert len({line.replace("\\|", "").count("|") for line in grid}) == 1
    assert "- a | b was left out" in text


def test_columns_are_aligned_in_text(report):
    lines = as_text(report_tables(report)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Synthesis: "))
    header, *rows = lines[start + 1 : start + 4]
    assert {len(line) for line in (header, *rows)} == {len(header)}


def test_what_was_not_measured_has_no_table(report):
    bare = report.model_copy(update={"training": (), "streaming": (), "comparisons": (), "notes": (), "precision": ()})
    assert [table.title.split(":")[0] for table in report_tables(bare)] == ["Machine", "Matrix products", "Synthesis"]


def test_a_report_survives_its_file(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    assert read_report(path) == report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "cannot be read as JSON"),
        ("[]", "it says None"),
        ('{"audiodiff_benchmark": 2}', r"in format 1 \(it says 2\)"),
        ('{"audiodiff_benchmark": 1, "command": "x"}', "machine: Field required"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_report(path)


def test_the_schema_names_units(report):
    schema = Report.model_json_schema()
    assert "FLOP/s" in schema["$defs"]["MatmulResult"]["properties"]["rate"]["description"]
