"""What several `lorecall audit` commands share: options in groups, the sets that they name, and the journal."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.discover import candidates_folder, choose_candidates, searched_roles
from lorecall.server.cli.audit.inputs import load_sets, one_source, read_training_data, reader
from lorecall.server.cli.common.console import note
from lorecall.server.cli.common.options import (
    Candidates,
    Choose,
    Controls,
    Data,
    DataFormat,
    DataSplit,
    EpsilonOption,
    Framing,
    PrefixTokens,
    Roles,
    SkipBad,
    Split,
    System,
    Template,
    Tokenizer,
    TurnsOption,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lorecall.audit.inputs.candidates import CandidateSet
    from lorecall.audit.judging.journal import Journal
    from lorecall.audit.judging.views import View
    from lorecall.audit.scorer import Scorer
    from lorecall.audit.verdicts import Group

JOURNAL = "audit.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOptions:
    """The options that name candidates and controls, and say how they are read."""

    candidates: Candidates = None
    data: Data = None
    data_format: DataFormat = None
    data_split: DataSplit = None
    choose: Choose = None
    roles: Roles = None
    controls: Controls = None
    control_count: Annotated[int, typer.Option(min=1, help="Controls to make.")] = 300
    skip_bad: SkipBad = False
    split: Split = "sentence"
    turns: TurnsOption = "only"
    tokenizer: Tokenizer = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """The options that say in which ways each snippet is asked for."""

    framing: Framing = None
    system: System = None
    template: Template = None
    prefix_tokens: PrefixTokens = None
    epsilon: EpsilonOption = None

    def views(self) -> "tuple[View, ...]":
        """Return the ways.

        Raises:
            UsageError: A framing is unknown, or lacks its text.
        """
        from lorecall.audit.judging.views import make_views

        return make_views(self.framing or (), self.system, self.prefix_tokens or (), self.template)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the fields of its groups of options, which are dataclasses, as options of its own."""
    own = inspect.signature(command)
    groups: dict[str, Any] = {
        name: one.annotation for name, one in own.parameters.items() if is_dataclass(one.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, one in own.parameters.items():
        if name not in groups:
            parameters.append(one)
            continue
        parameters += (
            inspect.Parameter(field.name, one.kind, default=field.default, annotation=field.type)
            for field in fields(groups[name])
        )

    @wraps(command)
    def call(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def read_sets(
    asked: SetOptions,
    engine: "Callable[[], AbstractContextManager[Scorer]]",
    *,
    out: Path | None,
    seed: int,
    batch: int,
    made: int | None = None,
) -> "dict[Group, CandidateSet]":
    """Return the candidates, and the controls if there are any.

    Training data are searched for what would hurt, unless all that is trained on is asked for.

    Args:
        asked: The options.
        engine: Opens what answers for the base, which ranks what a search finds.
        out: The folder of the reports; what a search finds lies beside it.
        seed: Seed of every random choice.
        batch: Snippets in one request.
        made: Controls that a search makes beside its candidates; as many as the options say by default.

    Raises:
        UsageError: Options exclude each other, or the extra `discover` is not installed.
        CandidateError: A file cannot be used, or a control is a candidate, too.
    """
    choices = (asked.data_format, asked.data_split, asked.split, asked.turns, asked.tokenizer)
    load = reader(asked.split, asked.turns, asked.tokenizer, skip_bad=asked.skip_bad)
    if asked.choose is False or (
        asked.choose is None and (asked.data is None or asked.candidates is not None)
    ):
        training = asked.data and partial(read_training_data, asked.data, *choices, skip_bad=asked.skip_bad)
        return load_sets(one_source(asked.candidates, training or None), asked.controls, load)
    if asked.candidates is not None:
        raise UsageError("--discover and --candidates exclude each other", param="candidates")
    from lorecall.audit.discovery.discover import DiscoverySettings
    from lorecall.audit.discovery.scan import ScanSettings

    settings = DiscoverySettings(
        scan=ScanSettings(roles=searched_roles(asked.roles, asked.turns)),
        controls=0 if asked.controls else (asked.control_count if made is None else made),
        seed=seed,
        batch=batch,
    )
    with candidates_folder(out) as folder:
        chosen, found = choose_candidates(
            asked.data, asked.data_format, asked.data_split, folder, engine, settings
        )
        return load_sets(chosen, asked.controls or found, load)


@contextmanager
def open_journal(out: Path | None, terms: Callable[[], str]) -> "Iterator[Journal | None]":
    """Yield the journal of an audit, which lies beside its reports; None without reports, or where none can be.

    It is removed at the end of the block, unless an error ends that and an audit can go on with the file.

    Args:
        out: The folder of the reports.
        terms: Returns what `terms_of` does.

    Raises:
        UsageError: Another process audits into this folder.
    """
    from lorecall.audit.judging.journal import Journal

    if out is None:
        yield None
        return
    digest = terms()
    try:
        with candidates_folder(out) as folder:
            file = folder / JOURNAL
    except UsageError as error:
        note(f"a killed audit cannot be resumed: {error.message}")
        yield None
        return
    with Journal(file, digest) as journal:
        if journal.fixed:
            note(f"going on with the unfinished audit in {file}")
        elif journal.other:
            note(f"the unfinished audit in {file} is another one, so this one begins anew")
        try:
            yield journal
        except BaseException:
            if not (journal.fixed or journal.other):
                _remove(journal)
            raise
        _remove(journal)


def _remove(journal: "Journal") -> None:
    journal.delete()
    with suppress(OSError):  # what a search found lies there, too
        journal.path.parent.rmdir()
