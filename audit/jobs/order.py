"""The order of an audit: the fields of `POST /v1/audits`, checked before anything is stored.

No message quotes a text: messages name a field, never its value.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.canonical_json import MAX_INTEGER, canonical
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.adapters.core.field_errors import describe_error
from lorecall.audit.estimates import CONFIDENCE
from lorecall.audit.inputs.candidates import CandidateSet, TextSplit, Turns
from lorecall.audit.inputs.controls import Recipe, check_disjoint, make_controls
from lorecall.audit.inputs.json_lines import read_records
from lorecall.audit.inputs.load import read_input
from lorecall.audit.inputs.parsed import Bound
from lorecall.audit.jobs.references import Address, Addresses, Reference, Roles
from lorecall.audit.jobs.spool import Texts
from lorecall.audit.judging.views import make_views
from lorecall.audit.policy.decoding import DecodeChoice, share_checked
from lorecall.audit.policy.policy import Policy
from lorecall.audit.policy.policy_file import check_policy
from lorecall.audit.reports.redact import redactor
from lorecall.audit.runs.plan import Budget, Costs, asked_of, check_budget
from lorecall.audit.runs.sample import nothing_to_draw
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.training_data.candidates import training_candidates
from lorecall.audit.training_data.rows import DataFormat, open_training_files
from lorecall.audit.verdicts import Group
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

MAX_SNIPPETS = 100_000
BYTES_PER_TOKEN = 4
"""By which tokens are estimated: who takes an order need not have the engine's tokenizer."""

MAX_ANSWERS = 1_000
"""Answers to draw for one snippet: a worker hears between two batches that it should stop."""

MAX_DRAWS = 1_000_000
"""Answers to draw in one audit, if every snippet is likely enough to be drawn."""

FILE_NAME_LENGTH = 120
CHARACTERS = 64 << 20
"""Characters of all texts in one file that came over HTTP, however small the file is: a table is compressed."""
Upload = tuple[str, bytes]
Word = Annotated[str, Field(max_length=64)]
Text = Annotated[str, Field(max_length=20_000)]
"""The bounds of what is stored with an audit and shown in lists; a length also refuses what is no Unicode."""


