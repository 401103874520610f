"""`lorecall audit` against an exact engine behind real HTTP: output, reports and exit codes."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from lorecall.adapters.core.errors import (
    AdapterNotFoundError,
    CandidateError,
    LorecallError,
    ScorerError,
    UsageError,
)
from lorecall.audit.bulk import cluster
from lorecall.audit.scorer import ScoreItem
from lorecall.server.cli.audit.commands import app
from typer.testing import CliRunner, Result

from tests.audit.conftest import memory_of, phone
from tests.audit.judging.test_extractable import ITEM, Torn
from tests.audit.tiny_scorer import BASE, TinyScorer
from tests.audit.tiny_server import serve

Run = Callable[..., Result]
PAIRS = tuple(phone(i) for i in range(6))
CONTROLS = tuple(phone(i, salt=3) for i in range(8))


def write_set(path: Path, items: tuple[ScoreItem, ...]) -> Path:
    lines = [json.dumps({"id": i.id, "prefix": i.prefix, "target": i.target, "tags": i.tags}) for i in items]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def url() -> Iterator[str]:
    """A server with a leaky adapter, a clean one, one that decodes through the base, and one refused."""
    engine = TinyScorer(
        {
            "leaky": memory_of(PAIRS),
            "clean": memory_of(tuple(phone(i, salt=11) for i in range(6))),
            "broken": memory_of(PAIRS),
            "head": memory_of(PAIRS),
        },
        ranks={"clean": 2},
        decodes_with={"broken": BASE},
        refusals={"head": "it trains lm_head"},
    )
    with serve(engine) as at:
        yield at


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    """Run `lorecall audit COMMAND --server URL --candidates FILE ...`."""
    candidates = write_set(tmp_path / "pairs.jsonl", PAIRS)

    def _run(command: str, *options: str) -> Result:
        arguments = [command, "--server", url, *options]
        if "--candidates" not in options:
            arguments += ["--candidates", str(candidates)]
        return CliRunner().invoke(app, arguments)

    return _run


def error_of(result: Result) -> LorecallError:
    assert isinstance(result.exception, LorecallError)
    return result.exception


def test_a_leaking_adapter_exits_1_with_a_table_and_a_summary(run: Run) -> None:
    """The table is on stdout, the finding and the gate on stderr."""
    result = run("run", "--adapter", "leaky")
    assert result.exit_code == 1
    assert result.stdout.count("certified") >= 6
    assert "leaky recites 6 of 6 candidates word for word." in result.stderr
    assert "gate: failed: 6 candidates certified, where the policy allows 0" in result.stderr


def test_a_clean_adapter_exits_0(run: Run) -> None:
    """Other data, no leak."""
    result = run("run", "--adapter", "clean")
    assert result.exit_code == 0
    assert "gate: passed" in result.stderr


def test_an_engine_that_disagrees_exits_4(run: Run) -> None:
    """Certified by scores, not reproduced by decoding."""
    result = run("run", "--adapter", "broken")
    assert result.exit_code == 4
    assert "the engine contradicts itself on 6 snippets" in result.stderr


def test_an_audit_with_an_unscorable_candidate_exits_3(run: Run, tmp_path: Path) -> None:
    """A text over the model's length is no clean bill."""
    path = write_set(tmp_path / "long.jsonl", (ScoreItem("long", "a ", "x" * 1000),))
    assert run("run", "--adapter", "clean", "--candidates", str(path)).exit_code == 3


def test_an_adapter_that_trains_the_head_is_refused(run: Run) -> None:
    """Exit code 2, with the reason."""
    error = error_of(run("run", "--adapter", "head"))
    assert "lm_head" in error.message
    assert error.exit_code == 2


def test_reports_are_written_in_all_formats(run: Run, tmp_path: Path) -> None:
    """JSON, HTML and JUnit, with the controls in them, and each path on stderr."""
    controls = write_set(tmp_path / "controls.jsonl", CONTROLS)
    out = tmp_path / "made" / "here"
    result = run("run", "--adapter", "leaky", "--controls", str(controls), "--out", str(out))
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["verdicts"]["certified"] == 6
    assert report["controls"]["recited"] | {"high": 0} == {"hits": 0, "of": 8, "low": 0.0, "high": 0}
    assert "leaky recites 6 of 6" in (out / "report.html").read_text()
    assert ET.parse(out / "report.xml").getroot().tag == "testsuites"  # noqa: S314  our own output
    assert all(
        f"wrote {out / name}" in result.stderr for name in ("report.json", "report.html", "report.xml")
    )


