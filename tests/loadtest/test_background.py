"""What goes on beside the traffic counts only while the traffic is under way."""

from lorecall.loadtest.background import BackgroundRequest, command, summarise


def test_only_what_began_during_the_traffic_counts() -> None:
    """Requests before its start and after its end are left out; failures are counted, not timed."""
    done = [
        BackgroundRequest("swap", 9.0, 5.0, "", 0),
        BackgroundRequest("swap", 10.5, 0.1, "", 0),
        BackgroundRequest("swap", 11.0, 0.3, "", 0),
        BackgroundRequest("swap", 12.0, 9.0, "HTTP 400", 0),
        BackgroundRequest("swap", 15.1, 5.0, "", 0),
    ]
    values = summarise(done, 10.0, 5.0)
    assert values == {"swap_failed": 1, "swap_per_s": 0.4, "swap_p50_ms": 200}


def test_an_audit_is_measured_in_texts() -> None:
    """Scored texts per second, whatever the size of a call; a failed call scored none."""
    done = [
        BackgroundRequest("audit", 1.0, 0.5, "", 8),
        BackgroundRequest("audit", 2.0, 0.5, "", 8),
        BackgroundRequest("audit", 3.0, 0.1, "HTTP 500", 0),
    ]
    assert summarise(done, 0.0, 4.0) == {"audit_failed": 1, "audit_p50_ms": 500, "audit_texts_per_s": 4}


def test_locust_gets_so_many_of_each_user() -> None:
    """The command runs our file, without a page of its own, with the users that the scenario asks for."""
    line = command({"ChurnUser": 1, "FloodUser": 8}, "http://host:1")
    assert line[line.index("--users") + 1] == "9"
    assert line[-2:] == ["ChurnUser", "FloodUser"]
    assert line[line.index("--host") + 1] == "http://host:1"
