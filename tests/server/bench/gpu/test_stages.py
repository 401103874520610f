"""The run on a GPU host, on stand-in stages: limits, failures, skips, and what stands on the page."""

import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from lorecall.server.bench.gpu import checks, plan, run, setting, swap
from lorecall.server.bench.gpu.stages import Stage, StageResult, page_of, run_stages
from lorecall.server.bench.processes.host import EngineDiedError
from lorecall.server.cli import bench_gpu
from lorecall.server.cli.main import app
from typer.testing import CliRunner, Result

WRITES = """
import pathlib, sys
pathlib.Path(sys.argv[1], "x.md").write_text("# Title\\n\\n| a |\\n|---|\\n| 1 |\\n")
"""
FAILS = "import sys; print('first'); print('the reason | here', file=sys.stderr); sys.exit(7)"
HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(  # as servers and engines are started: out of reach of a signal to the group
    [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"],
    start_new_session=True,
)
pathlib.Path(sys.argv[1], "x.md").write_text("| found |")
pathlib.Path(sys.argv[1], "child").write_text(str(child.pid))
time.sleep(600)
"""


def stage(name: str, *programs: str, limit: float = 60.0) -> Stage:
    """Return a stage of Python programs, each of which gets its folder."""
    return Stage(
        name, f"shows {name}", limit, tuple((sys.executable, "-c", one, "{out}") for one in programs)
    )


def test_each_stage_ends_alone_and_what_was_found_stays(tmp_path: Path) -> None:
    """One writes, one fails with its reason, and the one behind it runs all the same."""
    asked = [stage("good", WRITES), stage("bad", FAILS, WRITES), stage("after", "pass")]
    seen: list[int] = []
    results = run_stages(asked, tmp_path, seconds=600, on_result=lambda found: seen.append(len(found)))
    assert [result.state for result in results] == ["ok", "failed", "ok"]
    assert results[0].found == "| a |\n|---|\n| 1 |"
    assert results[1].why == "exit code 7: first / the reason \\| here"
    assert not results[1].found  # its second command did not run
    assert seen == [1, 2, 3]


def test_a_stage_over_its_limit_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine of it goes on beside the next stage; what it wrote before counts."""
    started = tmp_path / "slow" / "child"

    class Impatient(subprocess.Popen[bytes]):
        """A process whose limit is over as soon as it has started its child."""

        waited = False

        def wait(self, timeout: float | None = None) -> int:
            if self.waited:
                return super().wait(timeout)
            self.waited = True
            while not started.exists():
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)

    monkeypatch.setattr("subprocess.Popen", Impatient)
    (result,) = run_stages([stage("slow", HANGS)], tmp_path, seconds=600)
    assert (result.state, result.why, result.found) == ("over its limit", "60 seconds", "| found |")
    child = int(started.read_text())
    while alive(child):  # ended by SIGTERM, and a moment later gone; the test's own limit ends a hang
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_time_a_stage_is_skipped(tmp_path: Path) -> None:
    """With the reason; nothing of it runs."""
    results = run_stages([stage("late", WRITES)], tmp_path, seconds=0)
    why = "0 of 0 seconds are left, and it may take 60"
    assert [(one.state, one.why) for one in results] == [("skipped", why)]
    assert not list(tmp_path.iterdir())


def test_a_stage_whose_packages_are_missing_is_skipped(tmp_path: Path) -> None:
    """With their names, and at once: no server is waited for that cannot start."""
    asked = replace(stage("server", WRITES), needs=("json", "no_such_package"))
    (result,) = run_stages([asked], tmp_path, seconds=600)
    assert (result.state, result.why) == ("skipped", "not installed here: no_such_package")
    assert not list(tmp_path.iterdir())


def run_command(folder: Path, *options: str) -> Result:
    """Run the command with its page and its work under a folder."""
    arguments = ["bench-gpu", "--out", str(folder / "out"), "--work", str(folder / "work"), *options]
    return CliRunner().invoke(app, arguments)


def test_without_a_gpu_every_stage_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says so and ends well, and no page claims anything."""
    monkeypatch.setattr(bench_gpu, "missing_gpu", lambda: "no GPU here")
    done = run_command(tmp_path)
    assert done.exit_code == 0
    for one in plan.gpu_stages(tmp_path):
        assert f"{one.name}: skipped: no GPU here" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_page_after_each_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With card, date, versions and goals; a failed stage makes the exit code 1."""
    monkeypatch.setattr(bench_gpu, "missing_gpu", lambda: "")
    monkeypatch.setattr(plan, "gpu_stages", lambda *_, **__: [stage("good", WRITES), stage("bad", FAILS)])
    done = run_command(tmp_path)
    assert done.exit_code == 1
    page = (tmp_path / "out/gpu.md").read_text()
    rows = ("| good | shows good | ok |", "| bad | shows bad | failed:")
    for part in ("lorecall bench-gpu", "vllm", "Goals:", *rows, "## good"):
        assert part in page


@pytest.mark.soak
@pytest.mark.engine
@pytest.mark.timeout(5400)
def test_a_rehearsal_runs_every_stage(tmp_path: Path) -> None:
    """Each stage's commands, servers and engines are the real ones, small and on a CPU, to their end."""
    done = run_command(tmp_path, "--rehearse", "--seconds", "5400")
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "out/gpu-rehearsal.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines()]
    states = {row[0].removeprefix("| "): row[2] for row in rows if len(row) == 4 and row[3].endswith(" |")}
    for one in plan.gpu_stages(tmp_path, rehearse=True):
        assert states[one.name] == (f"skipped: {one.why_not}" if one.why_not else "ok")
        assert bool(one.why_not) is (f"## {one.name}" not in page)