class OrderSettings(BaseModel):
    """The settings of an audit. They are stored in the registry, so they hold no candidate's text.

    Attributes:
        framing: Framings of the prefix; the gravest verdict of all of them counts.
        prefix_tokens: Lengths of shorter prefixes to ask with as well, in tokens.
        epsilon: Bound on the engine's per-logit error; None takes the engine's own, or measures one.
        seed: The seed of every random choice.
        confidence: The confidence of every interval.
        sample: Answers to draw for each snippet that they may give; 0 for none.
        budget_tokens: About how many tokens may be scored and decoded, the controls' included: the candidates
            that rank highest are asked for, and others at random. None for any number.
        decode: "all" candidates, or those that are "likely" to be given, and a sample of the others.
        show_text: Whether reports show texts in place of hashes.
        policy: The limits that the result must meet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    framing: Annotated[tuple[Word, ...], Field(max_length=8)] = ("raw",)
    prefix_tokens: Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(max_length=16)] = ()
    epsilon: float | None = Field(default=None, ge=0, le=10)
    seed: int = Field(default=0, ge=-MAX_INTEGER, le=MAX_INTEGER)
    confidence: float = Field(default=CONFIDENCE, gt=0, lt=1)
    sample: int = Field(default=0, ge=0, le=MAX_ANSWERS)
    budget_tokens: int | None = Field(default=None, ge=1, le=MAX_INTEGER)
    decode: DecodeChoice = "all"
    show_text: bool = False
    policy: dict[str, Any] = Field(default_factory=dict)

    @field_validator("framing", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @property
    def views(self) -> int:
        """In how many ways each snippet is asked for."""
        return len(self.framing) * (1 + len(self.prefix_tokens))

    def rules(self) -> Policy:
        """Return the policy."""
        return check_policy({"schema_version": 1, **self.policy}, "of the request")

    def audit_settings(self, system: str | None, template: str | None) -> AuditSettings:
        """Return the settings as `run_audit` takes them.

        Args:
            system: The system message of the framing "chat+system".
            template: The text of the framing "template", with {prefix} in it.

        Raises:
            UsageError: A framing is unknown, or lacks its text.
        """
        views = make_views(self.framing, system, self.prefix_tokens, template)
        rules = self.rules()
        # By bytes, since who takes an order has no tokenizer, and as if all were decoded, since none has scores.
        costs = Costs(views=len(views), answer_tokens=rules.bounds.answer_tokens)
        return AuditSettings(
            epsilon=self.epsilon,
            bounds=rules.bounds.bounds(),
            seed=self.seed,
            confidence=self.confidence,
            views=views,
            extraction=rules.sampling_wish,
            answers=self.sample,
            checked_share=share_checked(self.decode, rules),
            budget=None if self.budget_tokens is None else Budget(float(self.budget_tokens), costs),
        )


class _Fields(OrderSettings):
    adapter: str = Field(min_length=1)
    system: Text | None = None
    template: Text | None = None
    skip_bad: bool = False
    turns: Turns = Turns.ONLY
    split: Literal[TextSplit.SENTENCE, TextSplit.WINDOW] = TextSplit.SENTENCE
    generate_controls: Recipe | None = None
    control_count: int = Field(default=300, ge=1, le=10_000)
    candidates: list[dict[str, Any]] | None = None
    controls: list[dict[str, Any]] | None = None
    data: Addresses | None = None
    candidates_from: Address | None = None
    controls_from: Address | None = None
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    data_format: DataFormat | None = None
    whole: bool = False
    roles: Roles = ()
    top: int = Field(default=10_000, ge=1, le=1_000_000)


FIELDS = frozenset(_Fields.model_fields)
"""Every field of an order."""


@dataclass(frozen=True, slots=True)
class Order:
    """An audit that is asked for.

    Attributes:
        adapter: The adapter's name.
        settings: Its settings.
        texts: Its texts, which must stay secret.
    """

    adapter: str
    settings: OrderSettings
    texts: Texts

    @property
    def asked(self) -> dict[Group, Sequence[ScoreItem]]:
        """What is asked for of each set: all of it, or as much of the candidates as the budget pays for.

        Nothing yet for a reference, which was not read.
        """
        if self.texts.reference is not None:
            return {}
        settings = self.settings.audit_settings(self.texts.system, self.texts.template)
        return asked_of(self.texts.sets, settings.plan(self.texts.sets))

    @property
    def texts_to_score(self) -> int:
        """How many texts the audit scores: what is asked for, in every view; about as many for a reference."""
        if self.texts.reference is not None:
            return self.texts.reference.snippets * self.settings.views
        return sum(map(len, self.asked.values())) * self.settings.views

    @property
    def tokens_to_score(self) -> int:
        """About how many tokens the engine computes: each text through the adapter and through the base.

        Drawn answers count for every snippet, because nobody knows before the audit which will be drawn.
        """
        passes = 2 * self.settings.views + self.settings.sample
        if self.texts.reference is not None:
            return passes * self.texts.reference.tokens
        texts = (text for items in self.asked.values() for item in items for text in item.texts)
        size = sum(len(text.encode(errors="surrogatepass")) for text in texts)
        return passes * size // BYTES_PER_TOKEN

    @property
    def candidate_set(self) -> str:
        """As the function of that name; "" for a reference, which was not read yet."""
        return "" if self.texts.reference is not None else candidate_set(self.texts.sets)

    @property
    def inputs(self) -> dict[str, Any]:
        """As `set_inputs`; of a reference the file's name."""
        reference = self.texts.reference
        if reference is None:
            return set_inputs(self.texts.sets)
        return {str(Group.CANDIDATES): {"name": reference.name, "digest": reference.sha256, "snippets": 0}}


