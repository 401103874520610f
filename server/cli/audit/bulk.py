"""`lorecall audit bulk`: audit many adapters on many snippets, spread over Ray's workers."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import AdapterNotFoundError, UsageError
from lorecall.adapters.peft_format.files import CONFIG_FILE
from lorecall.server.cli.audit.discover import candidates_folder
from lorecall.server.cli.audit.inputs import choose_policy, open_scorer
from lorecall.server.cli.audit.sets import SetOptions, ViewOptions, expanded, read_sets
from lorecall.server.cli.audit.spending import choose_decoding
from lorecall.server.cli.common.console import note, say
from lorecall.server.cli.common.options import (
    Batch,
    Choose,
    Controls,
    DataFormat,
    DataSplit,
    Roles,
    Seed,
    SigningKey,
    SkipBad,
    Split,
    Timeout,
    Tokenizer,
    TurnsOption,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from lorecall.audit.bulk.plan import BulkPlan
    from lorecall.audit.bulk.run import Folders, Pool
    from lorecall.audit.records import AuditResult
    from lorecall.audit.reports.report import Report
    from lorecall.audit.runs.single import AuditSettings
    from lorecall.audit.scorer import Scorer

WORST_FIRST = (4, 1, 3, 0)
"""Exit codes in the order in which one outweighs another: as in the gate."""


@dataclass(frozen=True, slots=True)
class _Engines:
    """What answers: servers, or engines that the workers start."""

    openers: "tuple[Callable[[], AbstractContextManager[Scorer]], ...]"
    names: list[str]
    served: bool


@expanded
def bulk(
    *,
    adapters: Annotated[
        str,
        typer.Option(
            metavar="PATTERN", help="Names on the servers, or folders with --base; such as 'acme-*'."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Results; blocks lie beside it, in DIR.candidates.")
    ],
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A running lorecall server; repeatable: all have the same base."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A prepared base: workers start engines of their own.")
    ] = None,
    scorer: Annotated[str, typer.Option(help="With --base: offline, or transformers.")] = "offline",
    candidates: Annotated[
        str | None, typer.Option(metavar="FILE", help="As for `audit run`; or s3://, also with a pattern.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Training data as for `audit run`; or s3://, also with a pattern."),
    ] = None,
    data_format: DataFormat = None,
    data_split: DataSplit = None,
    choose: Choose = None,
    roles: Roles = None,
    controls: Controls = None,
    control_count: Annotated[
        int, typer.Option(min=0, help="Controls that a search of --data makes; 0 for none.")
    ] = 300,
    skip_bad: SkipBad = False,
    split: Split = "sentence",
    turns: TurnsOption = "only",
    tokenizer: Tokenizer = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="The gate's policy.")] = None,
    decode: Annotated[str | None, typer.Option(help="all or likely, as for `audit run`.")] = None,
    ways: ViewOptions,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Rows hold candidates' texts and exact probabilities.")
    ] = False,
    signing_key: SigningKey = None,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
    ray: Annotated[
        str, typer.Option(metavar="local|ADDRESS", help="A small Ray on this machine, or a cluster.")
    ] = "local",
    actors: Annotated[
        int, typer.Option(min=1, help="Workers for each server; with --base, engines in all.")
    ] = 2,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs of each worker's own engine.")] = 0.0,
    together: Annotated[
        int,
        typer.Option(min=1, help="Adapters asked for at a time; no more than a server has slots for."),
    ] = 8,
    block: Annotated[int, typer.Option(min=1, help="Snippets of a block, which a kill does again.")] = 1024,
) -> None:
    """Audit many adapters on the same snippets, on Ray; run again, it goes on where it stopped.

    Writes DIR/results/VERSION.parquet, one row for each snippet, and DIR/reports/VERSION.json. Exit codes are
    those of `audit run`, for the worst adapter.
    """
    from lorecall.audit.bulk.cluster import require, started

    require()
    from lorecall.audit.bulk.plan import alone, digest_of, load_plan
    from lorecall.audit.bulk.run import Folders, Pool
    from lorecall.audit.reports.signing import read_signing_key
    from lorecall.audit.runs.single import AuditSettings
    from lorecall.audit.verdicts import Group
    from lorecall.server.cli.audit.output import make_folder, make_report

    signer = None if signing_key is None else read_signing_key(signing_key)
    rules = choose_policy(policy, {})
    settings = AuditSettings(
        epsilon=ways.epsilon,
        bounds=rules.bounds.bounds(),
        seed=seed,
        chunk=batch,
        views=ways.views(),
        extraction=rules.sampling_wish,
    )
    inputs = SetOptions(
        candidates=None,
        data=None,
        data_format=data_format,
        data_split=data_split,
        choose=choose,
        roles=roles,
        controls=controls,
        split=split,
        turns=turns,
        tokenizer=tokenizer or base,
        skip_bad=skip_bad,
        control_count=control_count,
    )
    options = (
        candidates,
        data,
        adapters,
        base,
        scorer,
        rules.model_dump(),
        decode,
        show_text,
        together,
        block,
    )
    asked = digest_of({"inputs": inputs, "options": options, "settings": settings})
    make_folder(out)
    engines = _engines(server, base, scorer, adapters, batch=batch, timeout=timeout)
    with candidates_folder(out) as work, alone(work), started(ray):
        folders = Folders(work / "blocks", work / "parts")
        folders.blocks.mkdir(exist_ok=True, mode=0o700)
        plan = load_plan(folders.blocks, asked)
        if plan is None or not _can_go_on(plan, folders, out):
            plan = _begin(
                asked, (candidates, data), inputs, engines, settings, folders.blocks, (together, block), out
            )
        elif engines.served:
            _check(plan, engines)
        share = choose_decoding(
            decode, rules, plan.sizes[Group.CANDIDATES], trained=data is not None, sequential=False
        )
        settings = replace(settings, checked_share=share)
        count = actors * (len(engines.openers) if engines.served else 1)
        pool = Pool(count) if engines.served else Pool(count, cpus=1.0, gpus=gpus)
        report = partial(make_report, policy=rules, texts=lambda _ids: [], show=show_text, signer=signer)
        _run(plan, folders, settings, engines, pool, out, report, show=show_text)
    raise typer.Exit(_summarise(out, plan))


def _run(
    plan: "BulkPlan",
    folders: "Folders",
    settings: "AuditSettings",
    engines: _Engines,
    pool: "Pool",
    out: Path,
    report: "Callable[[AuditResult], Report]",
    *,
    show: bool,
) -> None:
    """Judge what is left, and write each adapter's rows and then its report."""
    from lorecall.audit.bulk.reduce import reduce_adapter, report_file
    from lorecall.audit.bulk.run import run_bulk
    from lorecall.server.cli.audit.output import make_folder
    from lorecall.server.cli.common.progress import count_bar

    files = [report_file(out, planned) for planned in plan.adapters]
    with count_bar(f"auditing {len(files)} adapters") as progress:
        for members in run_bulk(
            plan,
            folders,
            settings,
            engines.openers,
            pool,
            show=show,
            is_done=lambda number: files[number].exists(),
            progress=progress,
        ):
            for number in members:
                result = reduce_adapter(plan, number, folders, settings, out)
                make_folder(files[number].parent)
                write_whole(files[number], report(result).to_json())
    for file in (block.file for block in plan.blocks):  # the plan stays: it says that all is done
        (folders.blocks / file).unlink(missing_ok=True)


