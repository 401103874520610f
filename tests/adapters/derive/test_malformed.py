"""Whatever is wrong with an adapter, no weaker copy of it is written, or one of finite numbers; never a trace."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.adapters.core.errors import AdapterError
from lorecall.adapters.derive.weaken import Dose, Kind, write_dose
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.files import WEIGHTS_FILE

from tests.adapters import malformed
from tests.adapters.people import Change, load
from tests.tiny import build_tiny_adapter, build_tiny_base

DOSES = (Dose(Kind.SCALE, 0.5), Dose(Kind.SCALE, 1e6), Dose(Kind.RANK, 2))
WIDTHS = {"lora_A.weight": {"one column"}, "lora_B.weight": {"one row", "half of it", "twice"}}
"""Forms of other widths, which a base may have."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("malformed")
    return build_tiny_adapter(work / "good", build_tiny_base(work / "base"), modules=("q_proj", "up_proj"))


def tried(change: Change, good: Path) -> list[str]:
    """Make a changed folder weaker in every way; return the refusals."""
    refused = []
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        folder = Path(shutil.copytree(good, work / "case"))
        change(folder)
        for dose in DOSES:
            out = work / dose.label
            try:
                write_dose(folder, dose, out)
            except AdapterError as error:
                refused.append(str(error))
            else:
                assert read_adapter(out).rank > 0
                assert all(tensor.isfinite().all() for tensor in load(out).values())
                shutil.rmtree(out)
        assert [path.name for path in work.iterdir()] == ["case"]  # nothing half done is left
    return refused


@given(change=st.one_of(malformed.SETTINGS, malformed.CONFIGS))
@settings(max_examples=80)
def test_any_setting(change: Change, good: Path) -> None:
    """Of any type, and any bytes in the configuration's place."""
    tried(change, good)


@pytest.mark.parametrize("form", malformed.FORMS)
@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight"])
def test_any_form_of_a_tensor(form: str, part: str, good: Path) -> None:
    """Of one module, and of all; what is no float is refused, since its weaker copy would be all zeros."""
    taken = {"zero", "huge", "over float16"} | WIDTHS[part]
    for one in (True, False):
        refused = tried(malformed.formed(form, part, one=one), good)
        assert len(refused) == len(DOSES) or form in taken, refused
    assert len(tried(malformed.lacking(part), good)) == len(DOSES)


@given(damage=st.builds(malformed.damaged, st.floats(0, 1, exclude_max=True), cut=st.booleans()))
@settings(max_examples=60)
def test_any_damage(damage: malformed.Damage, good: Path) -> None:
    """Of one byte, or from one byte on."""
    tried(damage(WEIGHTS_FILE), good)
