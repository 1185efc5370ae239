"""What `audiodiff evaluate` does, by what it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.options import progress_bar

if TYPE_CHECKING:
    from audiodiff.evaluation.results import Evaluation

_OF_PAIRS = {
    *("metrics", "max_length_difference", "max_lag", "align", "mcd_alignment", "timings", "jobs"),
    *("csv_path", "report", "report_items"),
}
_OF_SETS = {"classifier", "frechet", "embedder", "force", "music"}
_ALONE = ("list_metrics", "table", "ratings", "train_classifier")
_WITH = {"train_classifier": ("held_out", "updates")}
"""Options that go with one that else stands alone."""
_SPELLED = {"list_metrics": "list", "others": "compare", "json_path": "json", "csv_path": "csv"}


def run(paths: Sequence[Path], options: dict[str, Any], given: set[str]) -> bool:
    """Do what was asked for.

    Args:
        paths: The arguments.
        options: All options by name.
        given: Which of them the user gave.

    Returns:
        Whether something could not be compared or scored.

    Raises:
        click.UsageError: If options do not go together.
    """
    mode = next((name for name in _ALONE if options[name]), None)
    stored = not mode and bool(paths) and all(path.suffix == ".json" for path in paths)
    if mode or stored:
        _refuse(given - {mode, *_WITH.get(mode or "", ())}, f"--{_spelled(mode)}" if mode else "stored results")
        _do_alone(mode, paths, options)
        return False
    _refuse(given & {*_WITH["train_classifier"]}, "anything but --train-classifier")
    of_sets = bool(given & {"classifier", "frechet", "music"})
    _refuse(given & (_OF_PAIRS if of_sets else _OF_SETS), "sets of clips" if of_sets else "recordings with originals")
    evaluation = _evaluate_sets(paths, options) if of_sets else _evaluate(paths, options)
    return bool(evaluation.problems)


def _spelled(name: str) -> str:
    return _SPELLED.get(name, name).replace("_", "-")


def _refuse(options: set[str], where: str) -> None:
    if options:
        raise click.UsageError(f"--{_spelled(min(options))} has no effect with {where}. Leave it out.")


def _do_alone(mode: str | None, paths: Sequence[Path], options: dict[str, Any]) -> None:
    if mode == "list_metrics":
        click.echo(_list_metrics())
    elif mode == "table":
        from audiodiff.evaluation.tables import rewrite_tables

        n_tables = rewrite_tables(options["table"])
        click.echo(f"{options['table']}: {n_tables} table{'s' if n_tables > 1 else ''} written")
    elif mode == "ratings":
        from audiodiff.evaluation.listening_test import rating_tables, read_ratings

        if not paths:
            raise click.UsageError("--ratings needs the CSV files that listeners downloaded.")
        click.echo(rating_tables(read_ratings(paths)))
    elif mode == "train_classifier":
        _train_classifier(paths, options["train_classifier"], options["held_out"], options["updates"])
    else:
        from audiodiff.evaluation.results import read_json

        for path in paths:
            _show(read_json(path))


def _train_classifier(paths: Sequence[Path], target: Path, held_out: Path | None, updates: int | None) -> None:
    from audiodiff.evaluation.classifier import save_classifier, train_classifier

    if not paths:
        raise click.UsageError("--train-classifier takes folders or manifests of labelled clips, got none.")
    length: dict[str, Any] = {} if updates is None else {"epochs": 1, "min_updates": updates}
    with progress_bar(1) as bar:
        classifier = train_classifier(paths, held_out=held_out, on_progress=bar.update, **length)
    save_classifier(target, classifier)
    config = classifier.config
    click.echo(f"{target}: {len(config.labels)} labels, accuracy {config.accuracy:.3f} on {config.measured_on}")


def _check_two(paths: Sequence[Path]) -> None:
    if len(paths) != 2:
        raise click.UsageError(f"expected GENERATED and REFERENCE, got {len(paths)} paths. See --help.")


def _evaluate_sets(paths: Sequence[Path], options: dict[str, Any]) -> Evaluation:
    from audiodiff.evaluation.classifier import load_classifier
    from audiodiff.evaluation.listing import list_recordings
    from audiodiff.evaluation.sets import SetOptions, evaluate_sets

    _check_two(paths)
    if options["frechet"] and not (options["classifier"] or options["embedder"]):
        raise click.UsageError("--frechet needs features: give --classifier or --embedder.")
    if (options["embedder"] or options["force"]) and not options["frechet"]:
        raise click.UsageError("--embedder and --force are for --frechet. Add it, or leave them out.")
    classifier = load_classifier(options["classifier"]) if options["classifier"] else None
    own = {name: options[name] for name in ("embedder", "frechet", "force", "music")}
    systems = _systems(options["name"] or paths[0].stem, paths[0], options["others"])
    n_parts = bool(classifier) + options["music"]
    total = n_parts * sum(len(list_recordings(path)) for path in (paths[1], *systems.values()))
    with progress_bar(total) as bar:
        evaluation = evaluate_sets(systems, paths[1], SetOptions(classifier, **own), bar.update)
    _show(evaluation)
    _store(evaluation, options)
    return evaluation


def _evaluate(paths: Sequence[Path], options: dict[str, Any]) -> Evaluation:
    _check_two(paths)
    generated, reference = paths
    systems = _systems(options["name"] or generated.stem, generated, options["others"])
    evaluation = _measure(systems, reference, options)
    _show(evaluation)
    _store(evaluation, options)
    if options["report"]:
        from audiodiff.evaluation.listening_test import write_report

        page = _with_folder(options["report"] / "index.html")
        with progress_bar(1) as bar:
            write_report(page, evaluation, options["report_items"], bar.update)
        click.echo(f"report: {click.format_filename(page)}", err=True)
    return evaluation


def _store(evaluation: Evaluation, options: dict[str, Any]) -> None:
    from audiodiff.evaluation.results import write_csv, write_json

    if options["json_path"]:
        write_json(_with_folder(options["json_path"]), evaluation)
    if options["csv_path"]:
        write_csv(_with_folder(options["csv_path"]), evaluation)


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _systems(name: str, generated: Path, others: Sequence[str]) -> dict[str, Path]:
    systems = {name: generated}
    for other in others:
        label, equals, path = other.rpartition("=")
        label = label if equals else Path(path).stem
        if label in systems:
            raise click.UsageError(f"two systems are called {label}. Name them: --name NAME, --compare NAME=PATH.")
        systems[label] = Path(path)
    return systems


def _measure(systems: dict[str, Path], reference: Path, options: dict[str, Any]) -> Evaluation:
    from audiodiff.evaluation.evaluate import AlignmentOptions, evaluate, read_timings
    from audiodiff.evaluation.listing import match_files
    from audiodiff.evaluation.scoring import resolve_metrics

    wanted = (options["metrics"] or "default,eval").split(",")
    timings = read_timings(options["timings"]) if options["timings"] else None
    metrics, notes = resolve_metrics([name.strip() for name in wanted] + (["timing"] if timings else []))
    for note in notes:
        click.echo(note, err=True)
    n_pairs = sum(len(match_files(path, reference)[0]) for path in systems.values())
    with progress_bar(n_pairs) as bar:
        return evaluate(
            systems,
            reference,
            metrics,
            alignment=AlignmentOptions(options["max_length_difference"], options["max_lag"], options["align"]),
            mcd_alignment=options["mcd_alignment"],
            timings=timings,
            jobs=options["jobs"],
            on_progress=bar.update,
        )


def _show(evaluation: Evaluation) -> None:
    from audiodiff.evaluation.tables import comparison_rows, summary_rows
    from audiodiff.tables import text_table

    if evaluation.metrics:
        n_files = len({file.name for system in evaluation.systems for file in system.files})
        click.echo(f"{n_files} recordings of {evaluation.reference}: means and 95 % intervals")
    else:
        click.echo(f"sets of clips against {evaluation.reference}")
    click.echo(text_table(summary_rows(evaluation)))
    if "classifier_accuracy" in evaluation.settings:
        click.echo(f"by a classifier that hears {evaluation.settings['classifier_accuracy']:.3f} of real clips right")
    if "mcd" in evaluation.metrics:
        click.echo(f"MCD13: order 13, alpha 0.65, c0 left out, alignment {evaluation.settings['mcd_alignment']}")
    if evaluation.metrics and len(evaluation.systems) > 1:
        click.echo(f"\nagainst {evaluation.systems[0].name}, recording by recording (sign-flip test):")
        click.echo(text_table(comparison_rows(evaluation)))
    for system in evaluation.systems:
        for file in system.files:
            for note in file.notes:
                click.echo(f"note: {system.name}, {file.name}: {note}", err=True)
    if evaluation.problems:
        click.echo(f"{len(evaluation.problems)} problems, in no mean:", err=True)
    for problem in evaluation.problems:
        click.echo(f"  {problem}", err=True)


def _list_metrics() -> str:
    from audiodiff.evaluation.registry import METRICS

    lines = []
    for name, metric in METRICS.items():
        direction = {"higher": "higher is better", "lower": "lower is better", "neither": "near the best is better"}
        best = "" if metric.best is None else f"; a recording against itself {metric.best:g}"
        lines += [
            f"{name}  {metric.title} (set {metric.belongs_to}{'' if metric.installed else ', not installed'})",
            f"    range    {metric.range}; {direction[metric.better]}{best}",
            f"    source   {metric.source}",
            f"    caution  {metric.caution}",
            f"    cost     {metric.cost:g} s per second of audio",
        ]
    return "\n".join(lines)