def _engines(
    server: list[str] | None, base: Path | None, scorer: str, pattern: str, *, batch: int, timeout: float
) -> _Engines:
    """Return what answers, and the adapters that a pattern names there.

    Raises:
        UsageError: Neither servers nor a base are named, or both.
        AdapterNotFoundError: The pattern names no adapter.
    """
    if (server is None) == (base is None):
        raise UsageError("give either --server URL or --base DIR", param="server")
    if base is not None:
        paths = (Path(one).resolve() for one in sorted(glob(pattern)))  # noqa: PTH207  the pattern may be absolute
        folders = {one.name: one for one in paths if (one / CONFIG_FILE).is_file()}
        opener = partial(open_scorer, scorer, None, base.resolve(), folders, batch=batch, timeout=timeout)
        found = _Engines((opener,), list(folders), served=False)
    else:
        from lorecall.audit.scorers.http_scorer import HttpScorer

        urls = list(dict.fromkeys(server or ()))
        with HttpScorer(urls[0], batch=batch, timeout=timeout) as first:
            names = [name for name in first.adapter_names() if fnmatchcase(name, pattern)]
        openers = [
            partial(open_scorer, "lorecall", url, None, {}, batch=batch, timeout=timeout) for url in urls
        ]
        found = _Engines(tuple(openers), names, served=True)
    if not found.names:
        raise AdapterNotFoundError(
            f"no adapter matches {pattern!r}", hint="a pattern of names, such as 'acme-*'", param="adapters"
        )
    return found


