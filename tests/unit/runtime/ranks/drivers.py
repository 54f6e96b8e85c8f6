"""What test_sampling.py, test_text.py and others run in the ranks' environment; prints one JSON document.

Usage: python drivers.py PACKAGE_FOLDER NAME [ARGUMENT ...]
"""

import json
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any


def sampling() -> dict[str, object]:
    """Compare the sequence sampler with Hugging Face's logits processors on the same logits."""
    import torch
    from runtime.rank import cpu

    if cpu.needed():
        cpu.install()
    from runtime.common.protocol import SequenceRequest
    from runtime.rank.engines.core.sampling import CoreSampling
    from runtime.rank.engines.sampling.random import gumbel_noise
    from transformers import (
        LogitsProcessorList,
        MinNewTokensLengthLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    torch.manual_seed(0)
    vocabulary, padded = 50, 64
    ends = [4, 30]
    prompt = [3, 7, 7, 11]
    cases = [
        SequenceRequest(prompt="", top_k=0, temperature=0.7),
        SequenceRequest(prompt="", top_k=5, temperature=1.3),
        SequenceRequest(prompt="", top_k=0, top_p=0.6),
        SequenceRequest(prompt="", top_k=9, top_p=0.8, temperature=0.5),
        SequenceRequest(prompt="", top_k=0, repetition_penalty=1.7),
        SequenceRequest(prompt="", top_k=0, top_p=0.9, repetition_penalty=0.6, temperature=2.0),
        SequenceRequest(prompt="", top_k=0, min_length=1),
        SequenceRequest(prompt="", top_k=4, min_length=1, repetition_penalty=1.2, temperature=1.5),
    ]
    logits = torch.randn(len(cases), padded) * 3
    logits[:, ends] += 3.0
    logits[:, vocabulary:] = 100.0  # the model's padding must never win

    def reference(index: int, sequence: SequenceRequest) -> torch.Tensor:
        chain = LogitsProcessorList()
        if sequence.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(sequence.repetition_penalty))
        if sequence.min_length:
            chain.append(MinNewTokensLengthLogitsProcessor(len(prompt), sequence.min_length, ends, device="cpu"))
        if sequence.temperature != 1.0:
            chain.append(TemperatureLogitsWarper(sequence.temperature))
        if sequence.top_k:
            chain.append(TopKLogitsWarper(sequence.top_k))
        if sequence.top_p:
            chain.append(TopPLogitsWarper(sequence.top_p))
        return chain(torch.tensor([prompt]), logits[index : index + 1, :vocabulary].clone())[0].softmax(-1)

    def sampler_with(sequences: dict[int, SequenceRequest]) -> CoreSampling:
        sampler = CoreSampling(vocabulary, ends)
        for request_id, sequence in sequences.items():
            sampler.add(request_id, sequence, prompt, torch.device("cpu"))
        return sampler

    def step(sampler: CoreSampling, ids: list[int], values: torch.Tensor) -> list[int]:
        context = SimpleNamespace(
            paused_request_count=0,
            total_request_count=len(ids),
            request_ids=torch.tensor(ids),
            chunked_prefill_request_id=-1,
        )
        chosen = sampler.sample_kernel(values.clone(), len(ids), context, no_top_k=True, no_top_p=True)
        return [int(token) for token in chosen]

    draws = 4000
    distance, outside = [], 0
    for index, sequence in enumerate(cases):
        sequences = {seed: SequenceRequest(**{**vars(sequence), "seed": seed}) for seed in range(draws)}
        tokens = Counter(step(sampler_with(sequences), list(sequences), logits[index].expand(draws, padded)))
        wanted = reference(index, sequence)
        outside += sum(count for token, count in tokens.items() if wanted[token] == 0)
        distance.append(0.5 * sum(abs(tokens[t] / draws - float(wanted[t])) for t in range(vocabulary)))

    seeded = SequenceRequest(prompt="", top_k=0, temperature=1.5, seed=0)
    others = {request_id: SequenceRequest(prompt="", top_k=0, seed=request_id) for request_id in range(1, 32)}
    stream = torch.randn(20, padded, generator=torch.Generator().manual_seed(5))
    alone, together = sampler_with({0: seeded}), sampler_with({0: seeded} | others)
    alone_tokens = [step(alone, [0], sequence[None])[0] for sequence in stream]
    together_tokens = [
        step(together, [*others, 0], torch.cat([torch.randn(len(others), padded), sequence[None]]))[-1]
        for sequence in stream
    ]

    held_back = sampler_with({0: SequenceRequest(prompt="", min_length=3)})
    processor = MinNewTokensLengthLogitsProcessor(len(prompt), 3, ends, device="cpu")
    kept: list[int] = []
    expected: list[int] = []
    for values in logits[:6, None]:
        values[:, ends] += 20.0  # nothing but the processor keeps these from being chosen
        scores = processor(torch.tensor([prompt + expected]), values[:, :vocabulary].clone())
        expected.append(int(scores.argmax()))
        kept += step(held_back, [0], values)

    # One in 16 million numbers is the largest of them, which must not count as infinitely likely.
    noise_is_finite = all(
        bool(gumbel_noise(torch.arange(begin, begin + 50)[:, None], 131_072).isfinite().all())
        for begin in range(0, 400, 50)
    )

    greedy = SequenceRequest(prompt="", repetition_penalty=50.0)
    penalised = sampler_with({0: greedy})
    flat = torch.linspace(1.0, 2.0, padded)[None]
    return {
        "outside": outside,
        "noise_is_finite": noise_is_finite,
        "distance": distance,
        "alone": alone_tokens,
        "together": together_tokens,
        "distinct": len(set(alone_tokens)),
        "held_back": [kept, expected, [token in ends for token in expected]],
        "greedy": step(sampler_with({0: SequenceRequest(prompt="")}), [0], flat),
        "penalised": [step(penalised, [0], flat)[0] for _ in range(3)],
    }


