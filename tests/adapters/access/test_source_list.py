"""An allow-list holds what lies below its prefixes, however an address is spelled, and nothing else."""

from pathlib import Path

import pytest
import s3fs
from huggingface_hub.utils import parse_hf_uri
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.access.source_list import SourceList, read_place
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.refusals import SourceRefusedError


def allows(entry: str, source: str) -> bool:
    """Whether a list of one entry allows a source."""
    try:
        return SourceList((entry,)).around(read_place(source)) is not None
    except SourceRefusedError:
        return False


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("hf://*", "hf://acme/model"),
        ("hf://", "hf://datasets/acme/model@v1/folder"),
        ("hf://acme/*", "hf://acme/model"),
        ("hf://acme/", "hf://acme/model@main/sub/folder"),
        ("hf://acme", "hf://models/acme/model@refs/pr/1/sub"),
        ("hf://models/acme", "hf://acme/model/"),
        ("hf://acme/model", "hf://acme/model@" + "a" * 40),
        ("hf://acme/model/sub", "hf://acme/model@v1/sub/folder"),
        ("hf://datasets/acme/*", "hf://datasets/acme/x"),
        ("s3://*", "s3://any/thing.tar.gz"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/acme"),
        ("s3://bucket/prefix/*", "s3://bucket/prefix"),
        ("s3://bucket/prefix", "s3://bucket/prefix/acme@v1/"),
        ("gs://bucket/", "gs://bucket/acme"),
    ],
)
def test_what_lies_below_a_prefix_is_allowed(entry: str, source: str) -> None:
    """With or without a star, a slash at the end, a revision, or the hub's word for a model."""
    assert allows(entry, source)


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("hf://acme", "hf://acme-evil/model"),
        ("hf://acme", "hf://evil/acme"),
        ("hf://acme", "hf://evil/model@acme"),
        ("hf://acme", "hf://acme@evil/model"),
        ("hf://acme", "hf://datasets/acme/model"),
        ("hf://acme", "hf://datasets/evil/acme"),
        ("hf://acme", "hf://Acme/model"),
        ("hf://acme", "HF://acme/model"),
        ("hf://acme", "hf:///acme/model"),
        ("hf://acme", "hf://acme//model"),
        ("hf://acme", "hf://acme/../evil/model"),
        ("hf://acme", "hf://acme/..%2fevil/model"),
        ("hf://acme", "hf://%61cme/model"),
        ("hf://acme", "hf://acme/model@main%2F..%2Fx"),
        ("hf://acme/model", "hf://acme/model-evil"),
        ("hf://acme/model", "hf://acme/model2@main"),
        ("hf://acme/model/sub", "hf://acme/model@sub"),
        ("hf://acme/model/sub", "hf://acme/model@sub/other"),
        ("hf://acme/model/1", "hf://acme/model@refs/pr/1"),
        ("hf://*", "hf://buckets/acme/x"),
        ("hf://*", "hf://models/buckets/acme/x"),
        ("hf://*", "hf://acme/model#adapter_config.json=etag:x"),
        ("hf://datasets", "hf://models/datasets/x"),
        ("s3://bucket/prefix/", "s3://bucket/prefix-evil/x"),
        ("s3://bucket/prefix/", "s3://bucket/prefixevil"),
        ("s3://bucket/prefix/", "s3://bucket-evil/prefix/x"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/../other"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/.."),
        ("s3://bucket/prefix/", "s3://bucket/prefix/%2e%2e/other"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/./x"),
        ("s3://bucket/prefix/", "s3://bucket/prefix//x"),
        ("s3://bucket/prefix/", "s3://bucket//prefix/x"),
        ("s3://bucket/prefix/", "s3:///bucket/prefix/x"),
        ("s3://bucket/prefix/", "s3://Bucket/prefix/x"),
        ("s3://bucket/prefix/", "s3://bucket/Prefix/x"),
        ("s3://bucket/prefix/", "S3://bucket/prefix/x"),
        ("s3://bucket/prefix/", "s3a://bucket/prefix/x"),
        ("s3://bucket/prefix/", "s3://key@bucket/prefix/x"),
        ("s3://bucket/prefix/", "s3://bucket"),
        ("s3://bucket/prefix/", "s3://bucket/prefix?versionId=x"),
        ("s3://bucket/prefix/", "s3://bucket/prefix\\..\\other"),
        ("s3://bucket/prefix/", "s3://bucket/other#s3://bucket/prefix/"),
        ("s3://bucket/prefix/", "s3://bucket/other?s3://bucket/prefix/"),
        ("s3://*", "s3://"),
        ("s3://*", "s3:///"),
        ("s3://*", "simplecache::s3://bucket/x"),
        ("s3://*", "s3://bucket/x::file:///etc"),
    ],
)
def test_nothing_else_is(entry: str, source: str) -> None:
    """Neither a longer name, nor dots, slashes, escapes, another case, a revision, nor what follows a ? or #."""
    assert not allows(entry, source)


