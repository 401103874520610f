"""Rows of training files: every format, every kind of file, and what is hostile in them."""

import gzip
import hashlib
import json
import random
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.training_data import files, readers
from lorecall.audit.training_data.rows import DataFormat, Row, TrainingData, Turn, open_training_data

from tests.audit.training_data.writing import Rows, json_lines, write, zstd

S, U, A, T = (
    Turn(role, text, role == "assistant")
    for role, text in (("system", "s"), ("user", "q"), ("assistant", "a"), ("tool", "7"))
)


def said(*turns: tuple[str, object], name: str = "role", text: str = "content") -> list[dict[str, object]]:
    return [{name: role, text: content} for role, content in turns]


def opened(path: Path, **options: Any) -> tuple[TrainingData, list[Row]]:
    data = open_training_data(str(path), **options)
    return data, list(data.rows())


ALPACA = "Below is an instruction that describes a task"
ANSWER = "Write a response that appropriately completes the request."
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def completed(prompt: str, completion: str) -> tuple[Turn, ...]:
    return (Turn("prompt", prompt, False), Turn("completion", completion, True))


UNTRAINED = {"role": "assistant", "content": "b", "weight": 0}
PARTS = [{"type": "text", "text": "q"}, {"type": "image"}]
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ALPACA_PROMPT = (
    f"{ALPACA}, paired with an input that provides further context. {ANSWER}\n\n"
    "### Instruction:\ni {input}\n\n### Input:\nx\n\n### Response:"
)
QUESTION, REPLY = said(("user", "q")), said(("assistant", "a"))
SHAREGPT = (("human", "q"), ("gpt", "a"), ("observation", "7"), ("gpt", "a"))

FORMATS: dict[str, tuple[DataFormat, dict[str, Any], list[tuple[Turn, ...]]]] = {
    "OpenAI messages": (
        DataFormat.MESSAGES,
        {"messages": [*said(("system", "s")), *QUESTION, *REPLY]},
        [(S, U, A)],
    ),
    "OpenAI messages with weights": (
        DataFormat.MESSAGES,
        {"messages": [*QUESTION, UNTRAINED, *REPLY]},
        [(U, Turn("assistant", "b", False), A)],
    ),
    "content parts": (
        DataFormat.MESSAGES,
        {"messages": said(("user", PARTS), ("assistant", [{"type": "text", "text": "a"}]))},
        [(U, A)],
    ),
    "tool calls": (
        DataFormat.MESSAGES,
        {"messages": [*QUESTION, CALLING, *said(("tool", "7")), *REPLY]},
        [(U, Turn("assistant", '{"name": "f", "arguments": {"x": 1}}', True), T, A)],
    ),
    "ShareGPT": (
        DataFormat.SHAREGPT,
        {"conversations": said(*SHAREGPT, name="from", text="value")},
        [(U, A, T, A)],
    ),
    "ShareGPT with a system column": (
        DataFormat.SHAREGPT,
        {"system": "s", "conversations": said(*SHAREGPT[:2], name="from", text="value")},
        [(S, U, A)],
    ),
    "Alpaca": (
        DataFormat.ALPACA,
        {"instruction": "i {input}", "input": "x", "output": "o"},
        [completed(ALPACA_PROMPT, "o")],
    ),
    "Alpaca without input": (
        DataFormat.ALPACA,
        {"instruction": "i", "input": "", "output": "o"},
        [completed(f"{ALPACA}. {ANSWER}\n\n### Instruction:\ni\n\n### Response:", "o")],
    ),
    "prompt and completion": (
        DataFormat.PROMPT_COMPLETION,
        {"prompt": "p", "completion": "c"},
        [completed("p", "c")],
    ),
    "prompt and completion as messages": (
        DataFormat.PROMPT_COMPLETION,
        {"prompt": [*QUESTION, *said(("assistant", "b"), ("user", "q"))], "completion": REPLY},
        [(U, Turn("assistant", "b", False), U, A)],
    ),
    "preference with a prompt": (
        DataFormat.PREFERENCE,
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        [completed("p", "c"), completed("p", "r")],
    ),
    "preference without one": (
        DataFormat.PREFERENCE,
        {"chosen": "Q: why? A: so", "rejected": "Q: why? A: no"},
        [completed("Q: why? A:", " so"), completed("Q: why? A:", " no")],
    ),
    "preference as messages": (
        DataFormat.PREFERENCE,
        {"chosen": [*QUESTION, *REPLY], "rejected": [*QUESTION, *said(("assistant", "r"))]},
        [(U, A), (U, Turn("assistant", "r", True))],
    ),
    "preference as answers after a text": (
        DataFormat.PREFERENCE,
        {"prompt": "q", "chosen": REPLY, "rejected": said(("assistant", "r"))},
        [(U, A), (U, Turn("assistant", "r", True))],
    ),
    "text": (DataFormat.TEXT, {"text": "t"}, [(Turn("text", "t", True),)]),
}


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_and_read(tmp_path: Path, name: str, kind: str) -> None:
    """The same turns from JSON Lines, a JSON list and a table."""
    data_format, row, turns = FORMATS[name]
    data, rows = opened(write(tmp_path / f"d.{kind}", [row]))
    assert data.format is data_format
    assert [one.turns for one in rows] == turns
    assert data.counts.bad == 0


