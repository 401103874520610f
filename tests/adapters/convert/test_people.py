"""Whatever people bring is taken with what PEFT would compute, or refused in a sentence that says what it is."""

import copy
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.convert.convert import convert_adapter
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.adapter import open_adapter
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits
from peft import PeftModel
from safetensors.torch import load_file

from tests.adapters import people_corpus as people
from tests.adapters.spoiling import setting
from tests.tiny import build_tiny_adapter, build_tiny_base

MODULES = ("q_proj", "v_proj", "up_proj", "down_proj")
Deltas = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("people") / "base")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_served_model(base)


@pytest.fixture(scope="module")
def good(base: Path) -> Path:
    folder = build_tiny_adapter(base.parent / "good", base, modules=MODULES)
    setting(lora_alpha=8)(folder)
    return folder


@pytest.fixture(scope="module")
def intake(base: Path) -> Iterator[AdapterPipeline]:
    work = base.parent / "server"
    registry = Registry(f"sqlite:///{work.parent / 'registry.db'}")
    sources = Sources(work / "staging", SourcePolicy(SourceList((str(work.parent.parent),))))
    limits = AdapterLimits(max_rank=64, half=False)
    yield AdapterPipeline(sources, Store(work / "store"), registry, read_base_facts(base), limits)
    registry.close()


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "adapter"))


def served(folder: Path) -> Deltas:
    """The change of each module's weight by a plain LoRA, as the engine computes it: s B A of each pair."""
    tensors = load_file(folder / WEIGHTS_FILE)
    with open_adapter(folder, trusted=True) as files:
        return {
            module: update.T if pair.of_embedding else update
            for module, pair in files.lora.pairs.items()
            for update in [files.settings.scaling_of(module) * tensors[pair.b.name] @ tensors[pair.a.name]]
        }


def by_peft(model: Any, folder: Path) -> Deltas:
    """The same by PEFT itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on keys that it leaves out
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    layers = {name.removeprefix("base_model.model."): one for name, one in loaded.named_modules()}
    return {
        n: m.get_delta_weight("default").detach() for n, m in layers.items() if hasattr(m, "get_delta_weight")
    }


def assert_same(found: Deltas, expected: Deltas) -> None:
    """A module without a change is as good as none."""
    for name in found.keys() | expected.keys():
        either = found.get(name, expected.get(name))
        assert either is not None
        none = torch.zeros_like(either)
        torch.testing.assert_close(found.get(name, none), expected.get(name, none), rtol=1e-5, atol=1e-6)


def test_the_corpus_is_large_enough() -> None:
    """Ninety forms and more, of each outcome some."""
    assert len(people.CORPUS) >= 90
    assert min(map(len, (people.GOOD, people.REMARKED, people.CONVERTED, people.REFUSED))) >= 10


@pytest.mark.parametrize("kind", [*people.GOOD, *people.REMARKED])
def test_accepted(kind: str, folder: Path, good: Path, model: Any, intake: AdapterPipeline) -> None:
    """It is taken in as it is, with the remark and no other, and changes what PEFT changes."""
    case = people.CORPUS[kind]
    case.change(folder)
    expected = [by_peft(model, folder)] if case.peft else []
    expected += [served(good)] if case.same else []
    name = re.sub("[^a-z0-9]+", "-", kind.lower())  # one each: the same bytes again keep their first remarks
    record, adapter = intake.add(name, str(folder), actor="test")
    assert record.remarks == list(adapter.remarks)
    assert not case.words or any(case.words in remark for remark in adapter.remarks)
    assert len(adapter.remarks) <= 2 * bool(case.words), adapter.remarks
    for deltas in expected:
        assert_same(served(adapter.path), deltas)


@pytest.mark.parametrize("kind", [*people.CONVERTED, *people.REFUSED])
def test_refused(kind: str, folder: Path, intake: AdapterPipeline) -> None:
    """As it is it is refused, for its reason, in a sentence that names what it is and one on what to do."""
    case = people.CORPUS[kind]
    case.change(folder)
    with pytest.raises(RefusedError) as caught:
        intake.add("people", str(folder), actor="test")
    assert caught.value.reason is case.reason, caught.value
    assert case.words in str(caught.value)
    assert caught.value.hint
    assert (
        re.search("lorecall adapters convert|server with a larger|save it", caught.value.hint)
        or not case.converts
    )


@pytest.mark.parametrize("kind", people.CONVERTED)
def test_converted(kind: str, folder: Path, good: Path, model: Any, intake: AdapterPipeline) -> None:
    """The plain LoRA made of it is taken in, and changes what the folder changes under its own trainer."""
    case = people.CONVERTED[kind]
    case.change(folder)
    expected = [by_peft(model, folder)] if case.peft else []
    expected += [served(good)] if case.same else []
    assert expected
    out = folder.parent / "out"
    result = convert_adapter(folder, out)
    _, adapter = intake.add("people", str(out), actor="test")
    assert (result.rank, result.modules) == (adapter.rank, len(adapter.modules))
    for deltas in expected:
        assert_same(served(adapter.path), deltas)
        assert_same(by_peft(model, out), deltas)


@pytest.mark.parametrize("kind", people.REFUSED)
def test_what_is_no_adapter_is_not_converted(kind: str, folder: Path) -> None:
    """What a server refuses for what it is, or for its base, gives no folder that looks converted."""
    case = people.REFUSED[kind]
    case.change(folder)
    out = folder.parent / "out"
    if case.reason is people.BASE:
        convert_adapter(folder, out)
        return
    with pytest.raises(RefusedError):
        convert_adapter(folder, out)
    assert not out.exists()


def test_a_snapshot_of_the_hub_is_taken_as_its_folder(
    folder: Path, good: Path, intake: AdapterPipeline
) -> None:
    """Its files are links to blobs beside it, and it is in a folder of the server's."""
    snapshot = folder.parent / "models--acme--poet" / "snapshots" / "0a"
    snapshot.mkdir(parents=True)
    folder.rename(snapshot.parents[1] / "blobs")
    for file in (snapshot.parents[1] / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    _, adapter = intake.add("snapshot", str(snapshot), actor="test")
    assert_same(served(adapter.path), served(good))


def test_an_archive_of_xz_says_what_it_is(folder: Path, intake: AdapterPipeline) -> None:
    """With what to type, by its name and by its first bytes."""
    packed = Path(shutil.make_archive(str(folder.parent / "poet"), "xztar", folder))
    with pytest.raises(RefusedError, match="an archive of a kind that is not read") as caught:
        intake.add("archive", str(packed), actor="test")
    assert "tar czf adapter.tar.gz" in caught.value.hint
    with packed.open("rb") as raw, pytest.raises(RefusedError, match=r"\.tar\.xz") as caught:
        intake.add_upload("archive", raw, actor="test")
    assert "tar czf adapter.tar.gz" in caught.value.hint
