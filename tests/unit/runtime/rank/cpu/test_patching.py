from types import SimpleNamespace

import pytest

from trition_repo_gen.runtime.rank.cpu import patching


def test_replace_returns_what_was_there() -> None:
    owner = SimpleNamespace(limit=3)
    assert patching.replace("torch", owner, "limit", 4) == 3
    assert owner.limit == 4


def test_a_name_that_is_gone_is_said_with_the_version_to_install() -> None:
    with pytest.raises(patching.PatchError, match=r"^megatron-core .* has no json.no_such_name; .* 0\.19, install"):
        patching.replace("megatron-core", __import__("json"), "no_such_name", None)


def test_a_module_that_is_gone_is_said() -> None:
    with pytest.raises(patching.PatchError, match=r"has no module json\.nothing"):
        patching.require_module("torch", "json.nothing")


def test_a_parameter_that_is_gone_is_said() -> None:
    def move(tensor: object, to: object) -> None: ...

    patching.require_parameters("torch", move, ["tensor"])
    with pytest.raises(patching.PatchError, match=r"has no parameter 'as_numpy' in .*move"):
        patching.require_parameters("torch", move, ["tensor", "as_numpy"])
