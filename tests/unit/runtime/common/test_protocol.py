import pytest

from trition_repo_gen.runtime.common.protocol import Answer, Done, Generate, Hello, SequenceRequest, decode, encode


@pytest.mark.parametrize(
    "message",
    [
        Hello(rank=3, pid=4711, attempt=1, local=True, local_rank=1),
        Generate(7, SequenceRequest(prompt="Hi", stop_words=["\n"], seed=2**63 - 1)),
        Done(
            7,
            Answer(text="ü🙂", finish_reason="stop", prompt_tokens=2, completion_tokens=1, top_logprobs=[{"a": -0.5}]),
        ),
        [SequenceRequest(prompt="a"), None, 3, "text"],
    ],
)
def test_messages_round_trip(message: object) -> None:
    assert decode(encode(message)) == message


def test_half_a_character_does_not_stop_a_message() -> None:
    assert decode(encode(SequenceRequest(prompt="a", stop_words=["\ud800"]))).stop_words == ["?"]


def test_a_sequence_is_greedy_with_top_k_1_or_temperature_0() -> None:
    assert SequenceRequest(prompt="a").greedy
    assert SequenceRequest(prompt="a", top_k=0, temperature=0.0).greedy
    assert not SequenceRequest(prompt="a", top_k=0).greedy