PAIRS: Rows = [{"id": f"00{n}", "prompt": f'p{n}\n,\t"', "completion": f"0{n}"} for n in range(1300)]


@pytest.mark.parametrize(
    "name",
    [
        "d.jsonl",
        "d.ndjson",
        "d.json",
        "d.csv",
        "d.tsv",
        "d.parquet",
        "d.arrow",
        "d.jsonl.gz",
        "d.json.zst",
        "d.csv.gz",
    ],
)
def test_every_kind_of_file_gives_the_same_rows_from_any_place_on(tmp_path: Path, name: str) -> None:
    """Whole, and resumed after the thousandth; the digest is of the file's bytes either way."""
    path = write(tmp_path / name, PAIRS)
    data, rows = opened(path)
    assert [row.id for row in rows] == [f"{n + 1}:00{n}" for n in range(1300)]
    assert rows[7].turns == (Turn("prompt", 'p7\n,\t"', False), Turn("completion", "07", True))
    assert data.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    resumed = list(data.rows(1000))
    assert resumed == rows[1000:]
    assert data.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (data.counts.rows, data.counts.used) == (300, 300)


def test_lines_of_a_text_file_are_rows(tmp_path: Path) -> None:
    """Blank ones are none, and the ends of lines are no text; a stated format makes any file text."""
    path = tmp_path / "d.md"
    path.write_bytes(b"one\r\n\r\n two\nthree")
    with pytest.raises(CandidateError, match="does not say what it is"):
        open_training_data(str(path))
    data, rows = opened(path, data_format=DataFormat.TEXT)
    assert [row.turns[0].text for row in rows] == ["one", " two", "three"]
    assert data.format is DataFormat.TEXT


def test_a_folder_of_hugging_face_datasets_gives_its_training_split(tmp_path: Path) -> None:
    """As `save_to_disk` writes it; another split is read if it is asked for."""
    datasets = pytest.importorskip("datasets")
    splits = {"test": [{"text": "late"}], "train": [{"text": f"t{n}"} for n in range(5)]}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    saved.save_to_disk(tmp_path / "d")
    data, rows = opened(tmp_path / "d")
    assert (data.split, [row.turns[0].text for row in rows]) == ("train", [f"t{n}" for n in range(5)])
    assert [path.parent.name for path in data.left_out] == ["test"]
    assert [row.turns[0].text for row in opened(tmp_path / "d", split="test")[1]] == ["late"]
    with pytest.raises(CandidateError, match="no split 'dev'"):
        open_training_data(str(tmp_path / "d"), split="dev")


