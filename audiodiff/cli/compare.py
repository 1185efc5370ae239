"""`audiodiff compare`: training runs, over their seeds."""

from __future__ import annotations

from pathlib import Path

import click

from audiodiff.cli import options as opt
from audiodiff.cli.progress import loading
from audiodiff.cli.verbs import Verb


@click.command(
    "compare",
    cls=Verb,
    examples=(
        "audiodiff compare exp/vocoder/",
        "audiodiff compare exp/a exp/b --plot losses.png",
    ),
)
@click.argument("runs", nargs=-1, required=True, type=opt.EXISTING_FOLDER, metavar="RUNS...")
@click.option(
    "--metric", default="loss", show_default=True, metavar="NAME", help="loss, m_stft, log_mel, pesq_wb, estoi ..."
)
@click.option("--latex", is_flag=True, help="Print a LaTeX table instead of Markdown.")
@click.option(
    "--plot",
    type=opt.FILE,
    metavar="FILE",
    callback=opt.need_plots,
    help="Plot the validation losses with a band over seeds: .png, .svg or .pdf.",
)
def command(*, runs: tuple[Path, ...], metric: str, latex: bool, plot: Path | None) -> None:
    """Compare training runs: folders of `audiodiff train`, or folders of such.

    Runs that differ in their seed alone are one row. Each row is compared with the first, seed by seed; a difference
    that the seeds alone could make (its 95 % interval includes zero) is not called better or worse.
    """
    with loading("the runs"):
        from audiodiff.evaluation.runs import compare_runs, comparison_rows, plot_runs
        from audiodiff.text import latex_table, markdown_table

        comparison = compare_runs(runs, metric)
    click.echo((latex_table if latex else markdown_table)(comparison_rows(comparison)))
    if plot is not None:
        from matplotlib.figure import Figure

        from audiodiff.audio.plots import save_figure

        figure = Figure(figsize=(9, 5), layout="constrained")
        plot_runs(figure.subplots(), comparison)
        save_figure(figure, plot)
        click.echo(click.format_filename(plot))
