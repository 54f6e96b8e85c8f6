"""The dashboard asks for series that the runtime has."""

import ast
import json
import re
from pathlib import Path

import yaml

import trition_repo_gen


def names() -> set[str]:
    """Read the metrics' names from the source: the module needs Triton's own."""
    source = Path(trition_repo_gen.__file__).parent / "runtime/stub/metrics.py"
    tables = {
        node.targets[0].id: [ast.literal_eval(key) for key in node.value.keys if key is not None]
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    histograms = {f"{name}_{series}" for name in tables["HISTOGRAMS"] for series in ("bucket", "sum", "count")}
    return {*tables["GAUGES"], *tables["COUNTERS"], *histograms}


def test_the_dashboard_uses_what_there_is(checkout: Path) -> None:
    dashboard = json.loads((checkout / "examples/monitoring/grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for expression in expressions for name in re.findall(r"trgen:(\w+)", expression)}
    assert used <= names()
    assert {name.removesuffix("_bucket") for name in used} == {
        re.sub("_(bucket|sum|count)$", "", name) for name in names()
    }


def test_the_scrape_example_is_yaml(checkout: Path) -> None:
    (job,) = yaml.safe_load((checkout / "examples/monitoring/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8002"]}]