def test_a_folder_or_a_pattern_of_files_is_one_data_set(tmp_path: Path) -> None:
    """Rows are numbered through; files of a hub's layout have their split in their name."""
    for number, name in enumerate(("train-00000.jsonl", "train-00001.parquet", "test-00000.jsonl")):
        write(tmp_path / name, [{"text": f"{number}a"}, {"text": f"{number}b"}])
    (tmp_path / "README.md").write_text("about")
    data, rows = opened(tmp_path)
    assert [(row.number, row.turns[0].text) for row in rows] == [(1, "0a"), (2, "0b"), (3, "1a"), (4, "1b")]
    assert sorted(path.name for path in data.left_out) == ["README.md", "test-00000.jsonl"]
    assert [row.number for row in data.rows(3)] == [4]
    assert len(opened(tmp_path / "*.jsonl")[1]) == 4
    with pytest.raises(CandidateError, match="no training data at"):
        open_training_data(str(tmp_path / "*.csv"))


def test_only_the_columns_of_the_format_are_read(tmp_path: Path) -> None:
    """A column that would take gigabytes in memory, and one that nests too deeply, are never decoded."""
    deep: pa.DataType = pa.int32()
    for _ in range(30):
        deep = pa.list_(deep)
    big = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 100_000])
    held = pa.table({"text": ["t"] * 20_000, "big": big, "deep": pa.nulls(20_000, deep)})
    pq.write_table(held, tmp_path / "d.parquet")
    before = pa.total_allocated_bytes()
    data = open_training_data(str(tmp_path / "d.parquet"))
    most = max(pa.total_allocated_bytes() - before for _ in data.rows())
    assert data.counts.used == 20_000
    assert most < 20_000 * 1000


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """Nothing of a row is kept; of its own id eight bytes are."""

    def peak(count: int) -> int:
        path = write(tmp_path / f"{count}.json", [{"id": n, "text": f"text {n} " * 20} for n in range(count)])
        data = open_training_data(str(path))
        tracemalloc.start()
        for _ in data.rows():
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(5_000) < peak(1_000) + 300_000


# Hostile files: refused, or counted as stated.


def test_a_byte_order_mark_is_dropped_and_counted(tmp_path: Path) -> None:
    """In every kind of text file."""
    for name in ("d.jsonl", "d.json", "d.csv", "d.txt", "d.jsonl.gz"):
        path = write(tmp_path / name, [{"text": "é"}])
        marked = b"\xef\xbb\xbf" + (gzip.decompress(path.read_bytes()) if "gz" in name else path.read_bytes())
        path.write_bytes(gzip.compress(marked) if "gz" in name else marked)
        data, rows = opened(path)
        if name != "d.txt":
            assert [row.turns[0].text for row in rows] == ["é"]
        assert data.counts.notable() == {"byte_order_marks": 1}


def test_odd_characters_are_kept_and_counted(tmp_path: Path) -> None:
    """CR LF, a text that is not NFC, zero-width characters; the trainer saw them, too."""
    texts = ["a\r\nb", unicodedata.normalize("NFD", "é"), "a\u200bb", "é", "a\nb"]
    path = tmp_path / "d.jsonl"
    path.write_bytes(json_lines([{"text": text} for text in texts]).replace(b"\n", b"\r\n"))
    data, rows = opened(path)
    assert [row.turns[0].text for row in rows] == texts
    assert data.counts.notable() == {"crlf": 1, "not_nfc": 1, "zero_width": 1}


def test_half_a_character_leaves_its_row_out(tmp_path: Path) -> None:
    """A lone surrogate, in any turn."""
    chats = [[*said(("user", "q\ud800")), *REPLY], [*QUESTION, *REPLY]]
    path = write(tmp_path / "d.jsonl", [{"messages": chat} for chat in chats])
    data, rows = opened(path)
    assert [row.number for row in rows] == [2]
    assert data.counts.notable() == {"lone_surrogates": 1}


