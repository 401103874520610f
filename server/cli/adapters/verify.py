"""`lorecall adapters verify`: does a server apply an adapter as PEFT does?"""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.common.console import print_json, say
from lorecall.server.cli.common.options import LOCAL, AsJson, PreparedBase, Server

_PREFIX_WORDS = 4


def verify(
    name: str,
    base: PreparedBase,
    adapter_dir: Annotated[Path, typer.Option(help="The PEFT directory that was added under NAME.")],
    server: Server = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Compare NAME on a server with PEFT on the same base: exit 0 if it is applied as PEFT does, else 1."""
    from dataclasses import asdict

    from lorecall.audit.judging.epsilon import TEXTS
    from lorecall.audit.runs.fidelity import measure_fidelity
    from lorecall.audit.scorer import ScoreItem
    from lorecall.audit.scorers.http_scorer import HttpScorer
    from lorecall.audit.scorers.transformers_scorer import TransformersScorer

    items = []
    for number, text in enumerate(TEXTS):
        words = text.split(" ")
        start = " ".join(words[:_PREFIX_WORDS])
        items.append(ScoreItem(str(number), start, text[len(start) :]))
    reference = TransformersScorer(base, {name: adapter_dir})
    with HttpScorer(server) as served:
        found = measure_fidelity(served, reference, name, items)
    problems = found.problems()
    if as_json:
        print_json({**asdict(found), "problems": list(problems)})
    else:
        say(f"{found.tokens} tokens; without the adapter server and PEFT differ by {found.noise:.1e} at most")
        say(f"the adapter changes {found.change:.1e} at most; with it they differ by {found.distance:.1e}")
        for problem in problems or (f"{name} is applied as PEFT applies it",):
            say(problem)
    raise typer.Exit(1 if problems else 0)