def test_a_page_names_the_stages_that_did_not_run_yet() -> None:
    """A run that is cut off leaves a page that says so."""
    asked = [stage("one"), stage("two")]
    page = page_of([StageResult(asked[0], "ok", 3.2, found="| a |")], asked, "about", "goals")
    assert "| one | shows one | ok | 3 |" in page
    assert "| two | shows two | not run | |" in page


def test_the_stages_fit_into_nine_minutes() -> None:
    """Their limits together are the run's."""
    asked = plan.gpu_stages(Path("/work"))
    assert sum(one.limit for one in asked) == plan.SECONDS == 540
    assert sum(one.limit for one in plan.gpu_stages(Path("/work"), stretch=2.0)) == 1080
    assert sorted(one.name for one in asked) == sorted(run.STAGES)


def test_what_a_server_imports_is_asked_for() -> None:
    """Every package that only the server needs is named by the stages that start one."""
    for name in plan.SERVER_NEEDS:
        assert find_spec(name) is not None


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    """With the names of those that there are."""
    done = CliRunner().invoke(app, ["bench-gpu", "--only", "nothing", "--out", str(tmp_path)])
    assert "--only nothing is unknown" in str(done.exception)
    assert not list(tmp_path.iterdir())


class Engine:
    """An engine whose tokens and log-probabilities a test decides.

    Attributes:
        moves: What is added to log-probabilities in a batch.
        wrong: Whether the adapters decode other tokens than scoring certifies.
    """

    def __init__(self, moves: float = 0.0, *, wrong: bool = False) -> None:
        self.moves, self.wrong = moves, wrong

    def run(self, requests: list[checks.Request]) -> list[checks.Request]:
        """Answer each with its first token repeated."""
        shift = self.moves if len(requests) > 1 else 0.0
        answers = []
        for request in requests:
            token = request["ids"][0] + (self.wrong and request.get("adapter") is not None)
            scores = [[-0.1, 1, 0, -0.1, 0]] * (len(request["ids"]) - request.get("score_from", 0))
            count = request["max_tokens"]
            answers.append({"ids": [token] * count, "logprobs": [-0.1 + shift] * count, "scores": scores})
        return answers


ADAPTERS = [None, {"name": "a", "id": 1, "path": "/a"}]


def test_isolation_counts_tokens_bits_and_moves() -> None:
    """Of every request alone and in the batch."""
    exact, moved = (checks.isolation(Engine(by), ADAPTERS, [[n] for n in range(6)]) for by in (0.0, 0.25))  # type: ignore[arg-type]
    assert exact.endswith("| 6 | 6 | 2 | 6 | 6 | 0.0e+00 |")
    assert moved.endswith("| 6 | 6 | 2 | 6 | 0 | 2.5e-01 |")


def test_a_certified_text_that_is_not_decoded_is_counted() -> None:
    """Half of the requests go through the adapter, which decodes something else."""
    fine, broken = (
        checks.decoding(Engine(wrong=wrong), ADAPTERS, [[n] for n in range(6)])  # type: ignore[arg-type]
        for wrong in (False, True)
    )
    assert fine.splitlines()[-1].startswith("| 6 | 6 | 96 | 0 | 96 |")
    assert broken.splitlines()[-1].startswith("| 6 | 6 | 96 | 3 | 48 |")


def test_a_stream_of_two_versions_is_found() -> None:
    """One that is neither version's own: each of them would have chosen another token somewhere."""
    streams: list[swap.Stream] = [((1,), (number,)) for number in range(4)]
    first, second, both, mixed = streams
    behind: dict[swap.Stream, tuple[float, ...]] = {
        first: (0.1, 9.0),
        second: (7.0, 0.0),
        both: (0.0, 0.0),
        mixed: (3.0, 4.0),
    }
    found = swap.judge([first, first, second, both, mixed], behind, swaps=6)
    assert (found.by, found.mixed) == ((2, 1, 1), 1)
    assert found.as_markdown()[-1] == "| 5 | 6 | 2 | 1 | 1 | 1 |"


def test_an_engine_without_graphs_starts_eagerly_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason; what was asked for else stays."""
    started: list[dict[str, object]] = []

    class Picky:
        """An engine that cannot capture graphs."""

        def __init__(self, _log: Path, arguments: dict[str, object], **_: object) -> None:
            started.append(arguments)
            if not arguments.get("enforce_eager"):
                raise EngineDiedError("the engine died; its log is x, its last errors: no | graphs here")

    monkeypatch.setattr(setting, "EngineHost", Picky)
    monkeypatch.setattr(setting, "served_dtype", lambda _base: "float32")
    about = setting.Setting(tmp_path, tmp_path, setting.REHEARSAL)
    about.engine(tmp_path, "engine", max_loras=2)
    assert [one.get("cudagraph_capture_sizes") for one in started] == [[1, 2, 4], None]
    assert all(one["max_loras"] == 2 for one in started)
    about.page("found", ["| a |"])
    assert "did not start with CUDA graphs: no \\| graphs here" in (tmp_path / "found.md").read_text()