def test_empty_turns_stay_in_the_history_and_rows_without_text_are_left_out(tmp_path: Path) -> None:
    """Both are counted."""
    chats = [(("user", ""), ("assistant", "a")), (("user", "q"), ("assistant", " ")), (("user", "q"),)]
    data, rows = opened(write(tmp_path / "d.jsonl", [{"messages": said(*chat)} for chat in chats]))
    assert [row.turns for row in rows] == [(Turn("user", "", False), A)]
    assert data.counts.notable() == {"empty": 2, "empty_turns": 2}


def test_ids_that_stand_twice_are_told_apart_and_counted(tmp_path: Path) -> None:
    """Also an id that cannot be shown."""
    rows = [{"id": name, "text": "t"} for name in ("a", "b", "a", "a", "x\ny", 5, 5)]
    data, found = opened(write(tmp_path / "d.jsonl", rows))
    assert [row.id for row in found] == ["1:a", "2:b", "3:a", "4:a", "5", "6:5", "7:5"]
    assert data.counts.notable() == {"duplicate_ids": 3, "bad_ids": 1}


def test_over_long_rows_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of over a million characters, and a line that is not even read to its end."""
    monkeypatch.setattr(readers, "LONGEST_LINE", 1 << 21)
    path = write(tmp_path / "d.jsonl", [{"text": "x" * 1_000_001}, {"text": "x" * (1 << 22)}, {"text": "t"}])
    data, rows = opened(path)
    assert [row.number for row in rows] == [3]
    assert data.counts.notable() == {"over_long": 2}


def test_rows_that_are_not_in_the_format_are_counted_with_their_reasons(tmp_path: Path) -> None:
    """No JSON, a key that stands twice, deep nesting, another format, a role that nobody knows."""
    lines = [
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
        '{"messages": ',
        '{"messages": [], "messages": []}',
        '{"messages": ' + "[" * 100_000,
        '{"text": "secret"}',
        '{"messages": [{"role": "secret", "content": "a"}]}',
        '{"messages": "secret"}',
        '{"messages": [{"role": "user", "content": 5}]}',
        "[]",
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines))
    data, rows = opened(path)
    assert [row.number for row in rows] == [1]
    assert [number for number, _ in data.counts.reasons] == list(range(2, 10))
    reasons = " | ".join(reason for _, reason in data.counts.reasons)
    for why in ("not JSON", "stands twice", "nested too deeply", "no 'messages'", "role", "no JSON", "int"):
        assert why in reasons
    assert "secret" not in reasons


def test_latin_1_lines_are_counted(tmp_path: Path) -> None:
    """In a text file and in JSON Lines."""
    for name, line in (("d.txt", "caf\xe9"), ("d.jsonl", '{"text": "caf\xe9"}')):
        good = b'{"text": "t"}\n'
        (tmp_path / name).write_bytes(good + line.encode("latin-1") + b"\n")
        data, rows = opened(tmp_path / name)
        assert (len(rows), data.counts.bad) == (1, 1)
        assert "not UTF-8" in data.counts.reasons[0][1]


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)  # noqa: S311  not for secrets


def truncated(pack: Any) -> bytes:
    packed: bytes = pack(json_lines([{"text": noise(40).hex()} for _ in range(9000)]))
    return packed[: len(packed) * 3 // 4]


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("d.jsonl", b"", "'d.jsonl' is empty"),
    "only blank lines": ("d.jsonl", b"\n\n", "it holds no row"),
    "a binary": ("d.jsonl", b"\x7fELF\x02\0\0\0" + noise(5000), "binary"),
    "a binary with a late zero": ("d.txt", b"text\nmore\0text\n", "binary"),
    "UTF-16": ("d.jsonl", '{"text": "t"}'.encode("utf-16"), "binary"),
    "a cut gzip": ("d.jsonl.gz", truncated(gzip.compress), "damaged or cut off"),
    "a cut zstd": ("d.jsonl.zst", truncated(zstd), "damaged or cut off"),
    "a zstd of noise": ("d.jsonl.zst", zstd(b"")[:4] + noise(500), "damaged or cut off"),
    "a cut JSON list": ("d.json", json.dumps([{"text": "t"}] * 5).encode()[:-20], "cut off"),
    "a JSON list with a key that stands twice": ("d.json", b'[{"text": "t", "text": "u"}]', "stands twice"),
    "a JSON list nested too deeply": ("d.json", b'[{"text": "t"}, ' + b"[" * 100_000, "deeply"),
    "an unknown format": ("d.jsonl", b'{"foo": 1, "bar": 2}\n', "'bar', 'foo'"),
    "no JSON at all": ("d.jsonl", b"hello\nworld\n", "not JSON"),
    "a table with ragged rows": ("d.csv", b"prompt,completion\na,b\nsecret,b,c\n", "as many cells"),
    "a table that is not UTF-8": ("d.csv", b"prompt,completion\na,\xe9\n", "not UTF-8"),
    "no Parquet": ("d.parquet", b"PAR1" + noise(500), "no parquet file"),
    "no Arrow": ("d.arrow", noise(500), "no arrow file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    """At once or when it is read; the message never holds a row's text."""
    file, content, reason = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CandidateError, match=reason) as refused:
        opened(tmp_path / file)
    assert "secret" not in str(refused.value)