def recorded_steps() -> dict[str, object]:
    """Find the CUDA graphs of steps before and after those are added that Megatron Core does not record."""
    from runtime.rank import cpu

    if cpu.needed():
        cpu.install()
    from megatron.core.inference.batch_dimensions_utils import CUDAGraphBatchDimensionBuilder, InferenceBatchDimensions
    from runtime.rank.engines.core import upstream

    limits = {"max_requests": 256, "max_tokens": 16384}
    steps = {
        "one sequence decodes": InferenceBatchDimensions(1, 0, 1),
        "three sequences decode": InferenceBatchDimensions(3, 0, 3),
        "a few prompts": InferenceBatchDimensions(300, 10, 20),
        "prompts beside many sequences": InferenceBatchDimensions(890, 22, 230),
        "one long prompt": InferenceBatchDimensions(1700, 1, 255),
        "more than is recorded": InferenceBatchDimensions(2049, 30, 0),
    }

    def tokens_of_graphs(*, with_prompts: bool, add: bool) -> dict[str, int | None]:
        recorded, _ = CUDAGraphBatchDimensionBuilder.generate_cuda_graph_batch_dimensions_list(
            tp_size=2,
            num_cuda_graphs=16,
            cuda_graph_max_tokens=512,
            cuda_graph_mixed_prefill_request_count=16,
            max_sequence_length=4096,
            use_cuda_graphs_for_non_decode_steps=with_prompts,
            **limits,
        )
        context = SimpleNamespace(
            cuda_graph_batch_dimensions_list=recorded,
            use_cuda_graphs_for_non_decode_steps=with_prompts,
            max_sequence_length=4096,
            **limits,
        )
        if add:
            upstream.record_few_sequences(context, 2)
            upstream.record_long_steps(context, 2)
        assert all(graph.is_valid(256, 4096, 0) for graph in recorded)
        assert len(set(recorded)) == len(recorded)
        found = {
            name: CUDAGraphBatchDimensionBuilder.match_graph_config(step, recorded) for name, step in steps.items()
        }
        return {name: None if graph is None else graph.token_count for name, graph in found.items()}

    def long_steps(sequences: int, max_sequence_length: int, ranks: int) -> list[int]:
        context = SimpleNamespace(
            cuda_graph_batch_dimensions_list=[InferenceBatchDimensions(1, 0, 1)],
            use_cuda_graphs_for_non_decode_steps=True,
            max_requests=sequences,
            max_tokens=16384,
            max_sequence_length=max_sequence_length,
        )
        upstream.record_long_steps(context, ranks)
        return [graph.token_count for graph in context.cuda_graph_batch_dimensions_list[:-1]]

    return {
        "long": [
            long_steps(*case) for case in ((256, 4096, 1), (4, 256, 1), (1, 1600, 1), (1600, 4096, 1), (256, 4096, 3))
        ],
        "before": tokens_of_graphs(with_prompts=True, add=False),
        "after": tokens_of_graphs(with_prompts=True, add=True),
        "decoding alone": tokens_of_graphs(with_prompts=False, add=True),
    }