def candidate_set(sets: Mapping[Group, CandidateSet]) -> str:
    """Return the sha256 of the canonical JSON of the candidates' texts in their order, in hex.

    Their ids do not count. It is computed item by item, since there may be many.
    """
    found, apart = sha256(b"["), b""
    for item in sets[Group.CANDIDATES].items:
        found.update(apart + canonical([item.prefix, item.target, *([item.chat] if item.messages else [])]))
        apart = b","
    found.update(b"]")
    return found.hexdigest()


def set_inputs(sets: Mapping[Group, CandidateSet]) -> dict[str, Any]:
    """Return what the registry stores of sets: all but their texts."""
    return {
        str(group): {"name": one.name, "digest": one.digest, "snippets": len(one.items)}
        for group, one in sets.items()
    }


def make_order(
    fields: Mapping[str, object],
    files: Mapping[str, Upload],
    max_snippets: int = MAX_SNIPPETS,
    asker: SourceList | None = None,
) -> Order:
    """Return the audit that a request asks for.

    Args:
        fields: The JSON object, or a form's fields.
        files: Uploaded files by field, `candidates` or `data`, and `controls`: (file name, bytes).
        max_snippets: The most snippets, candidates and controls together.
        asker: Where the caller may name files; None for wherever the server reads.

    Raises:
        UsageError: A field is missing, unknown or wrong.
        CandidateError: A set cannot be used.
    """
    try:
        asked = _Fields.model_validate(dict(fields))
    except ValidationError as error:
        where, what = describe_error(error.errors(include_context=False)[0], _Fields)
        raise UsageError(
            f"{where or 'the order'}: {what}",
            hint="see the API in docs/audit-service.md",
            param=where or None,
        ) from None  # the cause quotes the values
    settings = OrderSettings(**asked.model_dump(include=set(OrderSettings.model_fields)))
    settings.rules()
    settings.audit_settings(asked.system, asked.template)
    reference = _reference(asked, files, asker)
    sets = {} if reference is not None else _sets(asked, files, max_snippets)
    check_sets(sets, max_snippets)
    if reference is None:
        check_spending_of(settings, sets, asked.system, asked.template)
    texts = Texts(sets, asked.system, redactor(show=False).salt, asked.template, reference)
    return Order(asked.adapter, settings, texts)


def _reference(asked: _Fields, files: Mapping[str, Upload], asker: SourceList | None) -> Reference | None:
    """Return what an order names by address; None if it names nothing.

    Raises:
        UsageError: It does so twice, or also sends snippets.
    """
    if (asked.data, asked.candidates_from, asked.controls_from) == (None, None, None):
        return None
    sent = bool(files) or asked.candidates is not None or asked.controls is not None
    if sent or (asked.data is None) == (asked.candidates_from is None):
        raise UsageError(
            "an order by reference names either data or candidates_from, and sends no snippets",
            hint="controls_from names a file of controls beside them",
            param="data",
        )
    same = asked.model_dump(include=set(Reference.model_fields) - {"candidates", "controls"})
    named = {"candidates": asked.candidates_from, "controls": asked.controls_from}
    return Reference.model_validate({**same, **named, "asker": None if asker is None else asker.entries})


def check_spending_of(
    settings: OrderSettings, sets: Mapping[Group, CandidateSet], system: str | None, template: str | None
) -> None:
    """Check that the budget pays for the controls, and that the answers that are asked for can be drawn.

    Args:
        settings: The settings.
        sets: The candidates, and the controls if there are any.
        system: As for `OrderSettings.audit_settings`, like the next.
        template: The template.

    Raises:
        UsageError: It does not; or the policy's temperature is 0, or they are too many.
    """
    wish = settings.audit_settings(system, template)
    if wish.budget is not None:
        check_budget(sets, wish.budget, "tokens")
    if settings.sample and settings.rules().sampling_wish.temperature == 0.0:
        raise nothing_to_draw()
    if not settings.sample:
        return
    total = settings.sample * sum(map(len, asked_of(sets, wish.plan(sets)).values()))
    if total > MAX_DRAWS:
        raise UsageError(
            f"sample: {settings.sample} answers for each snippet are {total}, and one audit draws {MAX_DRAWS}",
            hint="draw fewer answers, or send the snippets in parts",
            param="sample",
        )