def _begin(
    asked: str,
    addresses: tuple[str | None, str | None],
    inputs: SetOptions,
    engines: _Engines,
    settings: "AuditSettings",
    blocks: Path,
    sizes: tuple[int, int],
    out: Path,
) -> "BulkPlan":
    """Read the snippets, as an audit on one machine does, and write them down with what is asked of them."""
    from lorecall.audit.bulk.inputs import fetched
    from lorecall.audit.bulk.plan import BulkPlan, plan_adapters, save_plan

    now = datetime.now(UTC).isoformat(timespec="seconds")
    with TemporaryDirectory(prefix="lorecall-") as folder:
        candidates, data = (None if one is None else fetched(one, Path(folder)) for one in addresses)
        options = replace(inputs, candidates=None if candidates is None else Path(candidates), data=data)
        sets = read_sets(options, engines.openers[0], out=out, seed=settings.seed, batch=settings.chunk)
        with engines.openers[0]() as scorer:
            adapters, engine = plan_adapters(scorer, engines.names, sets, settings), scorer.info()
        plan = BulkPlan(
            asked=asked,
            started=now,
            engine=engine,
            adapters=adapters,
            sources={group: one.source for group, one in sets.items()},
            sizes={group: len(one.items) for group, one in sets.items()},
            together=sizes[0],
            block=sizes[1],
        )
        save_plan(plan, sets, blocks)
    return plan


def _can_go_on(plan: "BulkPlan", folders: "Folders", out: Path) -> bool:
    """Return whether all is done, or what is left can be done: somebody may have removed a folder."""
    from lorecall.audit.bulk.reduce import report_file

    done = all(report_file(out, planned).exists() for planned in plan.adapters)
    return done or all((folders.blocks / block.file).exists() for block in plan.blocks)


def _check(plan: "BulkPlan", engines: _Engines) -> None:
    """Check that the first server is still what the audit began on."""
    from lorecall.audit.bulk.plan import check_unmoved

    with engines.openers[0]() as scorer:
        check_unmoved(plan, scorer)


def _summarise(out: Path, plan: "BulkPlan") -> int:
    """Print a line for each adapter, and return the exit code of the worst."""
    from lorecall.audit.bulk.reduce import report_file
    from lorecall.audit.reports.build import read_report

    codes = set()
    for planned in plan.adapters:
        report = read_report(report_file(out, planned))
        codes.add(int(report.gate.exit_code))
        counts = (f"{count} {verdict}" for verdict, count in report.summary.verdicts.items() if count)
        passed = "passes" if report.gate.passed else f"exit code {report.gate.exit_code}"
        say(f"{planned.adapter.name:32} {', '.join(counts)}: {passed}")
    note(f"wrote {out / 'results'} and {out / 'reports'}")
    return next(code for code in WORST_FIRST if code in codes)