PIECES = st.sampled_from(
    [
        "bucket", "prefix", "other", "acme", "evil", "/", "//", ".", "..", "%2e", "%2F", "@", "@main", "?", "#",
        "?versionId=", "arn:aws:s3:eu-west-1:1:accesspoint", ":", "models", "datasets", "refs/pr/1", "*", "\\",
        "\u2024\u2024", "s3://", "hf://", "\u0430cme", " ",
    ]
)  # fmt: skip


@given(
    rest=st.lists(PIECES, max_size=8).map("".join), begin=st.sampled_from(["", "bucket/", "bucket/prefix/"])
)
def test_s3fs_reads_only_below_the_prefix(rest: str, begin: str) -> None:
    """Whatever is allowed, s3fs takes for a key below the prefix in the bucket."""
    source = f"s3://{begin}{rest}"
    if allows("s3://bucket/prefix/", source):
        for aware in (False, True):
            files = s3fs.S3FileSystem(anon=True, version_aware=aware)
            bucket, key, version = files.split_path(read_place(source).address + "/adapter_config.json")
            assert bucket == "bucket"
            assert key.startswith("prefix/")
            assert not {"", ".", ".."} & set(key.split("/"))
            assert version is None


@given(
    rest=st.lists(PIECES, max_size=8).map("".join),
    begin=st.sampled_from(["", "acme/", "acme/x", "models/acme/"]),
)
def test_the_hub_reads_only_below_the_prefix(rest: str, begin: str) -> None:
    """Whatever is allowed, the hub's own library takes for a model of the organisation."""
    source = f"hf://{begin}{rest}"
    if allows("hf://acme/*", source):
        uri = parse_hf_uri(read_place(source).address)
        assert uri.type == "model"
        assert uri.id.startswith("acme/")
        assert ".." not in uri.path_in_repo.split("/")


def test_local_prefixes_are_folders_without_links(tmp_path: Path) -> None:
    """A root's name as the beginning of another's, dots and links do not lead out; a root may be a link."""
    for name in ("models/acme", "models-evil", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "alias").symlink_to("models")
    (tmp_path / "models/out").symlink_to("../other")
    for entry in (
        f"{tmp_path}/models",
        f"file://{tmp_path}/models/",
        f"{tmp_path}/models/*",
        f"{tmp_path}/alias",
    ):
        assert allows(entry, f"{tmp_path}/models/acme")
        assert allows(entry, f"file://{tmp_path}/alias/acme/../acme")
        for out in ("models-evil", "models/../other", "models/out", "other", ""):
            assert not allows(entry, f"{tmp_path}/{out}")
        assert not allows(entry, "models/acme")
        assert not allows(entry, f"s3:/{tmp_path}/models/acme")


@pytest.mark.parametrize(
    "entry",
    [
        "", "acme", "hf:/acme", "hf://acme*", "hf://ac*me/", "hf://*/model", "hf://acme/../evil", "hf://acme//x",
        "hf:///", "hf://acme/x@main", "hf://acme%2f", "s3://bucket/pre*", "s3://bucket/?x", "s3://bucket/#x",
        "s3://key@bucket/", "S3://bucket/", "s3://bucket/\n", "srv/adapters", "/srv/../etc", "/srv/acme*",
        "http://example.org/", "https://*", "https://example.org/adapters/", "local:///etc", "gs://*", "sftp://",
    ],
)  # fmt: skip
def test_a_prefix_that_would_not_mean_what_it_says_is_refused(entry: str) -> None:
    """Half a name, a pattern, a revision, HTTP, and schemes whose every host would be allowed."""
    with pytest.raises(UsageError):
        SourceList((entry,))


def test_the_widest_entry_counts() -> None:
    """An entry within another one narrows nothing."""
    found = SourceList(("s3://bucket/a/b/", "s3://bucket/a/")).around(read_place("s3://bucket/a/b/c"))
    assert found is not None
    assert found.segments == ("bucket", "a")