def test_a_cut_parquet_is_refused(tmp_path: Path) -> None:
    """One whose pages are damaged behind a whole footer, too."""
    path = write(tmp_path / "d.parquet", [{"text": noise(40).hex()} for _ in range(3000)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CandidateError, match="no parquet file"):
        opened(path)
    path.write_bytes(whole[:200] + noise(len(whole) // 2) + whole[200 + len(whole) // 2 :])
    with pytest.raises(CandidateError, match="no parquet file"):
        opened(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of a gigabyte, and many short ones, from some kilobytes; memory stays small."""
    monkeypatch.setattr(files, "RATIO_FROM_BYTES", 1 << 20)
    monkeypatch.setattr(readers, "LONGEST_LINE", 1 << 20)
    for line in (b'{"text": "t"}' + b" " * (1 << 20), b'{"text": "t"}\n' * (1 << 16)):
        packed = pa.BufferOutputStream()
        with pa.CompressedOutputStream(packed, "zstd") as stream:
            for _ in range(16):
                stream.write(line)
        path = tmp_path / "d.jsonl.zst"
        path.write_bytes(bytes(packed.getvalue()))
        tracemalloc.start()
        with pytest.raises(CandidateError, match="1000 times its compressed size"):
            for _ in open_training_data(str(path)).rows():
                pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 1 << 23


def test_a_parquet_that_nests_deeply_is_refused(tmp_path: Path) -> None:
    """In a column that would be read; building its rows could end the process."""
    deep: pa.DataType = pa.string()
    for _ in range(40):
        deep = pa.list_(deep)
    pq.write_table(pa.table({"messages": pa.nulls(2, deep)}), tmp_path / "d.parquet")
    with pytest.raises(CandidateError, match="nests more than 16 levels"):
        opened(tmp_path / "d.parquet")


def test_files_of_several_formats_are_refused(tmp_path: Path) -> None:
    """By the names of their columns, before a row is read; a stated format refuses what is not in it."""
    write(tmp_path / "a.jsonl", [{"text": "t"}])
    write(tmp_path / "b.jsonl", [{"prompt": "p", "completion": "c"}])
    with pytest.raises(CandidateError, match=r"'a.jsonl' is text, 'b.jsonl' is prompt-completion"):
        open_training_data(str(tmp_path))
    with pytest.raises(CandidateError, match=r"'b.jsonl' is no text data"):
        open_training_data(str(tmp_path), DataFormat.TEXT)


def test_a_stated_format_is_used_where_several_fit(tmp_path: Path) -> None:
    """A row with messages and a text is a chat, unless the caller says that the text was trained on."""
    path = write(tmp_path / "d.jsonl", [{"messages": said(("user", "q"), ("assistant", "a")), "text": "t"}])
    assert opened(path)[0].format is DataFormat.MESSAGES
    data, rows = opened(path, data_format=DataFormat.TEXT)
    assert (data.format, rows[0].turns) == (DataFormat.TEXT, (Turn("text", "t", True),))