def _sets(asked: _Fields, files: Mapping[str, Upload], max_snippets: int) -> dict[Group, CandidateSet]:
    sets = _sent(asked, files, max_snippets)
    if "data" in files:
        if Group.CANDIDATES in sets:
            raise UsageError("candidates and data exclude each other", param="data")
        sets[Group.CANDIDATES] = _trained_on(asked, files["data"], max_snippets)
    if Group.CANDIDATES not in sets:
        raise UsageError(
            "no candidates",
            hint='send "candidates" as a file of JSON Lines, or as a list of {"id", "prefix", "target"}; or a '
            'training file as "data"',
            param="candidates",
        )
    if asked.generate_controls is not None:
        if Group.CONTROLS in sets:
            raise UsageError("controls and generate_controls exclude each other", param="controls")
        made = make_controls(sets[Group.CANDIDATES], asked.generate_controls, asked.control_count, asked.seed)
        sets[Group.CONTROLS] = made
    elif Group.CONTROLS in sets:
        check_disjoint(sets[Group.CANDIDATES], sets[Group.CONTROLS])
    return sets


def _sent(asked: _Fields, files: Mapping[str, Upload], max_snippets: int) -> dict[Group, CandidateSet]:
    """Return the sets that came as files of snippets, or inline."""
    inline = {Group.CANDIDATES: asked.candidates, Group.CONTROLS: asked.controls}
    sets: dict[Group, CandidateSet] = {}
    for group, records in inline.items():
        upload = files.get(group.value)
        if upload is not None and records is not None:
            raise UsageError(f"{group} came both as a file and inline", param=group.value)
        if upload is not None:
            name, content = upload
            read = read_input(
                _plain(name),
                BytesIO(content),
                skip_bad=asked.skip_bad,
                split=asked.split,
                turns=asked.turns,
                bound=Bound(max_snippets, CHARACTERS),
            )
            sets[group] = replace(read, name=_plain(name)[:FILE_NAME_LENGTH])
        elif records is not None:
            sets[group] = read_records("request", records, skip_bad=asked.skip_bad, turns=asked.turns)
    return sets


def _trained_on(asked: _Fields, upload: Upload, max_snippets: int) -> CandidateSet:
    """Return all that is trained on in an uploaded training file, as `lorecall audit run --data` reads it.

    The file lies in a folder of its own, which only this user can read, until that is done.
    """
    name, content = _plain(upload[0])[-FILE_NAME_LENGTH:], upload[1]
    with TemporaryDirectory(prefix="lorecall-data-") as folder:
        path = Path(folder) / re.sub(r"[^A-Za-z0-9._-]|^\.", "_", name)
        path.write_bytes(content)
        return training_candidates(
            open_training_files([path], asked.data_format),
            name,
            split=asked.split,
            turns=asked.turns,
            skip_bad=asked.skip_bad,
            bound=Bound(max_snippets, CHARACTERS),
        )


def _plain(name: str) -> str:
    """Return an uploaded file's name without its folder and unprintable characters."""
    plain = "".join(c for c in name.replace("\\", "/").rsplit("/", 1)[-1] if c.isprintable())
    return plain.encode(errors="replace").decode() or "upload"


def check_sets(sets: Mapping[Group, CandidateSet], max_snippets: int = MAX_SNIPPETS) -> None:
    """Check how many snippets the sets of one audit hold that came over HTTP.

    Raises:
        CandidateError: They are too many.
    """
    total = sum(len(one.items) for one in sets.values())
    if total > max_snippets:
        raise CandidateError(
            f"{total} snippets, and one audit takes {max_snippets}",
            hint="give them in parts; the server's LORECALL_AUDIT_MAX_SNIPPETS bounds what is sent, and "
            "LORECALL_AUDIT_MAX_REFERENCED_SNIPPETS what is named by address",
            param="candidates",
        )
