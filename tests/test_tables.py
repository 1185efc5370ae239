"""Tables line up in a terminal and are valid Markdown."""

from audiodiff.tables import markdown_table, text_table

ROWS = [["", "b"], ["aa", "1.5"]]


def test_columns_line_up():
    assert text_table(ROWS) == "      b\naa  1.5"
    assert text_table(ROWS, align="left", indent=2) == "      b\n  aa  1.5"


def test_markdown_has_a_rule_and_no_bar_inside_a_cell():
    assert markdown_table(ROWS) == "| | b |\n|---|---|\n| aa | 1.5 |"
    assert markdown_table([["a|b", "c"], ["", "1"]], align="right") == "| a\\|b | c |\n|---|---:|\n| | 1 |"
