import dataclasses

import pytest
import typer

from trition_repo_gen.cli._flags import FlagGroup, canonical, takes
from trition_repo_gen.cli._options import BUILD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fruit:
    name: str
    count: int = 3
    rest: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Basket:
    name: str = "round"
    full: bool = False


FRUIT = FlagGroup(
    Fruit, {"name": typer.Option("--name", "-nm"), "count": typer.Option("--count"), "rest": typer.Argument()}
)
BASKET = FlagGroup(Basket, {"name": typer.Option("--basket"), "full": typer.Option("--full", "-fl")})


@pytest.mark.parametrize(
    ("line", "fruit", "basket"),
    [
        ("--name kiwi", Fruit(name="kiwi"), Basket(name="kiwi")),
        ("-nm kiwi --count 5 -fl", Fruit(name="kiwi", count=5), Basket(name="kiwi", full=True)),
        ("-nm=kiwi -- --a b_c", Fruit(name="kiwi", rest=["--a", "b_c"]), Basket(name="kiwi")),
    ],
)
def test_two_groups_share_one_command(line: str, fruit: Fruit, basket: Basket) -> None:
    taken: list[object] = []

    @takes(FRUIT, BASKET)
    def eat(first: Fruit, second: Basket) -> None:
        """Eat."""
        taken.extend((first, second))

    app = typer.Typer()
    app.command()(eat)
    with pytest.raises(SystemExit) as exit_:
        app(line.split())
    assert exit_.value.code == 0
    assert taken == [fruit, basket]


def test_every_field_of_the_build_options_is_a_flag() -> None:
    assert set(BUILD.flags) == {field.name for field in dataclasses.fields(BUILD.options)}


@pytest.mark.parametrize(
    ("given", "declared"),
    [
        ("model_name", "model-name"),
        ("triton_model_name", "model-name"),
        ("triton-model-version", "model-version"),
        ("tensor_parallelism_size", "tensor-parallel-size"),
        ("pipeline-parallelism-size", "pipeline-parallel-size"),
        ("expert_model_parallel_size", "expert-parallel-size"),
        ("tmn", "tmn"),
    ],
)
def test_canonical(given: str, declared: str) -> None:
    assert canonical(given) == declared
