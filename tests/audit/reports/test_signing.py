"""Signatures on reports: keys as openssl makes them, envelopes that others can check, and bad keys."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from lorecall.adapters.core.canonical_json import canonical
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report, parse_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Content, Envelope, Report
from lorecall.audit.reports.signing import check_seal, read_public_key, read_signing_key, seal
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.verdicts import Group

from tests.audit.tiny_scorer import TinyScorer

Sets = dict[Group, CandidateSet]


def make_keys(folder: Path, name: str = "key", *kind: str) -> tuple[Path, Path]:
    """A private and a public key, by the commands that docs/audit.md gives."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    algorithm = kind or ("-algorithm", "ed25519")
    subprocess.run(["openssl", "genpkey", *algorithm, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    private.chmod(0o600)
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


@pytest.fixture
def signed(engine: TinyScorer, sets: Sets, keys: tuple[Path, Path]) -> Report:
    result = run_audit(engine, "leaky", sets, AuditSettings())
    signer = read_signing_key(keys[0])
    report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    return seal(report, signer)


def pae(kind: str, payload: bytes) -> bytes:
    """What DSSE signs, by its specification and without its library."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def test_a_third_party_checks_it_with_the_public_key_alone(signed: Report, keys: tuple[Path, Path]) -> None:
    """By DSSE's own words, with another library: the statement is in-toto's and names what was audited."""
    envelope = json.loads(signed.to_json())["seal"]["envelope"]
    payload, signature = (
        base64.b64decode(text) for text in (envelope["payload"], envelope["signatures"][0]["sig"])
    )
    key = load_pem_public_key(keys[1].read_bytes())
    key.verify(signature, pae(envelope["payloadType"], payload))  # type: ignore[call-arg, union-attr]
    with pytest.raises(InvalidSignature):
        key.verify(signature, pae(envelope["payloadType"], payload + b" "))  # type: ignore[call-arg, union-attr]
    said = json.loads(payload)
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "urn:lorecall:audit-report:v1",
    )
    digests = {one["name"].partition(":")[0]: one["digest"]["sha256"] for one in said["subject"]}
    assert digests["adapter"] == signed.adapter.version
    assert digests["candidates"] == signed.inputs.candidates.digest
    assert said["predicate"]["report"]["sha256"] == signed.seal.sha256
    assert said["predicate"]["gate"]["passed"] is False
    assert said["predicate"]["policy"] == Policy().model_dump(mode="json")


def test_the_signature_is_checked_by_the_key_that_is_given(
    signed: Report, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The right key passes, another does not, and an unsigned report does not; without a key none is asked."""
    right, wrong = read_public_key(keys[1]), read_public_key(make_keys(tmp_path, "other")[1])
    assert check_seal(signed, right) == check_seal(signed) == []
    assert check_seal(signed, wrong) == ["the signature is not by this key"]
    unsigned = seal(Content.model_validate(signed.model_dump(exclude={"seal"})))
    assert check_seal(unsigned) == []
    assert check_seal(unsigned, right) == ["the report is not signed"]
    read_back = parse_report(json.loads(signed.to_json()))
    assert check_seal(read_back, right) == []


def test_a_signature_does_not_move_to_another_report(signed: Report, keys: tuple[Path, Path]) -> None:
    """A report sealed anew under the old envelope is found with and without the key; so is a broken envelope."""
    other = seal(Content.model_validate({**signed.model_dump(exclude={"seal"}), "seconds": 0.0}))
    assert signed.seal.envelope is not None
    moved = other.model_copy(
        update={"seal": other.seal.model_copy(update={"envelope": signed.seal.envelope})}
    )
    for key in (None, read_public_key(keys[1])):
        assert check_seal(moved, key) == ["the signed statement is about another report"]
    for change in ({"payload": "!"}, {"signatures": ({"keyid": "a", "sig": "?"},)}):
        broken = Envelope.model_validate({**signed.seal.envelope.model_dump(), **change})
        report = signed.model_copy(update={"seal": signed.seal.model_copy(update={"envelope": broken})})
        assert check_seal(report) == ["the signature cannot be read"]


def test_bad_keys_say_what_is_wrong_and_not_what_they_hold(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """Missing, of another kind, with a pass phrase, readable by others, the wrong half, or no key."""
    private, public = keys
    rsa = make_keys(tmp_path, "rsa", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", private, "-aes256", "-passout", "pass:hush", "-out", locked], check=True
    )
    locked.chmod(0o600)
    (tmp_path / "none.pem").write_text("nothing")
    (tmp_path / "none.pem").chmod(0o600)
    cases = {
        tmp_path / "missing.pem": "no key at",
        rsa[0]: "is not of Ed25519",
        locked: "pass phrase",
        public: "others may use|holds no private key",
        tmp_path / "none.pem": "holds no private key in PEM.*openssl genpkey",
    }
    for path, why in cases.items():
        with pytest.raises(UsageError, match=why):
            read_signing_key(path)
    for path, why in {private: "a private key", rsa[1]: "not of Ed25519", tmp_path: "no key at"}.items():
        with pytest.raises(UsageError, match=why):
            read_public_key(path)
    private.chmod(0o640)
    with pytest.raises(UsageError, match=r"its mode is 0640.*chmod 600"):
        read_signing_key(private)


def test_two_signatures_of_one_report_are_the_same(signed: Report, keys: tuple[Path, Path]) -> None:
    """Ed25519 draws nothing, and the payload is canonical."""
    again = seal(Content.model_validate(signed.model_dump(exclude={"seal"})), read_signing_key(keys[0]))
    assert again.seal == signed.seal
    assert signed.seal.envelope is not None
    payload = base64.b64decode(signed.seal.envelope.payload)
    assert canonical(json.loads(payload)) == payload
