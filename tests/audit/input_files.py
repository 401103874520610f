"""Files of candidates for tests of the reader: good ones of every kind, bad ones with a secret in every place."""

import io
import json
import struct
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any

HAS_ARROW = find_spec("pyarrow") is not None
SECRET = "wq7Zebra4471kXhunter"  # noqa: S105  a text to look for
OPENING = b'{"id": "a", "prefix": "Phone of Jo:", "target": " 555-0100"}\n'

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And the key?"}]
PAIRS = [(f"s{n}", f"Key{n:03d}: ", f"{(n + 1) * 7919:07d} red lamps") for n in range(6)]


def _lines(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def parquet(columns: dict[str, Any], names: list[str] | None = None) -> bytes:
    """Return a Parquet file; a column is a list or an Arrow array."""
    pa: Any = import_module("pyarrow")
    pq: Any = import_module("pyarrow.parquet")
    sink = io.BytesIO()
    table = pa.Table.from_arrays(
        [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()],
        names or list(columns),
    )
    pq.write_table(table, sink)
    return sink.getvalue()


def good_files() -> dict[str, bytes]:
    """Files that hold `PAIRS`, or, the text, something else: by name."""
    ids, prefixes, targets = (list(column) for column in zip(*PAIRS, strict=True))
    rows = [{"id": i, "prefix": p, "target": t, "source": "x"} for i, p, t in PAIRS]
    chats = [
        {"id": i, "messages": [{"role": "user", "content": p}, {"role": "assistant", "content": t}]}
        for i, p, t in PAIRS
    ]
    named = [{"id": i, "prompt": p, "completion": t} for i, p, t in PAIRS]
    files = {
        "plain.jsonl": _lines(rows),
        "windows.jsonl": b"\xef\xbb\xbf" + _lines(rows, "\r\n\r\n"),
        "named.jsonl": _lines(named),
        "chats.JSON": _lines(chats),
        "no-suffix": _lines(rows),
        "tagged.jsonl": _lines([{**row, "tags": ["pii", "phone"]} for row in rows]),
        "said.jsonl": _lines([{**row, "messages": SAID} for row in rows]),
        "book.txt": b"One is the first. Two comes after it! Is three the last? Four ends it.",
    }
    if HAS_ARROW:
        pa: Any = import_module("pyarrow")
        odd = {
            "embedding": [[0.5, 0.25]] * 6,
            "blob": [b"\xff\x00"] * 6,
            "at": pa.array([1_700_000_000_000_000_001] * 6, pa.timestamp("ns", tz="Europe/Berlin")),
            "price": [Decimal("1.25")] * 6,
            "when": [datetime(2026, 1, 1)] * 6,  # noqa: DTZ001  a naive time is one of the odd types
            "span": pa.array([1] * 6, pa.duration("ns")),
            "nested": [{"a": [{"b": [1]}]}] * 6,
            "text.id": ["x"] * 6,
        }
        files["table.parquet"] = parquet({**odd, "id": ids, "prefix": prefixes, "target": targets})
        files["TABLE.PARQUET"] = parquet(
            {
                "target": pa.array(targets).dictionary_encode(),
                "prefix": pa.array(prefixes, pa.large_string()),
                "id": ids,
            }
        )
        messages = [chat["messages"] for chat in chats]
        files["tagged.parquet"] = parquet(
            {
                "id": ids,
                "prefix": prefixes,
                "target": targets,
                "tags": [["pii"], None] * 3,
                "messages": [SAID] * 6,
            }
        )
        files["chats.parquet"] = parquet({"id": ids, "messages": messages, "query": [None] * 6})
        sink = io.BytesIO()
        table = pa.table({"id": ids, "prefix": prefixes, "target": targets, "blob": [b"\xff"] * 6})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        files["stream.arrow"] = sink.getvalue()
    return files


def bad_files() -> dict[str, bytes]:
    """Files that no audit takes, with `SECRET` as a key, a value, a part of a line, or all of it: by name."""
    key, row = json.dumps(SECRET), '"prefix": "p", "target": "t"'
    lines = {
        "line": SECRET,
        "pair": f"Phone of Jo: {SECRET}",
        "cut": f'{{"prefix": "p", "target": {key[:-1]}',
        "escape": f'{{"prefix": "p", "target": "\\{SECRET}"}}',
        "control": f'{{"prefix": "p", "target": "{SECRET}\x01"}}',
        "more": f"{{{row}}} {key}",
        "word": key,
        "list": f"[{key}]",
        "key": f"{{{key}: 1}}",
        "key-twice": f"{{{key}: 1, {key}: 2, {row}}}",
        "id-twice": f'{{"id": {key}, {row}}}\n{{"id": {key}, {row}}}',
        "id-list": f'{{"id": [{key}], {row}}}',
        "id-long": f'{{"id": "{SECRET * 40}", {row}}}',
        "id-newline": f'{{"id": "{SECRET}\\n", {row}}}',
        "prefix-object": f'{{"prefix": {{{key}: {key}}}, "target": "t"}}',
        "target-list": f'{{"prefix": {key}, "target": [{key}]}}',
        "target-empty": f'{{"prefix": {key}, "target": " "}}',
        "surrogate": f'{{"prefix": {key}, "target": "{SECRET}\\ud800"}}',
        "constant": f'{{"prefix": {SECRET}, "target": "t"}}',
        "long": f'{{"prefix": "p", "target": "{SECRET}{"x" * (1 << 20)}"}}',
        "deep": f'{{"x": {"[" * 100_000}{key}',
        "role": f'{{"messages": [{{"role": {key}, "content": {key}}}]}}',
        "message": f'{{"messages": [{key}]}}',
        "content": '{"messages": [{"role": "user", "content": "p"}, '
        f'{{"role": "assistant", "content": [{key}]}}]}}',
    }
    files = {f"{name}.jsonl": OPENING + text.encode() for name, text in lines.items()}
    files["alone.jsonl"] = SECRET.encode()
    files["pair-alone.jsonl"] = f"Phone of {SECRET}: 555-0100".encode()
    files["key-alone.jsonl"] = f'{{"schema_version": 1, {key}: 1}}'.encode()
    files["latin.jsonl"] = OPENING + f'{{"prefix": "{SECRET}'.encode() + b'\xff", "target": "t"}'
    files["utf-16.jsonl"] = SECRET.encode("utf-16")
    files["latin.txt"] = SECRET.encode() + b"\xff"
    files["one-sentence.txt"] = SECRET.encode()
    files["long.txt"] = b"One. " + SECRET.encode() * 60_000 + b". Three."
    files["no-table.parquet"] = SECRET.encode() * 50
    files["no-stream.arrow"] = SECRET.encode() * 50
    if HAS_ARROW:
        files |= _bad_tables()
    return files


def _bad_tables() -> dict[str, bytes]:
    pa: Any = import_module("pyarrow")
    text = SECRET.encode()
    no_utf8 = pa.Array.from_buffers(
        pa.string(),
        1,
        [
            None,
            pa.py_buffer(struct.pack("<ii", 0, len(text) + 1)),
            pa.py_buffer(text + b"\xff"),
        ],
    )
    whole = parquet({"prefix": ["p"] * 400, "target": [SECRET + str(n) for n in range(400)]})
    return {
        "column.parquet": parquet({SECRET: ["x"]}),
        "bytes.parquet": parquet({"prefix": ["p"], "target": [text]}),
        "no-utf8.parquet": parquet({"prefix": ["p"], "target": no_utf8}),
        "times.parquet": parquet({"prefix": [SECRET], "target": pa.array([1], pa.timestamp("ns"))}),
        "numbers.parquet": parquet({"prefix": [SECRET], "target": [1.5]}),
        "twice.parquet": parquet({"0": [SECRET], "1": [SECRET], "2": ["t"]}, ["prefix", "prefix", "target"]),
        "empty.parquet": parquet({"prefix": [SECRET], "target": [""]}),
        "cut.parquet": whole[: len(whole) // 2],
        "damaged.parquet": whole[:200] + bytes(600) + whole[800:],
    }
