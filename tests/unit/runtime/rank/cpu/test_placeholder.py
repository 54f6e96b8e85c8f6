import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trition_repo_gen.runtime.rank.cpu import placeholder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable folder; what was imported from it, and the hooks, are gone afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_one_module_sees_the_placeholder_and_nothing_after_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "needs_engine.py").write_text(
        "import transformer_engine.pytorch as te\n"
        "def layer(x: te.Linear) -> te.LayerNormLinear: ...\n"
        "is_one = isinstance(3, te.Linear)\n"
        "make = te.Linear\n"
    )
    (package / "asks.py").write_text(
        "try:\n    import transformer_engine\n    have = True\nexcept ImportError:\n    have = False\n"
    )
    monkeypatch.setattr(placeholder, "LORA_LAYERS", "needs_engine")
    monkeypatch.setattr(placeholder, "_BEFORE", ())
    placeholder.install()
    needs = importlib.import_module("needs_engine")
    assert not needs.is_one
    with pytest.raises(RuntimeError, match="does not run on a CPU"):
        needs.make(3)
    assert not importlib.import_module("asks").have
    assert importlib.util.find_spec("transformer_engine") is None


def test_the_block_is_back_when_the_module_fails(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "breaks.py").write_text("import transformer_engine.pytorch\nraise ValueError('broken')\n")
    monkeypatch.setattr(placeholder, "LORA_LAYERS", "breaks")
    monkeypatch.setattr(placeholder, "_BEFORE", ())
    placeholder.install()
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("breaks")
    assert importlib.util.find_spec("transformer_engine") is None
    assert "transformer_engine.pytorch" not in sys.modules


def test_an_imported_engine_is_refused(package: Path) -> None:
    (package / "transformer_engine.py").write_text("")
    importlib.import_module("transformer_engine")
    with pytest.raises(RuntimeError, match="imported already"):
        placeholder.hide_transformer_engine()


def test_a_hook_runs_after_the_body_and_keeps_the_module(package: Path) -> None:
    (package / "plain.py").write_text("value = 1\n")

    def around(execute, module):  # type: ignore[no-untyped-def]
        execute()
        module.value += 1

    sys.meta_path.insert(0, placeholder.Hook("plain", around))
    plain = importlib.import_module("plain")
    assert plain.value == 2
    assert plain.__file__ == str(package / "plain.py")
