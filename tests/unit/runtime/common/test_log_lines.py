import pytest

from trition_repo_gen.runtime.common import log_lines


def test_what_is_written_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.write("llama", "rank 0: loading [40 %]")
    line = capsys.readouterr().err.removesuffix("\n")
    assert line.startswith(log_lines.MARK)
    assert log_lines.parse(line) == ("llama", "rank 0: loading [40 %]")


@pytest.mark.parametrize("line", ['I1122 13:15:36 server.cc:631] "[trgen llama] x"', "[trgen llama]", "error: x"])
def test_a_line_of_another_program(line: str) -> None:
    assert log_lines.parse(line) is None
