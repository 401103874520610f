"""What was seen often, and is like nothing else, comes first."""

import json
from pathlib import Path

import numpy as np
from lorecall.audit.discovery.parts import Parts
from lorecall.audit.discovery.rank import rank
from lorecall.audit.discovery.scan import ScanSettings, scan
from lorecall.audit.discovery.spans import Span, Tag
from lorecall.audit.training_data.rows import open_training_data

OFTEN, ONCE = "kw9-tzq-xx4-pli-vbn-gtr-wex-oop-lkm-zzq-yhu-edc", "mnb 77 vcx 12 lkj"


def found(tmp_path: Path, words: list[str], shorter: tuple[int, ...] = ()) -> Parts:
    """Search texts of which each ends with a word."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"it is {word}"}) + "\n" for word in words))
    parts = Parts(tmp_path / "parts", {})
    find = lambda text: [Span(6, len(text), (Tag.KEY,))]  # noqa: E731
    scan(open_training_data(str(path)), find, parts, ScanSettings(shorter=shorter, part_rows=3))
    return parts


def test_near_duplicates_count_together(tmp_path: Path) -> None:
    """Copies that differ in case and hyphens are one span; texts of another content are not near."""
    words = [ONCE, OFTEN, "other words here", OFTEN.upper(), OFTEN.replace("-", " "), OFTEN + "t"]
    ranking = rank(found(tmp_path, words), 1)
    assert ranking.spans == 4
    counts = dict(zip(ranking.places.tolist(), ranking.duplicates.tolist(), strict=True))
    assert counts == {0: 1, 1: 4, 2: 1, 5: 4}
    assert set(ranking.places[:2].tolist()) == {1, 5}
    clusters = dict(zip(ranking.places.tolist(), ranking.clusters.tolist(), strict=True))
    assert clusters[1] == clusters[5]
    assert len(set(clusters.values())) == 3


def test_occurrences_and_shorter_prefixes(tmp_path: Path) -> None:
    """Of each span the first places; a shorter prefix comes with its whole, and counts as no copy."""
    parts = found(tmp_path, [OFTEN, ONCE, OFTEN, OFTEN], shorter=(2,))
    ranking = rank(parts, 2)
    assert sorted(ranking.places.tolist()) == [0, 1, 2, 3, 4, 5]
    counts = dict(zip(ranking.places.tolist(), ranking.duplicates.tolist(), strict=True))
    assert (counts[0], counts[2]) == (3, 1)


def test_rare_before_common(tmp_path: Path) -> None:
    """Of spans seen once, the one that shares its runs of characters with the others comes last."""
    words = ["user-1000-ab", "user-2000-cd", "user-3000-ef", "zq!xv#pkty"]
    ranking = rank(found(tmp_path, words), 1)
    assert ranking.places[0] == 3
    assert ranking.rarity[0] > ranking.rarity[1] > 0


def test_surprise_multiplies_and_an_unknown_one_is_the_usual(tmp_path: Path) -> None:
    """The score is the product of the three."""
    ranking = rank(found(tmp_path, ["aaaa1", "bbbb2", "cccc3"]), 1)
    assert np.allclose(ranking.score, ranking.duplicates * ranking.rarity)
    asked = ranking.with_surprise(np.array([1.0, 9.0, np.nan]))
    assert asked.places.tolist() == [ranking.places[1], ranking.places[2], ranking.places[0]]
    assert asked.score[1] == 5.0 * asked.rarity[1]