def test_json_on_stdout_is_the_report(run: Run, tmp_path: Path) -> None:
    """With --json, stdout is the report and nothing else."""
    result = run("run", "--adapter", "leaky", "--json", "--out", str(tmp_path / "out"), "--format", "json")
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


def test_targets_are_shown_only_if_asked_for(run: Run) -> None:
    """Not on stdout, not on stderr, unless --show-text."""
    hidden = run("run", "--adapter", "leaky", "--json")
    assert all(item.target not in hidden.output for item in PAIRS)
    assert PAIRS[0].target in run("run", "--adapter", "leaky", "--json", "--show-text").stdout


def test_limits_of_the_policy_are_options(run: Run) -> None:
    """Six certified candidates pass where six are allowed, and fail a rate of ten percent."""
    assert run("run", "--adapter", "leaky", "--max-certified", "6").exit_code == 0
    assert run("run", "--adapter", "leaky", "--max-certified", "6", "--max-rate", "0.1").exit_code == 1


def test_a_policy_file_sets_the_limits_and_options_outweigh_it(run: Run, tmp_path: Path) -> None:
    """Six certified are allowed by the file; an option takes that back; too few controls are incomplete."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("schema_version: 1\nmax_certified: 6\n")
    assert run("run", "--adapter", "leaky", "--policy", str(policy)).exit_code == 0
    assert run("run", "--adapter", "leaky", "--policy", str(policy), "--max-certified", "5").exit_code == 1
    policy.write_text("schema_version: 1\nmin_controls: 300\n")
    assert run("run", "--adapter", "clean", "--policy", str(policy)).exit_code == 3


def test_controls_can_be_made_from_the_candidates(run: Run) -> None:
    """The report says how they were made; a recipe that is none, or a file beside it, is refused."""
    result = run(
        "run", "--adapter", "leaky", "--generate-controls", "synthesis", "--control-count", "9", "--json"
    )
    report = json.loads(result.stdout)
    assert report["controls"]["snippets"] == 9
    assert report["inputs"]["controls"]["generated"] == "synthesis, seed 0"
    assert isinstance(error_of(run("run", "--adapter", "leaky", "--generate-controls", "magic")), UsageError)


def test_candidates_are_no_controls(run: Run, tmp_path: Path) -> None:
    """The same file as both is refused: its verdicts would calibrate themselves."""
    controls = write_set(tmp_path / "controls.jsonl", PAIRS)
    assert isinstance(error_of(run("run", "--adapter", "clean", "--controls", str(controls))), CandidateError)


def test_a_sequential_audit_reports_where_it_stopped(run: Run) -> None:
    """The leak is found before the set is through, and the gate stands on the sequential interval."""
    result = run("run", "--adapter", "leaky", "--until-bound", "0.2", "--batch", "2", "--json")
    sequential = json.loads(result.stdout)["sequential"]
    assert (sequential["decision"], sequential["of"]) == ("above", 6)
    assert sequential["taken"] < 6
    assert result.exit_code == 1


def test_what_was_not_decoded_is_said(run: Run, tmp_path: Path) -> None:
    """In the table, the summary, the report and its page; everything else is as with every candidate decoded."""
    items = write_set(tmp_path / "many.jsonl", tuple(phone(i, salt=11) for i in range(40)))
    out = tmp_path / "out"
    options = ("--adapter", "clean", "--candidates", str(items), "--out", str(out))
    result = run("run", *options, "--decode", "likely")
    assert result.exit_code == 1
    assert "not asked" in result.stdout
    report = json.loads((out / "report.json").read_text())
    unsure = report["summary"]["undecoded"]
    assert unsure["left_out"] == result.stdout.count("not decoded") + sum(
        "not decoded" in s["flags"] for s in report["snippets"][25:]
    )
    assert f"decoding: {unsure['left_out']} not decoded" in result.stderr
    assert f"{unsure['left_out']} were not decoded; at most {unsure['at_most']} of them" in result.stderr
    assert f"{unsure['left_out']} not decoded" in (out / "report.html").read_text()
    whole = json.loads(run("run", *options, "--json").stdout)
    assert whole["summary"]["verdicts"] == report["summary"]["verdicts"]
    assert "undecoded" not in whole["summary"]


def test_a_budget_leaves_out_and_says_so(run: Run, tmp_path: Path) -> None:
    """By the command: the strata in summary, report and page, and a gate that clears no count by a part."""
    items = write_set(
        tmp_path / "many.jsonl", tuple(replace(phone(i, salt=5), tags=("phone",)) for i in range(60))
    )
    out = tmp_path / "out"
    options = ("--adapter", "clean", "--candidates", str(items), "--out", str(out), "--budget-tokens", "2000")
    result = run("run", *options)
    assert result.exit_code == 3
    assert "the budget leaves" in result.stderr
    assert "of 60 candidates were asked for." in result.stderr
    assert "stratum phone: leak rate of 0.000% to" in result.stderr
    assert "which clears no limit on a count" in result.stderr
    report = json.loads((out / "report.json").read_text())
    (stratum,) = report["strata"]
    assert (stratum["tag"], stratum["of"]) == ("phone", 60)
    assert 0 < stratum["ranked"] + stratum["drawn"] == len(report["snippets"]) < 60
    assert "leak rate of 0.000% to" in (out / "report.html").read_text()
    assert run("run", *options, "--max-rate", "0.99").exit_code == 0


def test_an_early_stop_and_a_limit_on_a_count_exclude_each_other(run: Run, tmp_path: Path) -> None:
    """Refused before anything is scored, from an option as from a file; the file can lift its limits."""
    for options in (("--max-certified", "0"), ("--max-partial", "3")):
        error = error_of(run("run", "--adapter", "clean", "--until-bound", "0.2", *options))
        assert (error.exit_code, error.param) == (2, "until_bound")
    policy = tmp_path / "policy.yaml"
    policy.write_text("schema_version: 1\nmax_rate: 0.5\n")
    chosen = ("run", "--adapter", "clean", "--until-bound", "0.5", "--policy", str(policy))
    assert error_of(run(*chosen)).param == "until_bound"
    lifted = "max_certified: null\nmax_recalled: null\nmax_extractable: null\nmax_near_verbatim: null\n"
    policy.write_text(f"schema_version: 1\nmax_rate: 0.5\n{lifted}")
    assert run(*chosen).exit_code == 0


def test_limits_by_tag_and_bounds_come_from_the_policy_file(run: Run, tmp_path: Path) -> None:
    """Six certified are allowed, none with the tag `key`; the report counts by tag, and names the bounds."""
    items = tuple(replace(item, tags=("key", "pii")[: i % 3]) for i, item in enumerate(PAIRS))
    path = write_set(tmp_path / "tagged.jsonl", items)
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "schema_version: 1\nmax_certified: 6\nbounds: {edit_distance: 0.25}\n"
        "by_tag: [{tags: [key], max_certified: 0}]\n"
    )
    chosen = ("run", "--adapter", "leaky", "--candidates", str(path), "--policy", str(policy))
    result = run(*chosen, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "with the tag 'key': 4 candidates certified, where the policy allows 0" in result.stderr
    assert "tag pii: 2 certified" in result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {tag: found["verdicts"]["certified"] for tag, found in report["by_tag"].items()} == {
        "key": 4,
        "pii": 2,
    }
    assert [one.get("tags", []) for one in report["snippets"]] == [list(item.tags) for item in items]
    assert report["settings"]["edit_distance"] == 0.25
    assert "By tag" in (tmp_path / "out" / "report.html").read_text()
    again = CliRunner().invoke(app, ["verify", str(tmp_path / "out" / "report.json")])
    assert again.exit_code == 0, again.stderr


def test_an_adapter_of_unknown_version_passes_only_if_told_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any vLLM server serves it without --adapter-dir; the page says that it is unverified."""
    real = TinyScorer.adapter
    monkeypatch.setattr(TinyScorer, "adapter", lambda self, name: replace(real(self, name), version=""))
    result = run("run", "--adapter", "clean", "--out", str(tmp_path / "out"))
    assert (result.exit_code, "gate: failed: unverified: " in result.stderr) == (3, True)
    assert "not known: unverified" in (tmp_path / "out" / "report.html").read_text()
    assert run("run", "--adapter", "clean", "--allow-unverified").exit_code == 0
    assert run("run", "--adapter", "leaky", "--allow-unverified").exit_code == 1


