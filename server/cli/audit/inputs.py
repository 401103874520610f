"""Makes sets, policies and scorers from the options of the `lorecall audit` commands."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.console import note

if TYPE_CHECKING:
    from lorecall.audit.inputs.candidates import CandidateSet
    from lorecall.audit.policy.policy import Policy
    from lorecall.audit.scorer import Scorer
    from lorecall.audit.scorers.http_scorer import HttpScorer
    from lorecall.audit.verdicts import Group

FORMATS = ("json", "html", "junit")


def check_formats(formats: list[str] | None) -> tuple[str, ...]:
    """Return the formats to write.

    Raises:
        UsageError: One of them is unknown.
    """
    for name in formats or ():
        if name not in FORMATS:
            raise UsageError(f"unknown format {name!r}", hint=f"one of {', '.join(FORMATS)}", param="format")
    return tuple(formats or FORMATS)


def reader(
    split: str = "sentence", turns: str = "only", tokenizer: Path | None = None, *, skip_bad: bool
) -> "Callable[[Path], CandidateSet]":
    """Return `load_input` with these choices made.

    Raises:
        UsageError: The split, or the choice of turns, is unknown.
    """
    from lorecall.audit.inputs.candidates import TextSplit, Turns
    from lorecall.audit.inputs.load import load_input

    check_choice("split", split, list(TextSplit), "split")
    check_choice("turns", turns, list(Turns), "turns")
    return partial(
        load_input, skip_bad=skip_bad, split=TextSplit(split), turns=Turns(turns), tokenizer=tokenizer
    )


def read_training_data(
    path: str,
    data_format: str | None,
    data_split: str | None,
    split: str,
    turns: str,
    tokenizer: Path | None,
    *,
    skip_bad: bool,
) -> "CandidateSet":
    """Return all that is trained on as candidates, and say on stderr what the data is.

    Raises:
        UsageError: The format, the split, or the choice of turns, is unknown.
        CandidateError: The data cannot be used.
    """
    from lorecall.audit.inputs.candidates import TextSplit, Turns
    from lorecall.audit.training_data.candidates import training_candidates
    from lorecall.audit.training_data.rows import DataFormat, open_training_data

    check_choice("data format", data_format or "text", list(DataFormat), "data_format")
    check_choice("split", split, list(TextSplit), "split")
    check_choice("turns", turns, list(Turns), "turns")
    stated = None if data_format is None else DataFormat(data_format)
    found = training_candidates(
        open_training_data(path, stated, split=data_split),
        Path(path).name,
        split=TextSplit(split),
        turns=Turns(turns),
        tokenizer=tokenizer,
        skip_bad=skip_bad,
    )
    note(f"{found.name}: {found.generated}; {len(found.items)} candidates")
    return found


def one_source(
    candidates: Path | None, training: "Callable[[], CandidateSet] | None"
) -> "Path | CandidateSet":
    """Return the file of candidates, or the candidates of training data.

    Raises:
        UsageError: Both are given, or neither.
    """
    if candidates is not None and training is None:
        return candidates
    if candidates is None and training is not None:
        return training()
    raise UsageError(
        "give either --candidates or --data",
        hint="--data takes a training file as it is, --candidates what may be in it",
        param="candidates",
    )


def check_choice(what: str, given: str, known: "Sequence[str]", param: str) -> None:
    """Check that an option's value is one of those known.

    Raises:
        UsageError: It is not.
    """
    if given not in known:
        raise UsageError(f"unknown {what} {given!r}", hint=f"one of {', '.join(known)}", param=param)


def load_sets(
    candidates: "Path | CandidateSet", controls: Path | None, load: "Callable[[Path], CandidateSet]"
) -> "dict[Group, CandidateSet]":
    """Read the candidates, unless they are read already, and the controls if there are any.

    Raises:
        CandidateError: A file cannot be used.
    """
    from lorecall.audit.inputs.controls import check_disjoint
    from lorecall.audit.verdicts import Group

    sets = {Group.CANDIDATES: load(candidates) if isinstance(candidates, Path) else candidates}
    if controls is not None:
        sets[Group.CONTROLS] = load(controls)
        check_disjoint(sets[Group.CANDIDATES], sets[Group.CONTROLS])
    return sets


def add_controls(sets: "dict[Group, CandidateSet]", recipe: str, count: int, seed: int) -> None:
    """Make controls from the candidates.

    Raises:
        UsageError: The recipe is unknown, or controls were given as a file, too.
        CandidateError: The candidates do not allow it.
    """
    from lorecall.audit.inputs.controls import Recipe, make_controls
    from lorecall.audit.verdicts import Group

    if Group.CONTROLS in sets:
        raise UsageError("--controls and --generate-controls exclude each other", param="controls")
    if recipe not in list(Recipe):
        raise UsageError(
            f"unknown recipe {recipe!r}", hint=f"one of {', '.join(Recipe)}", param="generate_controls"
        )
    sets[Group.CONTROLS] = make_controls(sets[Group.CANDIDATES], Recipe(recipe), count, seed)


def choose_policy(
    file: Path | None,
    limits: "dict[str, int | float | None]",
    until_bound: float | None = None,
    *,
    sampling: "dict[str, int | float | None] | None" = None,
    partial: bool = False,
) -> "Policy":
    """Return the file's policy, or the default one, with the limits that were given as options.

    Without a file, a limit on the rate replaces the default limits on the counts that it is about (certified and
    recalled); a bound to stop at replaces all of them.

    Args:
        file: The policy, in YAML.
        limits: The options that are fields of the policy.
        until_bound: The bound of the sequential test, if there is one.
        sampling: The options that are fields of its `max_extractable`. Those of the scheme limit nothing where
            the policy does not.
        partial: Whether not all candidates may be asked for, so that a limit on the rate replaces all limits on
            counts.

    Raises:
        UsageError: An option is out of its field's bounds; or the audit may stop early, and the policy limits a
            count: a sample cannot show that it is met.
    """
    from lorecall.audit.policy.policy import MaxExtractable, Policy
    from lorecall.audit.policy.policy_file import check_policy, load_policy

    given: dict[str, object] = {name: limit for name, limit in limits.items() if limit is not None}
    if file is not None:
        base = load_policy(file)
    elif until_bound is not None or (partial and "max_rate" in given):
        base = Policy(max_certified=None, max_recalled=None, max_extractable=None, max_near_verbatim=None)
    elif "max_rate" in given:
        base = Policy(max_certified=None, max_recalled=None)
    else:
        base = Policy()
    scheme = {name: value for name, value in (sampling or {}).items() if value is not None}
    if scheme:
        extractable = base.max_extractable or MaxExtractable(count=None)
        given["max_extractable"] = extractable.model_dump() | scheme
    policy = check_policy(base.model_dump() | given | {"schema_version": 1}, "of the options")
    if until_bound is not None and policy.limits_counts:
        raise UsageError(
            "--until-bound may stop after a part of the candidates, and the policy limits what may be found",
            hint="limit the rate with max_rate, and set max_certified and the other counts to null",
            param="until_bound",
        )
    return policy


def check_share(value: float, option: str) -> None:
    """Check an option's value that must lie between 0 and 1.

    Raises:
        UsageError: It is not within (0, 1).
    """
    if not 0.0 < value < 1.0:
        raise UsageError(f"--{option} must be within (0, 1), not {value}", param=option)


def split_pair(text: str) -> tuple[str, Path]:
    """Split NAME=FILE.

    Raises:
        UsageError: There is no name, or no file.
    """
    name, _, file = text.partition("=")
    if not name or not file:
        raise UsageError(f"--pair {text!r} is no pair", hint="such as acme=acme.jsonl", param="pair")
    return name, Path(file)


@contextmanager
def open_scorer(
    kind: str, server: str | None, base: Path | None, folders: dict[str, Path], *, batch: int, timeout: float
) -> Iterator["Scorer"]:
    """Open the scorer of one kind, and close it after use.

    Raises:
        UsageError: The kind is unknown, or what it needs was not given.
    """
    if kind in ("lorecall", "completions"):
        if server is None:
            raise UsageError(f"the scorer {kind} needs --server URL", param="server")
        from lorecall.server.cli.common.progress import waiting

        with _http_scorer(kind, server, folders, batch=batch, timeout=timeout) as scorer:
            with waiting("asking the server; its first audit has it measure ε, which takes a while"):
                scorer.info()
            yield scorer
    elif kind == "transformers":
        if base is None or not folders:
            raise UsageError(f"the scorer {kind} needs --base DIR and --adapter-dir DIR", param="base")
        from lorecall.audit.scorers.transformers_scorer import TransformersScorer

        yield TransformersScorer(base, folders)
    elif kind == "offline":
        if base is None or not folders:
            raise UsageError(f"the scorer {kind} needs --base DIR and --adapter-dir DIR", param="base")
        from lorecall.server.scoring.offline_scorer import offline_scorer

        with offline_scorer(base, folders) as engine:
            yield engine
    else:
        known = "lorecall, completions, offline, transformers"
        raise UsageError(f"unknown scorer {kind!r}", hint=f"one of {known}", param="scorer")


def _http_scorer(
    kind: str, server: str, folders: dict[str, Path], *, batch: int, timeout: float
) -> "HttpScorer":
    from lorecall.audit.scorers.completions_scorer import CompletionsScorer
    from lorecall.audit.scorers.http_scorer import HttpScorer

    if kind == "completions":
        return CompletionsScorer(server, folders, batch=batch, timeout=timeout)
    return HttpScorer(server, batch=batch, timeout=timeout)
