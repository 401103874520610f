"""Which audits are shown of a candidate set: those of live versions, and of many adapters some."""

from lorecall.audit.jobs.last_audits import MOST_SHOWN, Finished, deployed


def done(audit: str, adapter: str, version: str, rank: int, asked: str = "s") -> Finished:
    """An audit that is done."""
    return Finished(audit, adapter, version, rank, 1000 * rank, asked)


def test_what_is_live_counts() -> None:
    """The newest audit of the live version, though another version, or nothing, was audited later; by rank."""
    audits = [
        done("1", "acme", "old", 8),
        done("2", "acme", "old", 8),
        done("3", "acme", "new", 2),
        done("4", "small", "v", 4),
        done("5", "gone", "v", 4),
        done("6", "held", "v", 4),
        done("7", "small", "v", 4, asked="other"),
    ]
    found = deployed(audits, {"acme": "old", "small": "v", "held": None})
    assert [(count, [one.id for one in shown]) for count, shown in found] == [(2, ["4", "2"]), (1, ["7"])]


def test_of_many_adapters_some_stand_for_each_rank() -> None:
    """Of 5,000 on one set twelve: of a rank the one audited last, from the least to the largest."""
    audits = [done(str(n), f"a{n}", "v", 1 + n % 40) for n in range(5000)]
    audits.append(done("again", "a0", "v", 1))
    ((count, shown),) = deployed(audits, {one.adapter: "v" for one in audits})
    ranks = [one.rank for one in shown]
    assert (count, len(ranks), ranks[0], ranks[-1]) == (5000, MOST_SHOWN, 1, 40)
    assert ranks == sorted(set(ranks))
    assert (shown[0].id, shown[-1].id) == ("again", "4999")


def test_up_to_a_dozen_all_are_shown() -> None:
    """Also several of one rank; of thirteen on two ranks one stands for each."""
    audits = [done(str(n), f"a{n:02}", "v", 2 + n % 2) for n in range(13)]
    live = {one.adapter: "v" for one in audits}
    ((_, shown),) = deployed(audits[:12], live)
    assert [one.rank for one in shown] == [2] * 6 + [3] * 6
    ((count, shown),) = deployed(audits, live)
    assert (count, [one.id for one in shown]) == (13, ["12", "11"])