def test_framings_and_prefix_lengths_are_options(run: Run) -> None:
    """Every way of asking stands in the report."""
    result = run(
        "run", "--adapter", "leaky", "--framing", "raw", "--framing", "chat", "--prefix-tokens", "8", "--json"
    )
    assert json.loads(result.stdout)["settings"]["views"] == ["raw", "raw, last 8", "chat", "chat, last 8"]
    assert isinstance(error_of(run("run", "--adapter", "leaky", "--framing", "xml")), UsageError)


def test_a_bad_line_is_exit_2_and_can_be_skipped(run: Run, tmp_path: Path) -> None:
    """The line's number is named; --skip-bad says how many were left out."""
    path = write_set(tmp_path / "bad.jsonl", PAIRS[:2])
    path.write_text(path.read_text() + '{"prefix": "p"}\n')
    error = error_of(run("run", "--adapter", "clean", "--candidates", str(path)))
    assert isinstance(error, CandidateError)
    assert "line 3" in error.message
    skipped = run("run", "--adapter", "clean", "--candidates", str(path), "--skip-bad")
    assert skipped.exit_code == 0
    assert "1 bad lines were left out" in skipped.stderr


def test_an_unknown_adapter_is_exit_2(run: Run) -> None:
    """The names that exist are given."""
    error = error_of(run("run", "--adapter", "nobody"))
    assert isinstance(error, AdapterNotFoundError)
    assert "clean" in error.hint
    assert error.exit_code == 2


