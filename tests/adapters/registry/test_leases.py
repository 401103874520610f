"""A job is done by one worker at a time, and is not lost with its worker."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.registry.leases import MAX_ATTEMPTS, JobNotFoundError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import JobState
from lorecall.adapters.registry.transitions import ConflictError

A, B = "a" * 64, "b" * 64
LEASE = timedelta(seconds=60)


class Clock:
    """A clock that the test moves."""

    now = datetime(2026, 11, 23, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time now."""
        return self.now


@pytest.fixture
def clock(registry: Registry) -> Clock:
    clock = Clock()
    registry.jobs._clock = clock
    for version in (A, B):
        registry.stage("acme", version, source="x", actor="test")
    return clock


@pytest.mark.usefixtures("clock")
def test_a_job_is_done(registry: Registry) -> None:
    """Queued, claimed, finished with a result that anybody can read."""
    queued = registry.jobs.enqueue("audit", "acme", A, {"candidates": "set-1"})
    assert queued.state is JobState.QUEUED
    claimed = registry.jobs.claim("server-1", ["audit"], LEASE)
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.worker) == (queued.id, JobState.RUNNING, "server-1")
    assert claimed.attempts == 1
    assert claimed.payload == {"candidates": "set-1"}
    assert registry.jobs.claim("server-2", ["audit"], LEASE) is None
    done = registry.jobs.finish(queued.id, "server-1", {"certified": 0})
    assert (done.state, done.result) == (JobState.DONE, {"certified": 0})
    assert done.payload == {}, "what was to be done may hold secrets"
    assert registry.jobs.get(queued.id) == done
    assert done.finished_at is not None


@pytest.mark.usefixtures("clock")
def test_open_work_is_not_asked_for_twice(registry: Registry) -> None:
    """The same work on the same version is one job while it is open, and a new one afterwards."""
    first = registry.jobs.enqueue("audit", "acme", A, {})
    assert registry.jobs.enqueue("audit", "acme", A, {"other": 1}) == first
    other = registry.jobs.enqueue("audit", "acme", B, {})
    claimed = registry.jobs.claim("w", ["audit"], LEASE)
    assert claimed is not None
    assert claimed.id == first.id, "the oldest comes first"
    registry.jobs.finish(first.id, "w", {}, failed=True)
    again = registry.jobs.enqueue("audit", "acme", A, {})
    assert again.id != first.id
    assert [job.id for job in registry.jobs.of("acme")] == [again.id, other.id, first.id]
    assert [job.id for job in registry.jobs.of("acme", B)] == [other.id]
    assert registry.jobs.get(first.id).state is JobState.FAILED


def test_job_of_a_dead_worker_is_taken_over(registry: Registry, clock: Clock) -> None:
    """When a lease runs out another worker gets the job, and the first one can no longer end it."""
    job = registry.jobs.enqueue("audit", "acme", A, {})
    registry.jobs.claim("dead", ["audit"], LEASE)
    clock.now += LEASE
    assert registry.jobs.claim("next", ["audit"], LEASE) is None, "the lease holds to its end"
    clock.now += timedelta(seconds=1)
    taken = registry.jobs.claim("next", ["audit"], LEASE)
    assert taken is not None
    assert (taken.id, taken.worker, taken.attempts) == (job.id, "next", 2)
    with pytest.raises(ConflictError, match="held by next"):
        registry.jobs.finish(job.id, "dead", {})
    with pytest.raises(ConflictError, match="held by next"):
        registry.jobs.renew(job.id, "dead", LEASE)


def test_renewed_lease_keeps_the_job(registry: Registry, clock: Clock) -> None:
    """A worker that renews is not robbed of a long job."""
    job = registry.jobs.enqueue("audit", "acme", A, {})
    registry.jobs.claim("slow", ["audit"], LEASE)
    for _ in range(5):
        clock.now += LEASE * 0.9
        registry.jobs.renew(job.id, "slow", LEASE)
        assert registry.jobs.claim("other", ["audit"], LEASE) is None


def test_job_that_kills_its_workers_ends(registry: Registry, clock: Clock) -> None:
    """After a few lost workers a job has failed, and says so, instead of killing the next one."""
    job = registry.jobs.enqueue("audit", "acme", A, {"candidates": "set-1"})
    for _ in range(MAX_ATTEMPTS):
        assert registry.jobs.claim("w", ["audit"], LEASE) is not None
        clock.now += 2 * LEASE
    assert registry.jobs.claim("w", ["audit"], LEASE) is None
    failed = registry.jobs.get(job.id)
    assert (failed.state, failed.payload) == (JobState.FAILED, {})
    assert "given up after 3 attempts" in failed.result["error"]


@pytest.mark.usefixtures("clock")
def test_workers_share_without_doubling(registry: Registry, registry_url: str) -> None:
    """Twenty jobs, four workers that claim at once on connections of their own: each job goes to exactly one."""
    names = [f"adapter-{number}" for number in range(20)]
    for name in names:
        registry.stage(name, A, source="x", actor="test")
        registry.jobs.enqueue("audit", name, A, {})

    def work(worker: int) -> list[str]:
        mine = Registry(registry_url)
        mine.jobs._clock = registry.jobs._clock
        taken = []
        while job := mine.jobs.claim(f"w{worker}", ["audit"], LEASE):
            taken.append(job.name)
        mine.close()
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [name for names in pool.map(work, range(4)) for name in names]
    assert sorted(taken) == sorted(names)


@pytest.mark.usefixtures("clock")
def test_wrong_kinds_and_unknown_jobs(registry: Registry) -> None:
    """A worker gets only the kinds it asks for; unknown jobs and versions are not found."""
    registry.jobs.enqueue("audit", "acme", A, {})
    assert registry.jobs.claim("w", ["bench"], LEASE) is None
    assert registry.jobs.claim("w", [], LEASE) is None
    with pytest.raises(JobNotFoundError):
        registry.jobs.get("no-such-job")
    with pytest.raises(AdapterNotFoundError):
        registry.jobs.enqueue("audit", "acme", "f" * 64, {})


@pytest.mark.usefixtures("clock")
def test_a_worker_takes_only_what_it_is_ready_for(registry: Registry) -> None:
    """What refers to something that only another worker has is left to that one; the others are not held up."""
    first = registry.jobs.enqueue("audit", "acme", A, {"texts": "elsewhere"})
    second = registry.jobs.enqueue("audit", "acme", B, {"texts": "here"})
    assert [job.id for job in registry.jobs.open("audit")] == [first.id, second.id]
    taken = registry.jobs.claim("w", ["audit"], LEASE, lambda payload: payload["texts"] == "here")
    assert taken is not None
    assert taken.id == second.id
    registry.jobs.finish(second.id, "w", {})
    assert registry.jobs.claim("w", ["audit"], LEASE, lambda payload: payload["texts"] == "here") is None
    assert [job.id for job in registry.jobs.open("audit")] == [first.id]
