"""The generated pages of the documentation say what the code says."""

from pathlib import Path

import pytest

from scripts import make_reference


def test_generated_pages_are_current() -> None:
    written = {path.name: path.read_text() for path in make_reference.FOLDER.glob("*.md")}

    assert written == make_reference.pages(), "run `make reference`"


def test_stale_pages_are_named_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_reference, "FOLDER", tmp_path)

    assert make_reference.main(["--check"]) == 1
    assert "docs/reference/cli.md differs from the code; run make reference." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert make_reference.main([]) == 0
    assert make_reference.main(["--check"]) == 0
