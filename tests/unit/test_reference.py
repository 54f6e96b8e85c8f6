"""The documentation says what the code says: generated pages are current, and named files exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import make_reference

CHECKOUT = Path(make_reference.__file__).parents[1]
PACKAGE = CHECKOUT / "src/trition_repo_gen"
# Pages name files below one of these, and say which.
ROOTS = (CHECKOUT, PACKAGE, PACKAGE / "runtime", PACKAGE / "runtime/rank", PACKAGE / "runtime/rank/engines")
PAGES = ("docs/contributing", "docs/concepts", "docs/adr", "docs/guides", "README.md", "CONTRIBUTING.md", "SECURITY.md")


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


def test_pages_name_files_that_exist() -> None:
    missing = [
        f"{page.relative_to(CHECKOUT)}: {name}"
        for page in pages()
        for name in named_files(page.read_text())
        if not any((root / name).exists() for root in ROOTS)
    ]

    assert missing == []


def pages() -> Iterator[Path]:
    for name in PAGES:
        path = CHECKOUT / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.md"))


def named_files(text: str) -> Iterator[str]:
    """Yield what stands between backticks and is the path of a file or folder of this project, without placeholders."""
    is_ours = re.compile(r"\.(py|j2|in|txt|json|yml|md)$|/$|^(src|tests|rank|stub|common|scripts|bench|examples)/")
    for name in re.findall(r"`([a-z_.][\w./-]*/[\w./-]*)`", text):
        if is_ours.search(name) and "NAME" not in name and not name.startswith(("build/", "dist/", "context/")):
            yield name
