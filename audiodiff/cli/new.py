"""`audiodiff new`: a model of one's own sound, from recordings to a page that says whether to keep it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, get_args

import click

from audiodiff.choices import MINUTES, ProjectKind
from audiodiff.cli import options as opt
from audiodiff.cli.progress import progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.project.plan import Project

_OFFERED = (5, 20, 60)
"""Minutes that a terminal is offered."""
_FEW_STEPS = 30
"""Steps below which little is learned; see egs/folder/finetune."""


@click.command(
    "new",
    cls=Verb,
    examples=(
        "audiodiff new my_voice/ recordings/ --minutes 20",
        "audiodiff vocode recording.wav -o out.wav --model my_voice/run/last",
    ),
)
@click.argument("folder", metavar="FOLDER", type=opt.FOLDER)
@click.argument("recordings", metavar="RECORDINGS...", nargs=-1, type=opt.EXISTING)
@click.option(
    "--kind", type=click.Choice(get_args(ProjectKind)), help="What the recordings are.  [default: guessed, and said]"
)
@click.option(
    "--minutes", type=MINUTES, metavar="MINUTES", help="How long to train: 5, 20, 60 ...  [default: asked for]"
)
@click.option(
    "--no-training", is_flag=True, help="Write lists, configuration and commands, and stop there, to change them first."
)
@opt.expert(
    "--model",
    metavar="NAME|FOLDER",
    help="What to start from, such as speech-22k-tiny on a slow machine.  [default: the nearest bundled model]",
)
@opt.workers
@opt.threads
def command(
    *,
    folder: Path,
    recordings: tuple[Path, ...],
    kind: ProjectKind | None,
    minutes: float | None,
    model: str | None,
    no_training: bool,
    workers: int | None,
) -> None:
    """Train a model of your own sound in FOLDER, and compare it with the bundled one.

    RECORDINGS are folders or files; twenty recordings of a few seconds, or one of some minutes, are a good beginning.
    For a voice or an instrument the bundled vocoder is fine-tuned; for one-shots (drums, words, effects) a bundled
    generator, with labels from the names of folders or files. Some recordings are held out. At the end,
    FOLDER/page/index.html plays them before and after, and says whether to keep the new model.

    All that is done is in FOLDER/conf.yaml and FOLDER/commands.sh, to change and to go on from. Rerun the same command
    to resume, without RECORDINGS if you like; with more --minutes it trains on.
    """
    from audiodiff.errors import TrainingError
    from audiodiff.project.plan import MODEL, PAGE, SCORES, Project, inside, title

    project = Project.read(folder)
    if project is None:
        if minutes is None and not _is_terminal():
            raise click.UsageError("how long may training take? Give --minutes 5, 20 or 60.")
        project = _begin(folder, recordings, kind, model, workers)
    else:
        if kind not in (None, project.kind):
            raise click.UsageError(f"{folder} is a project of kind {project.kind}. Give {kind} a folder of its own.")
        click.echo(f"{click.format_filename(folder)}: going on, {project.kind} from {project.model}")
    project = replace(project, minutes=minutes or project.minutes or _minutes(project))
    project.write(folder)
    commands = project.commands(title(folder))
    lines = [f"cd {quote(click.format_filename(folder))}", *(join(["audiodiff", *words]) for words in commands)]
    click.echo("\n".join(lines) + "\n")
    for line in project.missing:
        click.echo(line, err=True)
    steps = 60 * (project.minutes or 0) / project.step_seconds
    if steps < _FEW_STEPS:
        click.echo(
            f"note: {project.minutes:g} minutes are some {steps:.0f} steps here; {_FEW_STEPS} or more are advisable. "
            "Give more --minutes, now or later, or begin with a smaller --model.",
            err=True,
        )
    if no_training:
        return
    with inside(folder):
        for words in commands:
            _run(words)
            if not Path(MODEL).is_dir():
                raise TrainingError(
                    f"{project.minutes:g} minutes of training ended before the first step. Give more --minutes, or a "
                    "smaller --model."
                )
    _conclude(folder / SCORES, folder / PAGE, folder / MODEL)


def _begin(
    folder: Path, recordings: Sequence[Path], kind: ProjectKind | None, model: str | None, workers: int | None
) -> Project:
    """Look at the recordings, and say what was found and what will be done."""
    from audiodiff.data.manifest import amount
    from audiodiff.data.parallel import default_workers
    from audiodiff.errors import DataError
    from audiodiff.project.begin import begin, check_folder
    from audiodiff.project.recordings import guess_kind, look

    if not recordings:
        raise click.UsageError(f"Missing argument 'RECORDINGS...': {folder} holds no project yet.")
    check_folder(folder, recordings)
    with warnings.catch_warnings(), progress_bar(0, "looking at the recordings") as bar:
        warnings.simplefilter("ignore", UserWarning)  # what the library warns of is said below
        found = look(recordings, folder, workers or default_workers(), bar.set)
    for line in found.left_out:
        click.echo(f"left out: {click.format_filename(line)}", err=True)
    if not found.usable:
        raise DataError("no recording can be used. Give wav, flac, ogg, mp3 ... files with sound in them.")
    for finding in found.notes:
        click.echo(f"note: {finding.found} ({', '.join(finding.files[:3])}). {finding.advice}", err=True)
    if kind is None:
        kind, why = guess_kind(found.usable)
        click.echo(f"taken for {kind}, because {why}; --kind says otherwise")
    click.echo("dividing them, and measuring this machine ...", err=True)
    begun = begin(folder, recordings, kind, found, model)
    for part, (count, seconds) in begun.parts.items():
        click.echo(f"{part}: {amount(count, seconds)}")
    if begun.labels:
        click.echo(f"labels: {', '.join(begun.labels)}")
    click.echo(f"starts from {begun.project.model}; a training step takes {begun.project.step_seconds:.2g} s here")
    return begun.project


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _minutes(project: Project) -> float:
    """Ask how long training may take."""
    offers = ", ".join(f"{minutes} ({60 * minutes / project.step_seconds:.0f} steps)" for minutes in _OFFERED)
    return float(click.prompt(f"Minutes of training: {offers}", type=MINUTES, default=20, err=True))


def _run(words: Sequence[str]) -> None:
    """Run one of the commands as if it were typed; what ends it early ends this one too."""
    from audiodiff.cli.main import main

    context = click.get_current_context()
    verb = main.get_command(context, words[0])
    if verb is None:
        raise click.UsageError(f"no command {words[0]}")
    try:
        with verb.make_context(words[0], list(words[1:]), parent=context) as inner:
            verb.invoke(inner)
    except click.exceptions.Exit as ended:
        if ended.exit_code and words[0] != "evaluate":  # whose 1 says that a recording has no score
            raise


def _conclude(scores: Path, page: Path, model: Path) -> None:
    """Say what to use, and where it is."""
    from audiodiff.evaluation.results import read_json
    from audiodiff.evaluation.verdict import judge

    if verdict := judge(read_json(scores)):
        click.echo(f"\n{verdict.headline}")
    if page.is_file():
        click.echo(f"listen: {click.format_filename(page)}")
    click.echo(f"the model: {click.format_filename(model)}")