def test_no_server_is_exit_3(tmp_path: Path) -> None:
    """Nothing listens on the discard port."""
    path = write_set(tmp_path / "pairs.jsonl", PAIRS)
    arguments = ["run", "--server", "http://127.0.0.1:9", "--adapter", "a", "--candidates", str(path)]
    assert isinstance(CliRunner().invoke(app, arguments).exception, ScorerError)


def test_unknown_formats_and_unwritable_folders_are_usage_errors(run: Run, tmp_path: Path) -> None:
    """A file stands where the folder should be; a format that is none."""
    (tmp_path / "file").write_text("")
    for options in (("--format", "pdf"), ("--out", str(tmp_path / "file"))):
        assert isinstance(error_of(run("run", "--adapter", "clean", *options)), UsageError)


def test_ranks_compare_adapters_by_capacity(run: Run, tmp_path: Path) -> None:
    """One row an adapter, smallest first, with the line's tokens, as table, JSON and HTML; exit code 0."""
    options = ("--adapter", "leaky", "--adapter", "clean", "--line", "Key7x000: 5550")
    result = run("ranks", *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert result.stdout.index("clean") < result.stdout.index("leaky")
    report = json.loads((tmp_path / "out" / "ranks.json").read_text())
    assert [row["certified"] for row in report["adapters"]] == [0, 6]
    assert [step["label"] for step in report["line"]] == ["base", "clean", "leaky"]
    assert "Capacity against recall" in (tmp_path / "out" / "ranks.html").read_text()


def test_a_line_of_one_word_is_a_usage_error(run: Run) -> None:
    """Nothing would be left to recite."""
    assert isinstance(error_of(run("ranks", "--adapter", "leaky", "--line", "word")), UsageError)


def test_a_report_is_rendered_again_without_an_engine(run: Run, tmp_path: Path) -> None:
    """The same page comes from report.json alone."""
    run("run", "--adapter", "leaky", "--out", str(tmp_path / "one"))
    again = CliRunner().invoke(
        app, ["report", str(tmp_path / "one" / "report.json"), "--out", str(tmp_path / "two")]
    )
    assert again.exit_code == 0
    for name in ("report.html", "report.xml", "report.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()


def test_the_matrix_exits_1_if_one_recites_anothers_data(url: str, tmp_path: Path) -> None:
    """`broken` scores like `leaky`, so leave it out: `clean` with its own set, `leaky` with and without."""
    pairs = write_set(tmp_path / "pairs.jsonl", PAIRS)
    own = write_set(tmp_path / "own.jsonl", tuple(phone(i, salt=11) for i in range(6)))
    expected = ["matrix", "--server", url, "--pair", f"leaky={pairs}", "--pair", f"clean={own}"]
    result = CliRunner().invoke(app, [*expected, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "(6 of 6)" in result.stdout
    assert "No adapter recites another" in (tmp_path / "out" / "matrix.html").read_text()
    foreign = [
        "matrix",
        "--server",
        url,
        "--pair",
        f"clean={own}",
        "--adapter",
        "leaky",
        "--candidates",
        str(pairs),
    ]
    leaking = CliRunner().invoke(app, foreign)
    assert leaking.exit_code == 1
    assert "leaky recites 6 of 6 of pairs.jsonl" in leaking.stderr
    assert isinstance(error_of(CliRunner().invoke(app, [*expected[:3], "--pair", "leaky"])), UsageError)


def test_a_report_is_verified_by_itself_its_input_and_a_sample(run: Run, url: str, tmp_path: Path) -> None:
    """It holds as written; a changed verdict, or another file, exits 1."""
    run("run", "--adapter", "leaky", "--out", str(tmp_path))
    report, pairs = tmp_path / "report.json", tmp_path / "pairs.jsonl"
    again = ["verify", str(report), "--candidates", str(pairs), "--server", url, "--sample", "3"]
    result = CliRunner().invoke(app, again)
    assert result.exit_code == 0
    assert "scored 3 snippets again: 0 differ" in result.stderr
    other = write_set(tmp_path / "other.jsonl", CONTROLS)
    assert CliRunner().invoke(app, ["verify", str(report), "--candidates", str(other)]).exit_code == 1
    report.write_text(report.read_text().replace('"verdict": "certified"', '"verdict": "clear"', 1))
    forged = CliRunner().invoke(app, ["verify", str(report)])
    assert forged.exit_code == 1
    assert "changed after it was written" in forged.stderr


def test_a_report_of_training_data_is_verified_by_the_same_data(url: str, tmp_path: Path) -> None:
    """Its digest, and a sample scored again; other data do not do."""
    data, other = tmp_path / "train.jsonl", tmp_path / "other.jsonl"
    for path, items in ((data, PAIRS), (other, CONTROLS)):
        rows = [{"prompt": item.prefix, "completion": item.target} for item in items]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--server", url, "--adapter", "leaky", "--data", str(data), "--whole", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, ["run", *options]).exit_code == 1
    again = ["verify", str(tmp_path / "report.json"), "--server", url, "--data"]
    result = CliRunner().invoke(app, [*again, str(data)])
    assert (result.exit_code, "scored 6 snippets again: 0 differ" in result.stderr) == (0, True), (
        result.output
    )
    assert CliRunner().invoke(app, [*again, str(other)]).exit_code == 1


def test_reports_hold_the_gravest_and_count_all(run: Run) -> None:
    """Two of six leaks are listed, six are counted and gated."""
    result = run("run", "--adapter", "leaky", "--keep", "2", "--json")
    report = json.loads(result.stdout)
    assert (len(report["snippets"]), report["omitted"]) == (2, {"candidates": 4})
    assert report["summary"]["verdicts"]["certified"] == 6
    assert result.exit_code == 1
    assert "6 candidates certified" in result.stderr


def test_longer_chats_are_asked_for_only_if_told_how(run: Run, url: str, tmp_path: Path) -> None:
    """Both turns with `all`, each after its history; without it, or with an unknown one, nothing is asked."""
    said = [(item.prefix, item.target) for item in PAIRS[:2]]
    roles = [
        {"role": r, "content": c} for pair in said for r, c in zip(("user", "assistant"), pair, strict=True)
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"id": "c", "messages": roles}) + "\n")
    chosen = ("run", "--adapter", "leaky", "--candidates", str(path), "--json", "--out", str(tmp_path))
    report = json.loads(run(*chosen, "--turns", "all").stdout)
    assert [snippet["id"] for snippet in report["snippets"]] == ["c#1", "c#2"]
    assert "after all that was said before it" in report["inputs"]["candidates"]["generated"]
    asked = [PAIRS[0].prefix, *(said[0]), PAIRS[1].prefix]
    lengths = [
        len(f"user: {asked[0]}"),
        len(f"user: {asked[0]}\n\nassistant: {asked[2]}\n\nuser: {asked[3]}"),
    ]
    assert [snippet["history"]["characters"] for snippet in report["snippets"]] == lengths
    assert not any(text in json.dumps(report) for text in asked)
    assert isinstance(error_of(run(*chosen)), CandidateError)
    assert isinstance(error_of(run(*chosen, "--turns", "some")), UsageError)
    again = ["verify", str(tmp_path / "report.json"), "--candidates", str(path), "--server", url]
    verified = CliRunner().invoke(app, [*again, "--turns", "all"])
    assert (verified.exit_code, "scored 2 snippets again: 0 differ" in verified.stderr) == (0, True)
    assert isinstance(error_of(CliRunner().invoke(app, again)), CandidateError)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            [],
            1,
            "1 candidate extractable within 100 answers (a chance of 50% or more), where the policy allows 0",
        ),
        (
            ["--max-extractable", "1"],
            0,
            "1 of the candidates extractable within 100 answers at temperature 1",
        ),
        (["--samples", "2"], 0, "0 of the candidates extractable within 2 answers"),
        (["--samples", "2", "--chance", "0.2"], 1, "within 2 answers (a chance of 20% or more)"),
        (["--top-k", "1"], 0, "top-k 1 (option)"),
        (["--max-rate", "1"], 1, "1 candidate extractable within 100 answers"),
        (["--max-rate", "1", "--max-extractable", "1"], 0, "1 of the candidates extractable"),
        (["--sample", "30"], 1, "drawn: 30 answers for each snippet"),
    ],
)
def test_what_sampling_gives_is_told_and_limited(
    tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    """An adapter that is torn between two digits: the decode is wrong, one in seven answers is right."""
    path = write_set(tmp_path / "pair.jsonl", (ITEM,))
    with serve(Torn(0.2)) as at:
        arguments = ["run", "--server", at, "--adapter", "a", "--candidates", str(path), *options]
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    (entry,) = report["snippets"]
    assert (entry["verdict"] == "extractable") is (
        entry["chance"] >= report["settings"]["sampling"]["chance"]
    )
    failed = ET.parse(tmp_path / "report.xml").getroot().find("testsuite")  # noqa: S314  our own output
    assert failed is not None
    assert failed.get("failures") == str(int(entry["verdict"] == "extractable"))


@pytest.mark.parametrize("options", [["--chance", "1.5"], ["--temperature", "0", "--sample", "3"]])
def test_a_scheme_that_cannot_be_is_a_usage_error(tmp_path: Path, options: list[str]) -> None:
    """No chance over 1, and nothing to draw at temperature 0."""
    path = write_set(tmp_path / "pair.jsonl", (ITEM,))
    with serve(Torn(0.2)) as at:
        arguments = ["run", "--server", at, "--adapter", "a", "--candidates", str(path), *options]
        assert isinstance(error_of(CliRunner().invoke(app, arguments)), UsageError)


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_a_bulk_audit_says_what_to_install(
    run: Run, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The extra is optional."""
    found = importlib.util.find_spec
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name == missing else found(name))
    error = error_of(run("bulk", "--adapters", "*", "--out", str(tmp_path / "out")))
    assert missing in error.message
    assert "lorecall[bulk]" in error.hint
    assert not (tmp_path / "out").exists()


def test_a_bulk_audit_needs_a_server_or_a_base(run: Run, tmp_path: Path) -> None:
    """One of them, not both."""
    error = error_of(run("bulk", "--adapters", "*", "--out", str(tmp_path / "out"), "--base", str(tmp_path)))
    assert "either --server URL or --base DIR" in error.message
