"""Progress goes to stderr, only to a terminal."""

import pytest
from lorecall.adapters.training.train import TrainingProgress
from lorecall.server.cli.common.progress import steps_bar, training_bar, waiting


def draw() -> None:
    with training_bar() as on_step:
        on_step(TrainingProgress(step=3, steps=9, loss=1.25, over_half=17, target_tokens=40))
    with steps_bar() as on_quantise:
        on_quantise("quantising", 5, 7)
    with waiting("asking the server"):
        pass


def test_a_terminal_sees_loss_tokens_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training bar shows steps, loss and tokens over one half; the other one what is being done."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    draw()
    out, err = capsys.readouterr()
    for shown in ("3/9", "loss 1.250", "over 0.5: 17/40 tokens", "quantising", "5/7", "asking the server"):
        assert shown in err
    assert out == ""


def test_a_file_or_pipe_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Redirected stderr stays clean for error messages."""
    draw()
    assert capsys.readouterr() == ("", "")
