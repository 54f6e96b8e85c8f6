import logging

from trition_repo_gen.runtime.rank.engines.core.graph_progress import GraphProgress


def test_lines_come_while_graphs_are_recorded_but_not_for_each() -> None:
    lines: list[str] = []
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    try:
        with GraphProgress(lines.append):
            for index in range(1, 63):
                logging.info("  [graph %d/62] [512]: 256 P + 0 D | pool reserved=96.0 mb", index)
            logging.info("something else")
    finally:
        root.setLevel(before)
    logging.info("  [graph 1/62]")
    assert lines == ["recording CUDA graphs: 1 of 62", "recording CUDA graphs: 62 of 62"]
