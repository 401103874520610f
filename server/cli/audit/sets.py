"""The sets of an audit, from the options that several `lorecall audit` commands share."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.audit.discover import candidates_folder, choose_candidates, searched_roles
from lorecall.server.cli.audit.inputs import load_sets, one_source, read_training_data, reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from lorecall.audit.inputs.candidates import CandidateSet
    from lorecall.audit.records import Group
    from lorecall.audit.scorer import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOptions:
    """What the options of a command say of its candidates and controls; each is as its option says.

    Attributes:
        made: Controls that a search of training data makes beside its candidates.
    """

    candidates: Path | None
    data: str | None
    data_format: str | None
    data_split: str | None
    choose: bool | None
    roles: str | None
    controls: Path | None
    split: str
    turns: str
    tokenizer: Path | None
    skip_bad: bool
    out: Path | None
    made: int
    seed: int
    batch: int


def read_sets(
    asked: SetOptions, engine: "Callable[[], AbstractContextManager[Scorer]]"
) -> "dict[Group, CandidateSet]":
    """Return the candidates, and the controls if there are any.

    Training data are searched for what would hurt, unless all that is trained on is asked for.

    Args:
        asked: The options.
        engine: Opens what answers for the base, which ranks what a search finds.

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
        controls=0 if asked.controls else asked.made,
        seed=asked.seed,
        batch=asked.batch,
    )
    with candidates_folder(asked.out) as folder:
        chosen, made = choose_candidates(
            asked.data, asked.data_format, asked.data_split, folder, engine, settings
        )
        return load_sets(chosen, asked.controls or made, load)
