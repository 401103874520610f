"""Where a bulk audit reads from: this machine, or a real S3 server on loopback."""

from pathlib import Path

import pytest
import s3fs
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.bulk.inputs import fetched
from lorecall.audit.inputs.load import load_input

from tests.s3 import running_s3


def test_a_path_is_itself(tmp_path: Path) -> None:
    """Nothing is copied."""
    assert fetched("some/file.jsonl", tmp_path) == "some/file.jsonl"


def test_files_of_a_bucket_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file by its key, several by a pattern; what is not there is told in a line."""
    pytest.importorskip("moto.server")
    with running_s3() as options:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
        monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem(**options)
        store.mkdir("audit")
        for name in ("a", "b"):
            store.pipe(f"audit/{name}.jsonl", f'{{"id": "{name}", "prefix": "p", "target": "t"}}\n'.encode())
        (one,) = load_input(Path(fetched("s3://audit/a.jsonl", tmp_path))).items
        assert one.id == "a"
        folder = tmp_path / "all"
        folder.mkdir()
        assert fetched("s3://audit/*.jsonl", folder) == str(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "b.jsonl"]
        for missing in ("s3://audit/none.jsonl", "s3://audit/none-*"):
            with pytest.raises(CandidateError, match="none"):
                fetched(missing, tmp_path)
    with pytest.raises(CandidateError, match="nosuchscheme"):
        fetched("nosuchscheme://x", tmp_path)
