"""An adapter's own chat template: whose is used, what is none, and what its owner is told."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.refusals import Reason, RefusedError
from lorecall.adapters.intake.pipeline import NOT_RENDERED, OTHER_TEMPLATE, AdapterPipeline, Templates
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.companions import (
    MAX_COMPANION_BYTES,
    MAX_TEMPLATE_BYTES,
    Companions,
    read_companions,
    template_digest,
)
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.companion_checks import check_companions
from lorecall.adapters.validation.policy import AdapterLimits

from tests.adapters import spoiling

OWN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
Make = Callable[[Templates], AdapterPipeline]


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Make]:
    """Servers on one registry, over one base with a template of its own."""
    base = spoiling.write_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    facts, limits = read_base_facts(base), AdapterLimits(max_rank=64)

    def make(templates: Templates) -> AdapterPipeline:
        sources = Sources(tmp_path / "staging", SourcePolicy(SourceList((str(tmp_path),))))
        store = Store(tmp_path / f"store-{templates}")
        return AdapterPipeline(sources, store, registry, facts, limits, templates=templates)

    yield make
    registry.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter with a chat template of its own."""
    adapter = spoiling.write_adapter(tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text(OWN)
    return adapter


@pytest.mark.parametrize(
    ("templates", "operator", "used"),
    [
        ("operator", True, True),
        ("operator", False, False),
        ("all", False, True),
        ("none", True, False),
    ],
)
def test_whose_template_is_used(
    pipeline: Make, folder: Path, templates: Templates, *, operator: bool, used: bool
) -> None:
    """By the setting and by who adds it; the registry keeps it, and a remark says what became of it."""
    intake = pipeline(templates)
    record, adapter = intake.add("acme", str(folder), actor="test", operator=operator)
    assert adapter.chat_template == record.chat_template == (OWN if used else "")
    (remark,) = record.remarks
    assert (template_digest(OWN)[:16] in remark) is used
    assert ("not used: its chat template" in remark) is not used
    assert OWN not in remark
    again = intake.stored(record)
    assert again is not None
    assert again.chat_template == record.chat_template


def test_a_server_without_templates_uses_none_that_was_taken_before(pipeline: Make, folder: Path) -> None:
    """Neither from its store nor added again; the registry keeps it for others, and the owner is told."""
    record, _ = pipeline("all").add("acme", str(folder), actor="test")
    none = pipeline("none")
    assert none.materialise(record).chat_template == ""
    again, adapter = none.add("acme", str(folder), actor="test")
    assert (adapter.chat_template, again.remarks) == ("", [NOT_RENDERED])
    assert none.served(record).remarks == [NOT_RENDERED]
    assert pipeline("all").materialise(record).chat_template == OWN
    assert pipeline("operator").served(record) == record


def test_the_same_bytes_with_another_template_keep_the_first(pipeline: Make, folder: Path) -> None:
    """A version that was judged is not changed under its name: the answer says so, once."""
    intake = pipeline("all")
    intake.add("acme", str(folder), actor="test")
    (folder / "chat_template.jinja").write_text("{{ 1 }}")
    for _ in range(2):
        record, adapter = intake.add("acme", str(folder), actor="test")
        assert adapter.chat_template == record.chat_template == OWN
        assert record.remarks.count(OTHER_TEMPLATE) == 1


def test_an_uploaded_archive_brings_its_template(pipeline: Make, folder: Path) -> None:
    """Also where the archive has it before the adapter's own files, and not that of a checkpoint."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name in ("chat_template.jinja", "adapter_config.json", "adapter_model.safetensors"):
            archive.add(folder / name, f"run/{name}")
        info = tarfile.TarInfo("run/checkpoint-9/chat_template.jinja")
        archive.addfile(info, io.BytesIO())
    _, adapter = pipeline("all").add_upload("acme", raw, actor="test")
    assert adapter.chat_template == OWN


@pytest.mark.parametrize(
    ("template", "reason", "words"),
    [
        (b"{% for m in messages %}", Reason.BAD_TEMPLATE, "no Jinja template: TemplateSyntaxError in line 1"),
        (b"{{ secret-words ", Reason.BAD_TEMPLATE, "no Jinja template"),
        (b"{% if " + b"(" * 40000 + b"1" + b")" * 20000 + b"%}", Reason.BAD_TEMPLATE, "no Jinja template"),
        (b"caf\xe9", Reason.BAD_TEMPLATE, "no text in UTF-8"),
        (b"a\0b", Reason.BAD_TEMPLATE, "no text in UTF-8"),
        (b"x" * (MAX_TEMPLATE_BYTES + 1), Reason.TOO_LARGE, "65537 bytes"),
    ],
)
def test_what_is_no_template_is_refused(
    pipeline: Make, folder: Path, template: bytes, reason: Reason, words: str
) -> None:
    """Before anything is registered, without quoting it; where it would not be used, it is only remarked."""
    (folder / "chat_template.jinja").write_bytes(template)
    with pytest.raises(RefusedError, match=words) as caught:
        pipeline("all").add("acme", str(folder), actor="test")
    assert caught.value.reason is reason
    assert "secret-words" not in str(caught.value)
    record, adapter = pipeline("none").add("acme", str(folder), actor="test")
    assert not adapter.chat_template
    assert "not used" in record.remarks[0]


def test_the_file_that_transformers_would_take(tmp_path: Path) -> None:
    """The file of its own first, then that of processors, then the tokenizer's configuration."""
    config: dict[str, object] = {"chat_template": "third"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_companions(tmp_path).chat_template == "third"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "second"}')
    assert read_companions(tmp_path).chat_template == "second"
    (tmp_path / "chat_template.jinja").write_text("first")
    assert read_companions(tmp_path).chat_template == "first"


def test_every_byte_of_a_tokenizers_file_counts(tmp_path: Path) -> None:
    """A copy of the base's is none to speak of; one that differs after a megabyte is."""
    names = ("tokenizer.json", "vocab.json")
    for folder in ("base", "adapter"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"x" * MAX_COMPANION_BYTES + b"a")

    def remarks() -> tuple[str, ...]:
        base, beside = (read_companions(tmp_path / folder) for folder in ("base", "adapter"))
        return check_companions(beside, names, base, "").remarks

    assert remarks() == ()
    (tmp_path / "adapter/tokenizer.json").write_bytes(b"x" * MAX_COMPANION_BYTES + b"b")
    assert remarks() == ("not used: tokenizer.json; requests are read with the base's tokenizer",)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"added_tokens":', b"\xff"])
def test_damaged_files_count_as_not_there(tmp_path: Path, content: bytes) -> None:
    """A stranger's tokenizer never fails the reading of an adapter."""
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "chat_template.json"):
        (tmp_path / name).write_bytes(content)
    found = read_companions(tmp_path)
    assert (found.chat_template, found.added_tokens) == ("", None)
    assert read_companions(tmp_path / "nowhere") == Companions()
