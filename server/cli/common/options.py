"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

LOCAL = "http://127.0.0.1:8000"
"""The server of commands that need not name one."""

Server = Annotated[str, typer.Option(envvar="LORECALL_SERVER", help="URL of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]
Seed = Annotated[int, typer.Option(min=-(2**53) + 1, max=2**53 - 1, help="Seed of every random choice.")]
PublicKey = Annotated[
    Path | None,
    typer.Option(metavar="KEY.pub.pem", help="The public Ed25519 key that must have signed it."),
]
SigningKey = Annotated[
    Path | None,
    typer.Option(
        metavar="KEY.pem",
        envvar="LORECALL_SIGNING_KEY",
        help="Sign the report with this private Ed25519 key.",
    ),
]
PageFolder = Annotated[Path, typer.Option(help="Where the JSON and the Markdown page go.")]

# Training.
PreparedBase = Annotated[Path, typer.Option(help="A base made by `lorecall base prepare`.")]
TrainingTexts = Annotated[Path, typer.Option(help='JSON Lines of {"prefix", "target"}.')]
Layers = Annotated[
    str,
    typer.Option(metavar="LIST", help='"all", or such as 20-29 or 3,7.', show_default="the last but one"),
]
Modules = Annotated[str, typer.Option(metavar="LIST", help="mlp, attention, all, or module names.")]
Epochs = Annotated[int, typer.Option(help="The most passes over the texts.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="linear|plateau",
        help="Let the rate fall to 0 over the epochs, or whenever the loss no longer does, and stop then.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Texts in one step.")]
Dropout = Annotated[
    float, typer.Option(metavar="P", help="Chance that an input of the adapter is dropped in a step.")
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What to train on; auto is a GPU if any.")]

# Audits.
AuditedServer = Annotated[str, typer.Option(metavar="URL", help="A running lorecall server.")]
Candidates = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSON Lines of id, prefix and target; or .parquet, .txt, a dataset's folder."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Training data as the trainer read it (a file, a folder or a pattern), in place of candidates.",
    ),
]
DataFormat = Annotated[
    str | None,
    typer.Option(
        help="messages, sharegpt, alpaca, prompt-completion, preference or text; recognised by default."
    ),
]
DataSplit = Annotated[
    str | None, typer.Option(help="The split of a dataset's folder; train by default, if it has one.")
]
Choose = Annotated[
    bool | None,
    typer.Option(
        "--discover/--whole",
        help="Of --data: what would hurt, ranked, as `discover` finds it, or all that is trained on.",
        show_default="discover",
    ),
]
Roles = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Search the turns of these roles, such as user,assistant; by default those trained on.",
    ),
]
Controls = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Snippets that were never trained on; 300 or more."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and count bad lines instead of stopping at one.")
]
Split = Annotated[str, typer.Option(help="sentence, window or tokens: how a .txt file becomes snippets.")]
TurnsOption = Annotated[
    str,
    typer.Option(
        help="only, last or all: which answers of a chat become snippets, after all that was said before; "
        "user: the second half of each of the user's turns, after the first."
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the tokenizer.json that --split tokens uses."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the reports here.")]
Framing = Annotated[
    list[str] | None,
    typer.Option(
        help="raw, chat, chat+system or template; repeatable: the gravest verdict counts. raw by default."
    ),
]
System = Annotated[str | None, typer.Option(help="System message of the framing chat+system.")]
Template = Annotated[
    str | None, typer.Option(help="Text of the framing template; {prefix} marks the prefix.")
]
PrefixTokens = Annotated[
    list[int] | None,
    typer.Option(
        min=1, metavar="N", help="Score also with only the last N prefix tokens; repeatable: 8, 16, 32, 64."
    ),
]
EpsilonOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Bound ε on the engine's logit error; by default the engine's own."),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, max=100.0, help="Temperature of deployed requests; by default the engine's."),
]
TopP = Annotated[
    float | None,
    typer.Option(min=1e-6, max=1.0, help="Their top-p; by default the engine's, 1 keeps all tokens."),
]
TopK = Annotated[
    int | None, typer.Option(min=0, help="Their top-k; by default the engine's, 0 keeps all tokens.")
]
Batch = Annotated[int, typer.Option(min=1, help="Snippets in one request.")]
Timeout = Annotated[float, typer.Option(min=1.0, help="Seconds to wait for one answer.")]
Formats = Annotated[
    list[str] | None, typer.Option("--format", help="json, html or junit; repeatable; all by default.")
]
