"""Each processor against Hugging Face's for the same parameter, on the same logits, per sequence of mixed batches."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor as HuggingFaceProcessor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.sampling import Sampler
from trition_repo_gen.runtime.rank.engines.sampling.api import LogitsProcessor, SequenceState
from trition_repo_gen.runtime.rank.engines.sampling.registry import PROCESSORS

CPU = torch.device("cpu")
VOCABULARY, PADDED = 2000, 2048  # more than top-k sorts where it sorts few
ENDS = [4, 30]
PROMPT = [3, 7, 7, 11]


def request(**parameters: Any) -> SequenceRequest:
    return SequenceRequest(prompt="", **{"top_k": 0, **parameters})


CASES = {
    "greedy": request(top_k=1),
    "greedy with a penalty": request(top_k=1, repetition_penalty=1.7),
    "greedy with a minimum": request(top_k=1, min_length=2),
    "as the model says": request(),
    "temperature": request(temperature=0.7),
    "high temperature": request(temperature=2.5),
    "top-k": request(top_k=5),
    "top-k of many": request(top_k=1500),
    "top-k beyond the vocabulary": request(top_k=5000),
    "top-p": request(top_p=0.6),
    "top-p of almost nothing": request(top_p=1e-6),
    "top-k and top-p": request(top_k=9, top_p=0.8, temperature=0.5),
    "top-k of many and top-p": request(top_k=1500, top_p=0.95, temperature=1.5),
    "repetition penalty": request(repetition_penalty=1.7),
    "repetition reward": request(repetition_penalty=0.6, top_p=0.9, temperature=2.0),
    "minimum": request(min_length=3),
    "min-p": request(min_p=0.1),
    "min-p at a high temperature": request(min_p=0.3, temperature=4.0, top_k=50),
    "min-p of one": request(min_p=1.0, temperature=3.0),
    "presence": request(presence_penalty=1.5),
    "presence reward": request(presence_penalty=-2.0, temperature=0.5),
    "frequency": request(frequency_penalty=0.9, temperature=0.5),
    "greedy with presence and frequency": request(top_k=1, presence_penalty=2.0, frequency_penalty=2.0),
    "bias": request(logit_bias={11: 3.5, 4: -100.0, 1999: 8.0}),
    "greedy with a bias": request(top_k=1, logit_bias={7: 100}),
    "ends of its own": request(stop_token_ids=[11, 12], min_length=4),
    "everything": request(
        top_k=40,
        top_p=0.9,
        min_p=0.02,
        min_length=2,
        stop_token_ids=[3],
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={8: 1.0, 30: -2.0},
        temperature=1.5,
    ),
}


class Recorder(LogitsProcessor[list[int]]):
    """Keeps what the processors before it made of the logits."""

    def __init__(self, context: Any):
        super().__init__(context)
        self.logits: dict[int, torch.Tensor] = {}

    def applies_to(self, sequence: SequenceRequest) -> bool:
        return True

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> list[int]:
        return [state.request_id for state in states]

    def apply(self, logits: torch.Tensor, parameters: list[int]) -> None:
        self.logits = dict(zip(parameters, logits.clone(), strict=True))


def sampler_of(sequences: dict[int, SequenceRequest]) -> tuple[Sampler, Recorder]:
    sampler = Sampler(VOCABULARY, ENDS, [*PROCESSORS, Recorder])
    for request_id, sequence in sequences.items():
        sampler.add(request_id, sequence, PROMPT, CPU)
    recorder = sampler._processors[-1]
    assert isinstance(recorder, Recorder)
    return sampler, recorder


class OutputPenalties(HuggingFaceProcessor):  # type: ignore[misc]
    """Presence and frequency penalties token by token, by OpenAI's formula: Hugging Face has neither."""

    def __init__(self, sequence: SequenceRequest, tokens: list[int]):
        self._sequence = sequence
        self._counts = Counter(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for token, count in self._counts.items():
            scores[0, token] -= count * torch.tensor(self._sequence.frequency_penalty)
            scores[0, token] -= torch.tensor(self._sequence.presence_penalty)
        return scores


def by_hugging_face(sequence: SequenceRequest, tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
    chain = LogitsProcessorList()
    if sequence.logit_bias:
        chain.append(
            SequenceBiasLogitsProcessor([[[token], float(bias)] for token, bias in sequence.logit_bias.items()])
        )
    if sequence.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(sequence.repetition_penalty))
    if sequence.frequency_penalty or sequence.presence_penalty:
        chain.append(OutputPenalties(sequence, tokens))
    if sequence.min_length:
        ends = [*ENDS, *sequence.stop_token_ids]
        chain.append(MinNewTokensLengthLogitsProcessor(len(PROMPT), sequence.min_length, ends, device="cpu"))
    if not sequence.greedy:
        chain.append(TemperatureLogitsWarper(sequence.temperature))
        if sequence.min_p:
            chain.append(MinPLogitsWarper(sequence.min_p))
        if sequence.top_k:
            chain.append(TopKLogitsWarper(sequence.top_k))
        if sequence.top_p:
            chain.append(TopPLogitsWarper(sequence.top_p))
    processed: torch.Tensor = chain(torch.tensor([PROMPT + tokens]), logits[None, :VOCABULARY].clone())[0]
    return processed


def steps_of_logits(steps: int, sequences: int) -> torch.Tensor:
    logits = torch.randn(steps, sequences, PADDED, generator=torch.Generator().manual_seed(3)) * 3
    logits[:, :, ENDS] += 6.0  # likely, but where they are masked
    logits[:, :, PROMPT] += 4.0
    logits[:, :, VOCABULARY:] = 100.0  # the model's padding
    return logits


def test_logits_in_a_mixed_batch_are_those_of_hugging_face() -> None:
    sequences = dict(enumerate(CASES.values()))
    sampler, recorder = sampler_of(sequences)
    answers: dict[int, list[int]] = {id_: [] for id_ in sequences}
    for logits in steps_of_logits(5, len(sequences)):
        tokens = sampler.sample(logits, list(sequences))
        for id_, (name, sequence) in enumerate(CASES.items()):
            expected = by_hugging_face(sequence, answers[id_], logits[id_])
            assert torch.equal(recorder.logits[id_], expected), name
            assert expected[int(tokens[id_])] > float("-inf"), name
            if sequence.greedy:
                assert int(tokens[id_]) == int(expected.argmax()), name
            answers[id_].append(int(tokens[id_]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_a_sequence_alone_and_in_a_mixed_batch_is_the_same_to_the_bit(name: str, dtype: torch.dtype) -> None:
    sequences = {id_: SequenceRequest(**{**vars(each), "seed": id_}) for id_, each in enumerate(CASES.values())}
    own = list(CASES).index(name)
    together, recorded_together = sampler_of(sequences)
    alone, recorded_alone = sampler_of({own: sequences[own]})
    order = list(sequences)
    for step, logits in enumerate(steps_of_logits(6, len(sequences)).to(dtype)):
        order = order[step:] + order[:step]
        tokens = together.sample(logits[order], order)
        (token,) = alone.sample(logits[own : own + 1], [own])
        assert int(token) == int(tokens[order.index(own)])
        assert torch.equal(recorded_alone.logits[own], recorded_together.logits[own])