def joining() -> dict[str, object]:
    """Let sequences into two contexts, one by one and together; compare all that the contexts say of them."""
    from runtime.rank import cpu

    if cpu.needed():
        cpu.install()
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.inference.config import InferenceConfig
    from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
    from megatron.core.inference.inference_request import DynamicInferenceRequest
    from megatron.core.inference.sampling_params import SamplingParams
    from megatron.core.transformer.transformer_config import TransformerConfig
    from runtime.rank.engines.core.joining import let_in

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    config = TransformerConfig(num_layers=1, hidden_size=16, num_attention_heads=2, params_dtype=torch.float32)
    inference = InferenceConfig(
        max_sequence_length=512, max_requests=16, max_tokens=1024, block_size_tokens=64, buffer_size_gb=0.01
    )
    lengths = ((64, 1, 130), (65, 64, 63, 200))
    ids = iter(range(10, 30))
    groups = [
        [
            DynamicInferenceRequest(
                request_id=next(ids),
                prompt_tokens=torch.randint(0, 100, (length,)),
                sampling_params=SamplingParams(num_tokens_to_generate=5 + length, termination_id=length, top_k=1),
                block_size_tokens=64,
            )
            for length in group
        ]
        for group in lengths
    ]

    def of_rows_and_tokens(together: bool) -> dict[str, Any]:
        context = DynamicInferenceContext(config, inference)
        available = context.kv_block_allocator.total_avail
        for group in groups:
            if together:
                let_in(context, group)
            else:
                for request in group:
                    context.add_request(request)
        sequences, tokens = context.total_request_count, context.active_token_count
        told: dict[str, Any] = {name: value for name, value in vars(context).items() if isinstance(value, int)}
        told |= {
            name: value[: tokens if name.startswith("token_to") else sequences].tolist()
            for name, value in (vars(context) | context.request_metadata).items()
            if isinstance(value, torch.Tensor) and (name.startswith(("request_", "token_to_")) or name in metadata)
        }
        told["available"] = available - context.kv_block_allocator.total_avail
        return told

    metadata = [name for name, _ in DynamicInferenceRequest.get_metadata_types()]
    one_by_one, together = of_rows_and_tokens(False), of_rows_and_tokens(True)
    places = {"request_to_kv_block_ids", "request_last_kv_block_id", "token_to_block_idx"}
    blocks = [[block for block in sequence if block != -1] for sequence in together["request_to_kv_block_ids"]]
    in_row = zip(together["token_to_request_idx"], together["token_to_pos_ids"], strict=True)
    return {
        "compared": sorted(one_by_one.keys() - places),
        "different": [name for name in one_by_one if name not in places and one_by_one[name] != together[name]],
        "blocks": [len(sequence) for sequence in blocks],
        "distinct": len({block for sequence in blocks for block in sequence}),
        "as_many": [len([b for b in sequence if b != -1]) for sequence in one_by_one["request_to_kv_block_ids"]],
        "taken": together["available"],
        "last": together["request_last_kv_block_id"] == [sequence[-1] for sequence in blocks],
        "of_tokens": together["token_to_block_idx"]
        == [blocks[sequence][position // 64] for sequence, position in in_row],
    }


def text(folder: str) -> dict[str, object]:
    """Encode, decode and stream with a tokenizer."""
    from runtime.common.protocol import SequenceRequest
    from runtime.rank.engines.text import PromptError, TextCodec
    from transformers import AutoTokenizer

    codec = TextCodec(AutoTokenizer.from_pretrained(folder))
    sample = "naïve 猫 👩‍🚀 é"
    tokens = codec.encode(SequenceRequest(prompt=sample)).tokens
    stream = codec.stream()
    pieces = [stream.push(token) for token in tokens]

    def refusal(prompt: str) -> str | None:
        try:
            codec.encode(SequenceRequest(prompt=prompt, chat=True))
        except PromptError as error:
            return str(error)
        return None

    return {
        "decoded": codec.decode(tokens),
        "streamed": "".join(pieces),
        "cut": sum("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces),
        "spelt": len({codec.spell(token) for token in range(256)}),
        "chat": codec.encode(SequenceRequest(prompt=json.dumps([{"role": "user", "content": "Hi"}]), chat=True)).text,
        "refusals": [refusal(prompt) for prompt in ("Hi", "[]", '["Hi"]', '{"role": "user"}')],
        "max_token_bytes": codec.max_token_bytes(),
    }


def byte_fallback() -> dict[str, object]:
    """Stream bytes that are no text, with a tokenizer that spells what it does not know in bytes, as Llama 2's does."""
    from runtime.common.protocol import Deltas, Done, SequenceRequest
    from runtime.rank.engines.api import Finished, StepResult
    from runtime.rank.engines.text import Prompt, TextCodec
    from runtime.rank.loop.broadcast import NewSequence
    from runtime.rank.loop.replies import Replies
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁hello": 256, "▁world": 257, "a": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    replies = Replies(TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer)), eos_ids=[])
    replies.add(NewSequence(1, 0, SequenceRequest(prompt="", stream=True), Prompt("", [1])))
    tokens = [256, 0x0A, 0xF0, 257, *"🙂".encode(), 258]
    told = ""
    for end, token in enumerate(tokens, 1):
        finished = {1: Finished(tokens=tokens, out_of_tokens=True)} if end == len(tokens) else {}
        messages = replies.after_step(StepResult(finished, {1: [token]}))
        told += "".join(text for message in messages if isinstance(message, Deltas) for _, text in message.sequences)
    (done,) = (message for message in messages if isinstance(message, Done))
    return {"streamed": told + done.rest, "text": done.answer.text}


def stop_words(folder: str) -> dict[str, object]:
    """Stream answers of few letters; compare with a search of the whole text after every token."""
    import random

    from runtime.common.protocol import Deltas, Done, SequenceRequest
    from runtime.rank.engines.api import Finished, StepResult
    from runtime.rank.engines.text import Prompt, TextCodec
    from runtime.rank.loop.broadcast import NewSequence
    from runtime.rank.loop.replies import Replies
    from transformers import AutoTokenizer

    codec = TextCodec(AutoTokenizer.from_pretrained(folder))
    choose = random.Random(0)
    wrong, stopped = [], 0
    for sequence_id in range(2000):
        words = ["".join(choose.choices("ab", k=choose.randint(1, 5))) for _ in range(choose.randint(1, 3))]
        tokens = codec.encode(SequenceRequest(prompt="".join(choose.choices("abc", k=12)))).tokens
        replies = Replies(codec, eos_ids=[])
        replies.add(
            NewSequence(sequence_id, 0, SequenceRequest(prompt="", stream=True, stop_words=words), Prompt("", [1]))
        )
        told = ""
        for end, token in enumerate(tokens, 1):
            finished = {sequence_id: Finished(tokens=tokens[:end], out_of_tokens=True)} if end == len(tokens) else {}
            messages = replies.after_step(StepResult(finished, {sequence_id: [token]}))
            told += "".join(
                text for message in messages if isinstance(message, Deltas) for _, text in message.sequences
            )
        (done,) = (message for message in messages if isinstance(message, Done))
        text = codec.decode(tokens)
        ends = [at for end in range(1, len(tokens) + 1) for at in [first(codec.decode(tokens[:end]), words)] if at >= 0]
        stopped += bool(ends)
        expected = text[: ends[0]] if ends else text
        if (done.answer.text, told + done.rest, done.answer.finish_reason) != (
            *(expected, expected),
            "stop" if ends else "length",
        ):
            wrong.append([words, text, told, done.rest])
    return {"wrong": wrong, "stopped": stopped}


def first(text: str, words: list[str]) -> int:
    """Return where the first of `words` begins in `text`, -1 if there is none."""
    return min((at for word in words if (at := text.find(word)) >= 0), default=-1)


def refusals() -> dict[str, object]:
    """Ask which sequences could never run."""
    from runtime.common.protocol import SequenceRequest
    from runtime.rank.engines.api import why_impossible

    cases = {
        "fits": ([1, 2, 99], SequenceRequest(prompt="", max_length=5)),
        "unknown token": ([1, 100], SequenceRequest(prompt="", max_length=5)),
        "long prompt": ([1] * 50, SequenceRequest(prompt="", max_length=5)),
        "long answer": ([1], SequenceRequest(prompt="", max_length=51)),
        "no room": ([1] * 30, SequenceRequest(prompt="", max_length=11)),
    }
    return {
        name: why_impossible(tokens, sequence, max_sequence_length=50, vocab_size=100, room=40)
        for name, (tokens, sequence) in cases.items()
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(globals()[sys.argv[2]](*sys.argv[3:])))
