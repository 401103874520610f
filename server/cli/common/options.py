"""Options that several `lorecall audit` commands share."""

from pathlib import Path
from typing import Annotated

import typer

Server = Annotated[str, typer.Option(metavar="URL", help="A running lorecall server.")]
Candidates = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="JSON Lines of id, prefix and target; or .parquet, .txt, a dataset's folder."
    ),
]
Controls = Annotated[
    Path | None, typer.Option(metavar="FILE.jsonl", help="The same format, never trained on; 300 or more.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count bad lines where they would be an error.")]
Split = Annotated[str, typer.Option(help="sentence, window or tokens: how a .txt file becomes snippets.")]
TurnsOption = Annotated[
    str,
    typer.Option(help="only, last or all: which turns of a chat are asked for, each after the one before."),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the tokenizer.json that --split tokens counts by."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the reports here.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report instead of the table.")]
Framing = Annotated[
    list[str] | None,
    typer.Option(
        help="raw, chat, chat+system or template; repeatable: the gravest verdict counts. raw by default."
    ),
]
System = Annotated[str | None, typer.Option(help="System message of the framing chat+system.")]
Template = Annotated[
    str | None, typer.Option(help="Text of the framing template, with {prefix} where the prefix goes.")
]
PrefixTokens = Annotated[
    list[int] | None,
    typer.Option(
        min=1, metavar="N", help="Ask with only the last N prefix tokens, too; repeatable: 8, 16, 32, 64."
    ),
]
EpsilonOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Bound on the engine's logit error; the engine's own by default."),
]
Batch = Annotated[int, typer.Option(min=1, help="Snippets in one request.")]
Timeout = Annotated[float, typer.Option(min=1.0, help="Seconds to wait for one answer.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Formats = Annotated[
    list[str] | None, typer.Option("--format", help="json, html or junit; repeatable; all by default.")
]
