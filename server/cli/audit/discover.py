"""`lorecall audit discover`: choose candidates, and make controls, from training data."""

from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.inputs import check_choice, open_scorer
from lorecall.server.cli.common.console import note, print_json, say
from lorecall.server.cli.common.options import AsJson, Batch, DataFormat, DataSplit, Roles, Seed, Timeout
from lorecall.server.cli.common.progress import steps_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lorecall.audit.discovery.discover import Discovery, DiscoverySettings
    from lorecall.audit.scorer import Scorer

BASE_SCORERS = ("offline", "transformers")


def discover(
    *,
    data: Annotated[
        str,
        typer.Option(metavar="FILE", help="Training data as the trainer read it: a file, folder or pattern."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where the candidates go.")],
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A running lorecall server, to ask its base.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A prepared base to ask, without a server.")
    ] = None,
    scorer: Annotated[
        str, typer.Option(help="With --base: offline (an engine of its own) or transformers (slow).")
    ] = "offline",
    data_format: DataFormat = None,
    data_split: DataSplit = None,
    tags: Annotated[
        str | None, typer.Option(metavar="LIST", help="Only these, such as card,iban; all by default.")
    ] = None,
    roles: Roles = None,
    top: Annotated[
        int, typer.Option(min=0, help="Candidates to write, the first by rank; 0 for all.")
    ] = 10_000,
    occurrences: Annotated[
        int, typer.Option(min=1, help="Places of each different span that become candidates.")
    ] = 1,
    shorter: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Ask also after only the last N characters; repeatable."),
    ] = None,
    scored: Annotated[
        int, typer.Option(min=1, help="Candidates that the base is asked for: the first without it.")
    ] = 5_000,
    control_count: Annotated[int, typer.Option(min=0, help="Controls to make; 0 for none.")] = 300,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Find in training data what would hurt, rank it by what is memorised first, and make controls."""
    from lorecall.audit.discovery.discover import DiscoverySettings
    from lorecall.audit.discovery.scan import ScanSettings

    if out.suffix != ".parquet":
        raise UsageError(f"--out {str(out)!r} is no .parquet file", param="out")
    settings = DiscoverySettings(
        scan=ScanSettings(roles=_names(roles), shorter=tuple(shorter or ())),
        tags=_names(tags),
        top=top,
        occurrences=occurrences,
        scored=scored,
        batch=batch,
        controls=control_count,
        seed=seed,
    )
    with _base_scorer(server, base, scorer, batch=batch, timeout=timeout) as engine:
        found = run_discovery(data, data_format, data_split, out, settings, engine)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found, out)


def run_discovery(
    data: str,
    data_format: str | None,
    data_split: str | None,
    out: Path,
    settings: "DiscoverySettings",
    engine: "Scorer | None",
    *,
    again: bool = True,
) -> "Discovery":
    """Search training data, and show the progress.

    With `again` false, files that an earlier search of the same has written are taken as they are.

    Raises:
        UsageError: The format or a tag is unknown, or the extra `discover` is not installed.
        CandidateError: The data cannot be used, or hold nothing to audit.
    """
    from lorecall.audit.discovery.discover import discover as search
    from lorecall.audit.discovery.discover import discovered
    from lorecall.audit.discovery.finder import Finder
    from lorecall.audit.training_data.rows import DataFormat as Format
    from lorecall.audit.training_data.rows import open_training_data

    check_choice("data format", data_format or "text", list(Format), "data_format")
    stated = None if data_format is None else Format(data_format)
    rows = open_training_data(data, stated, split=data_split)
    if not again and (found := discovered(rows, out, settings, engine)) is not None:
        note(f"taken from an earlier search of the same data: {out}")
        return found
    finder = Finder(settings.tags or None)
    with steps_bar() as progress:
        return search(rows, finder.find, out, settings, scorer=engine, progress=progress)


def choose_candidates(
    data: str | None,
    data_format: str | None,
    data_split: str | None,
    folder: Path,
    engine: "Callable[[], AbstractContextManager[Scorer]]",
    settings: "DiscoverySettings",
) -> tuple[Path, Path | None]:
    """Discover candidates for an audit; return their file and the controls', if there are any.

    Args:
        data: The training data, like the next two as for `run_discovery`.
        data_format: Its format.
        data_split: Its split.
        folder: The folder of both files, as `candidates_folder` gives it.
        engine: Opens the audit's scorer, whose base is asked.
        settings: How candidates are chosen.

    Raises:
        UsageError: There are no training data; or as for `run_discovery`.
        CandidateError: As for `run_discovery`.
    """
    from lorecall.audit.discovery.discover import controls_path

    if data is None:
        raise UsageError("--discover needs --data FILE", param="discover")
    file = folder / "candidates.parquet"
    with engine() as scorer:
        found = run_discovery(data, data_format, data_split, file, settings, scorer, again=False)
    note(f"{found.written} candidates of {found.rows} rows, ranked by {found.ranked_by}, in {folder}")
    _print_remarks(found)
    return file, controls_path(file) if found.controls else None


@contextmanager
def candidates_folder(out: Path | None) -> "Iterator[Path]":
    """Yield the folder of an audit's candidates, which only its owner can open.

    They hold what would hurt, and a folder of reports is what people hand on: so it lies beside that. Without
    reports it is a temporary one, which is removed.

    Raises:
        UsageError: It cannot be made.
    """
    if out is None:
        with TemporaryDirectory(prefix="lorecall-") as folder:
            yield Path(folder)
        return
    whole = out.resolve()
    beside = whole.with_name(f"{whole.name}.candidates") if whole.name else whole / "candidates"
    try:
        beside.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside.chmod(0o700)
    except OSError as error:
        raise UsageError(f"cannot make {str(beside)!r}: {error.strerror}", param="out") from error
    yield beside


def searched_roles(roles: str | None, turns: str) -> tuple[str, ...]:
    """Return the roles whose turns are searched: those of --roles, or the user's for --turns user."""
    return _names(roles) or (("user",) if turns == "user" else ())


@contextmanager
def _base_scorer(
    server: str | None, base: Path | None, kind: str, *, batch: int, timeout: float
) -> "Iterator[Scorer | None]":
    """Open what answers for the base; None if neither a server nor a base is named."""
    if server is not None and base is not None:
        raise UsageError("--server and --base exclude each other", param="base")
    if server is not None:
        with open_scorer("lorecall", server, None, {}, batch=batch, timeout=timeout) as scorer:
            yield scorer
    elif base is None:
        yield None
    elif kind == "transformers":
        from lorecall.audit.scorers.transformers_scorer import TransformersScorer

        yield TransformersScorer(base, {})
    elif kind == "offline":
        from lorecall.server.scoring.offline_scorer import offline_scorer

        with offline_scorer(base, {}) as scorer:
            yield scorer
    else:
        raise UsageError(f"unknown scorer {kind!r}", hint=f"one of {', '.join(BASE_SCORERS)}", param="scorer")


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())


def _print(found: "Discovery", out: Path) -> None:
    """Print what was found; never a text of it."""
    from lorecall.audit.discovery.discover import controls_path

    note(f"{found.rows} rows of {found.data_format}, sha256 {found.digest}")
    note(f"{found.found} spans, {found.spans} different; ranked by {found.ranked_by}")
    for tag, count in found.tags.items():
        say(f"{tag:12} {count:>8}")
    say(f"{'candidates':12} {found.written:>8}  {out}")
    if found.controls:
        say(f"{'controls':12} {found.controls:>8}  {controls_path(out)}")
    _print_remarks(found)


def _print_remarks(found: "Discovery") -> None:
    """Print what was left out or is odd, and that the controls are unlike the candidates if they are."""
    from lorecall.audit.training_data.counts import TREATMENTS

    for name, count in found.left_out.items():
        note(f"{name.replace('_', ' ')}: {count}" + (f" ({TREATMENTS[name]})" if name in TREATMENTS else ""))
    fit = found.exchangeable
    if fit is not None and not fit.holds:
        note(
            f"warning: the base tells the controls from the candidates (Kolmogorov-Smirnov distance "
            f"{fit.statistic:.2f}, p = {fit.p_value:.2g}): a comparison with them shows less"
        )
