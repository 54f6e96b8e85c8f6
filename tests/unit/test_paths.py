from pathlib import Path

from trition_repo_gen.paths import expanded


def test_a_home_folder_is_filled_in_and_nobodys_is_not() -> None:
    assert expanded("~/x") == Path.home() / "x"
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert expanded(Path("/a/~")) == Path("/a/~")
