"""Text is read as other programs wrote it, and what is wrong is named; tables line up and are valid Markdown."""

import codecs

import pytest

from audiodiff.config import ModelConfig, load_run_config, parse_config
from audiodiff.errors import ConfigError, DataError
from audiodiff.text import markdown_table, parse_yaml, read_csv, read_json, read_lines, read_text, read_yaml, text_table

ROWS = [["", "b"], ["aa", "1.5"]]


def test_columns_line_up():
    assert text_table(ROWS) == "      b\naa  1.5"
    assert text_table(ROWS, align="left", indent=2) == "      b\n  aa  1.5"


def test_markdown_has_a_rule_and_no_bar_inside_a_cell():
    assert markdown_table(ROWS) == "| | b |\n|---|---|\n| aa | 1.5 |"
    assert markdown_table([["a|b", "c"], ["", "1"]], align="right") == "| a\\|b | c |\n|---|---:|\n| | 1 |"


WRITTEN = {
    "unix": b"one\n  two \xe2\x80\xa8 \xc2\x85 2\n\nthree\x00\x0b\x1c",
    "windows": "one\r\n\ttwo \u2028 \x85 2\t\r\n\r\nthree\x00\x0b\x1c\r\n".encode(),
    "classic mac": "one\rtwo \u2028 \x85 2\r\rthree\x00\x0b\x1c\r".encode(),
    "byte order mark": codecs.BOM_UTF8 + "one\r\ntwo \u2028 \x85 2\r\n\r\nthree\x00\x0b\x1c".encode(),
    "UTF-16": "one\r\ntwo \u2028 \x85 2\r\n\r\nthree\x00\x0b\x1c\r\n".encode("utf-16"),
    "UTF-16, big": codecs.BOM_UTF16_BE + "one\ntwo \u2028 \x85 2\n\nthree\x00\x0b\x1c".encode("utf-16-be"),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_lines_end_where_their_writer_ended_them(tmp_path, written):
    (tmp_path / "x").write_bytes(written)
    assert read_lines(tmp_path / "x") == [(1, "one"), (2, "two \u2028 \x85 2"), (4, "three\x00\x0b\x1c")]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            b"a\nb\nM\xfcller\n",
            r"x cannot be read as text: line 3 has the bytes b'\\xfcll.*not UTF-8. Save it as UTF-8",
        ),
        (codecs.BOM_UTF16_LE + b"\x00", "which are not UTF-16"),
        (None, "x cannot be read: No such file"),
    ],
)
def test_what_is_no_text_is_refused_by_line_and_bytes(tmp_path, written, message):
    if written is not None:
        (tmp_path / "x").write_bytes(written)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "x")


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"x\\x00y' cannot be read"):
        read_text(tmp_path / "x\0y", ConfigError)


@pytest.mark.parametrize("separator", ",;\t")
def test_tables_are_read_with_the_separators_and_ends_of_lines_that_spreadsheets_write(tmp_path, separator):
    text = 'name,text\r\na.wav,"two\r\nlines, ""quoted"""\r\n\r\nb.wav,\u2028\r\n'.replace(",", separator)
    (tmp_path / "t.csv").write_bytes(codecs.BOM_UTF8 + text.encode())
    assert [(where.rpartition("/")[2], row) for where, row in read_csv(tmp_path / "t.csv", ["name"])] == [
        ("t.csv:3", {"name": "a.wav", "text": f'two\nlines{separator} "quoted"'}),
        ("t.csv:5", {"name": "b.wav", "text": "\u2028"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"t.csv:3 has 1 cells; the header has 2"),
        ("a,b\n1,2,3\n", r"t.csv:2 has 3 cells; the header has 2"),
        ('a,b\n1,2\n"3,4\n5,6\n', r"t.csv:\d is no row of a table: unexpected end of data"),
        ("b,a \n1,2\n", "t.csv has no column 'a'; it has 'b', 'a '"),
        ("", "t.csv has no column 'a'; it has none"),
    ],
)
def test_a_table_with_a_bad_row_is_refused_by_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_csv(tmp_path / "t.csv", ["a"]))


def test_words_of_yaml_stay_words():
    words = ["yes", "No", "on", "OFF", "y", "01", "007", "0x1F", "1:30", "2020-01-01", "1e4"]
    assert parse_yaml(f"\ufeffx: [{', '.join(words)}]\r\n", "x") == {"x": words}


def test_numbers_truth_and_nothing_are_read_by_yaml():
    text = "[1, -2, 0, 10_000, 1.5, -.5, 1.0e-4, .inf, true, False, null, ~]"
    assert parse_yaml(text, "x") == [1, -2, 0, 10000, 1.5, -0.5, 1e-4, float("inf"), True, False, None, None]


def test_labels_are_what_is_written(tmp_path):
    (tmp_path / "c.yaml").write_text("model: {sample_rate: 8000, labels: [yes, no, on, 01]}\ndata: {train: x}\n")
    assert load_run_config(tmp_path / "c.yaml").model.labels == ("yes", "no", "on", "01")


@pytest.mark.parametrize(("value", "shown"), [("true", "True"), ("7", "7"), ("1.10", "1.1")])
def test_a_label_that_yaml_takes_for_something_else_is_to_be_quoted(value, shown):
    values = parse_yaml(f"sample_rate: 8000\nlabels: [a, {value}]", "x")
    with pytest.raises(
        ConfigError, match=rf"labels.1: Input should be a valid string, not {shown}; write it in quotes"
    ):
        parse_config(ModelConfig, values, "x")
    values = parse_yaml(f"sample_rate: 8000\nlabels: [a, '{value}']", "x")
    assert parse_config(ModelConfig, values, "x").labels == ("a", value)


TEN_OF_THE_LAST = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "nested more than 100 deep, or contains itself"),
        ("&a {b: *a}", "contains itself"),
        ("[" * 5000, "nested more than 100 deep"),
        ("- " * 5000, "nested more than 100 deep"),
        ("a0: &a0 [1]\n" + TEN_OF_THE_LAST, "more than 10,000,000 values"),
        ("a: 1\n\nb: " + "1" * 5000, "x:3 has a number of 5,000 digits"),
        ("a: 1\nb: 2\na: 3", "(?s)'a' is there twice.*line 3"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: \x00", "#x0000"),
        ("a: [", 'in "x", line 1, column 5'),
        ("? [a]\n: b", "unhashable"),
        ("!!int x", "cannot be read as YAML"),
        ("!!bool maybe", "a value does not fit its tag"),
        ('!!int ""', "a value does not fit its tag"),
    ],
)
def test_yaml_that_no_one_means_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "x", ConfigError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 100 deep"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ('{"a": 1,\n"b": ' + "1" * 5000 + "}", "x:2 has a number of 5,000 digits"),
        ('{"a": 1,\n', "cannot be read as JSON: .* line 2"),
        ('[{"b": {"a": 1, "a": 2}}]', "cannot be read as JSON: 'a' is there twice"),
        ("\xff", "cannot be read as JSON: line 1 has the bytes"),
    ],
)
def test_json_that_no_one_means_is_refused(tmp_path, text, message):
    (tmp_path / "x").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "x")


def test_documents_are_read_behind_a_byte_order_mark(tmp_path):
    (tmp_path / "x").write_bytes(codecs.BOM_UTF8 + b'{"a":\r\n "1' + b"1" * 5000 + b'"}')
    assert read_json(tmp_path / "x") == read_yaml(tmp_path / "x") == {"a": "1" * 5001}
