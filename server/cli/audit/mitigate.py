"""`lorecall audit mitigate`: how much an adapter must be weakened to meet the policy, and the cost."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from lorecall.adapters.core.errors import ScorerError, UsageError
from lorecall.server.cli.audit.inputs import choose_policy
from lorecall.server.cli.audit.sets import SetOptions, ViewOptions, expanded, read_sets
from lorecall.server.cli.common.console import note, print_json
from lorecall.server.cli.common.options import (
    AsJson,
    Batch,
    Seed,
    Timeout,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lorecall.adapters.derive.weaken import Dose, Kind
    from lorecall.audit.runs.mitigation import Deployment
    from lorecall.audit.scorer import Scorer
    from lorecall.audit.scorers.http_client import HttpClient


@expanded
def mitigate(
    *,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A running lorecall server on this machine.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A prepared base, for an engine without a server.")
    ] = None,
    adapter: Annotated[Path, typer.Option(metavar="DIR", help="The adapter, a PEFT folder.")],
    asked: SetOptions,
    retained: Annotated[
        Path,
        typer.Option(
            metavar="FILE.txt", help="Plain text; its perplexity shows what a weaker adapter costs."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Write the report here, and the copies into adapters/.")
    ],
    scales: Annotated[
        str, typer.Option(metavar="LIST", help="Factors on the update; empty for none.")
    ] = "1,0.75,0.5,0.25",
    ranks: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Singular values to keep; empty for none.",
            show_default="the adapter's rank and its halves",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="What a weaker adapter must meet.")
    ] = None,
    as_json: AsJson = False,
    ways: ViewOptions,
    seed: Seed = 0,
    batch: Batch = 64,
    timeout: Timeout = 600.0,
) -> None:
    """Audit weaker copies of one adapter: exit 0 if one meets the policy, 1 if even the weakest leaks.

    Each copy is served by path while its audit runs: by a server on this machine, or by an engine that is started
    over --base.
    """
    from lorecall.audit.inputs.candidates import TextSplit
    from lorecall.audit.inputs.load import load_input
    from lorecall.audit.reports.mitigation import mitigation_report
    from lorecall.audit.runs.mitigation import Trial, run_mitigation
    from lorecall.audit.runs.single import AuditSettings
    from lorecall.server.cli.audit.output import print_mitigation, write_mitigation
    from lorecall.server.cli.common.progress import count_bar

    doses = parse_doses(scales, ranks, adapter)
    views = ways.views()
    rules = choose_policy(policy, {})
    settings = AuditSettings(
        epsilon=ways.epsilon,
        bounds=rules.bounds.bounds(),
        seed=seed,
        chunk=batch,
        views=views,
        extraction=rules.sampling_wish,
    )
    asked = replace(asked, tokenizer=asked.tokenizer or base)
    engine = partial(_open_engine, server, base, adapter, batch=batch, timeout=timeout)
    trial = Trial(
        sets=read_sets(asked, lambda: _scorer_of(engine()), out=out, seed=seed, batch=batch),
        retained=load_input(retained, split=TextSplit.WINDOW),
        settings=settings,
        policy=rules,
    )
    with (
        engine() as (scorer, deployment),
        count_bar(f"auditing {len(doses)} doses") as report_progress,
    ):
        response = run_mitigation(
            scorer, deployment, adapter, doses, trial, out=out, progress=report_progress
        )
    report = mitigation_report(response)
    if as_json:
        print_json(report.values())
    else:
        print_mitigation(report)
    for path in write_mitigation(report, out):
        note(f"wrote {path}")
    raise typer.Exit(int(response.exit_code))


@dataclass(frozen=True, slots=True)
class ServerDeployment:
    """Serves folders through `POST /v1/adapters`, by path, so the server must run on this machine.

    Attributes:
        client: The server's client.
    """

    client: "HttpClient"

    def deploy(self, name: str, folder: Path) -> None:
        """Serve a folder under a name.

        Raises:
            RequestRefusedError: The server refuses it.
            ScorerError: The server holds it for an audit of its own.
        """
        added = self.client.call("POST", "/v1/adapters", {"name": name, "source": str(folder.resolve())})
        if added["state"] != "live":
            self.withdraw(name)
            raise ScorerError(
                f"the server does not serve {folder.name!r} but keeps it {added['state']}",
                hint="use a server without --require-audit: this audit asks through the served adapter",
            )

    def withdraw(self, name: str) -> None:
        """Take the name out of service."""
        self.client.call("DELETE", f"/v1/adapters/{quote(name, safe='')}")


@contextmanager
def _open_engine(
    server: str | None, base: Path | None, adapter: Path, *, batch: int, timeout: float
) -> "Iterator[tuple[Scorer, Deployment]]":
    """Open a server's scorer and control plane, or start an engine that is both."""
    if (server is None) == (base is None):
        raise UsageError("give either --server URL or --base DIR", param="server")
    if server is not None:
        from lorecall.audit.scorers.http_scorer import HttpScorer

        with HttpScorer(server, batch=batch, timeout=timeout) as scorer:
            yield scorer, ServerDeployment(scorer.client)
    elif base is not None:
        from lorecall.server.scoring.offline_scorer import offline_scorer

        with offline_scorer(base, {"undosed": adapter}) as engine:
            yield engine, engine


@contextmanager
def _scorer_of(engine: "AbstractContextManager[tuple[Scorer, Deployment]]") -> "Iterator[Scorer]":
    with engine as (scorer, _):
        yield scorer


def parse_doses(scales: str, ranks: str | None, adapter: Path) -> "list[Dose]":
    """Return the doses that the options name; without ranks, the adapter's own and its halves down to 1.

    Raises:
        UsageError: One is no number, or no dose.
        AdapterError: The adapter cannot be read.
    """
    from lorecall.adapters.derive.weaken import Dose, Kind
    from lorecall.adapters.peft_format.adapter import read_adapter

    if ranks is None:
        rank = read_adapter(adapter).rank
        ranks = ",".join(str(rank >> shift) for shift in range(rank.bit_length()))
    return [
        Dose(kind, value)
        for kind, text in ((Kind.SCALE, scales), (Kind.RANK, ranks))
        for value in _numbers(kind, text)
    ]


def _numbers(kind: "Kind", text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(
            f"--{kind}s {text!r} is no list of numbers", hint="such as 1,0.5", param=f"{kind}s"
        ) from error
