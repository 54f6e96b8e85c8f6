"""The wire: every tensor between a client and a model, described once.

Requests, clients, REST, `trgen query`, the TensorRT-LLM-shaped alias, config.pbtxt and the reference documentation read
this table; whatever names a tensor reads it. Each tensor has the batch dimension first: a client sends shape (N, 1).
Standard library only.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .tensors import (
    MAX_TOP_LOGPROBS,
    Alias,
    BadRequestError,
    Datatype,
    Images,
    Input,
    Integer,
    Json,
    Number,
    Output,
    Seed,
    StopWords,
    Switch,
    Text,
    TokenBias,
    TokenIds,
    Tokens,
)
from .token_spelling import bytes_of_spelling, spell_bytes

__all__ = [
    "BUSY_MARK",
    "BY_NAME",
    "CONTEXT_LENGTH",
    "IMAGES",
    "INPUTS",
    "OUTPUTS",
    "PRIORITY_PARAMETER",
    "PROMPTS",
    "STREAM_SUFFIX",
    "TRTLLM_INPUTS",
    "TRTLLM_ONLY",
    "TRTLLM_OUTPUTS",
    "TRTLLM_SUFFIX",
    "Alias",
    "BadRequestError",
    "Datatype",
    "Input",
    "Integer",
    "Json",
    "Number",
    "Output",
    "Tokens",
    "bytes_of_spelling",
    "config_type",
    "context_length",
    "default",
    "inputs",
    "names",
    "rename_inputs",
    "spell_bytes",
]

STREAM_SUFFIX = "_stream"
"""What the name of a model's streaming model adds to the model's."""
TRTLLM_SUFFIX = "_trtllm"
"""What the name of a model's TensorRT-LLM-shaped alias adds to the model's."""
PRIORITY_PARAMETER = "queue_priority"
"""A request parameter, not a tensor: Triton keeps its own `priority` from Python models."""
BUSY_MARK = "[busy]"
"""Ends the refusal of a request that found the queue full, for programs: the model is alive."""

PROMPTS = Text(
    name="prompts",
    field="prompt",
    help="The prompt; with apply_chat_template a JSON list of messages.",
    rest="prompt",
    translated=True,
    trtllm=Alias(name="text_input", datatype="BYTES"),
)
IMAGES = Images(
    name="images",
    help="Images of the prompt: base64, a data: URI, an allowed URL, or a JSON list of these.",
    multimodal_only=True,
)

INPUTS: tuple[Input, ...] = (
    PROMPTS,
    Integer(
        name="max_length",
        help="Most new tokens; 0 only for a prompt's log-probabilities, with echo and compute_logprob.",
        default=256,
        multimodal_default=50,
        rest="max_tokens",
        translated=True,
        trtllm=Alias(name="max_tokens", datatype="INT32"),
    ),
    Integer(name="max_batch_size", help="No effect: the engine forms its batch anew at every step.", ignored=True),
    Integer(
        name="min_length",
        help="New tokens before the answer may end by itself or at a stop word; at most max_length.",
        default=0,
        rest="min_tokens",
        translated=True,
        trtllm=Alias(name="min_tokens", datatype="INT32"),
    ),
    Integer(
        name="top_k",
        help="Sample from the k most likely tokens; 1 is greedy, 0 is no limit.",
        default=1,
        rest="top_k",
        translated=True,
        trtllm=Alias(name="top_k", datatype="INT32"),
    ),
    Number(
        name="top_p",
        help="Sample from the most likely tokens that have this probability together; 0 is no limit.",
        default=0.0,
        least=0.0,
        most=1.0,
        rest="top_p",
        translated=True,
        trtllm=Alias(name="top_p", datatype="FP32"),
    ),
    Number(
        name="temperature",
        help="Divides the logits; 0 is greedy, and so is less than 0.00001.",
        default=1.0,
        least=0.0,
        rest="temperature",
        translated=True,
        trtllm=Alias(name="temperature", datatype="FP32"),
    ),
    Seed(
        name="random_seed",
        field="seed",
        help="The same seed gives the same answer. Random unless given.",
        rest="seed",
        translated=True,
        trtllm=Alias(name="seed", datatype="UINT64"),
    ),
    Number(
        name="min_p",
        help="Sample only from tokens at least this fraction as likely as the most likely one; 0 is no limit.",
        default=0.0,
        least=0.0,
        most=1.0,
        rest="min_p",
    ),
    Number(
        name="repetition_penalty",
        help="Divides positive and multiplies negative logits of tokens that prompt or answer contain; 1 is none.",
        default=1.0,
        above=0.0,
        rest="repetition_penalty",
        trtllm=Alias(name="repetition_penalty", datatype="FP32"),
    ),
    Number(
        name="presence_penalty",
        help="Subtracted once from the logits of tokens that the answer contains; 0 is none.",
        default=0.0,
        least=-2.0,
        most=2.0,
        rest="presence_penalty",
        trtllm=Alias(name="presence_penalty", datatype="FP32"),
    ),
    Number(
        name="frequency_penalty",
        help="Subtracted from a token's logit for each time that the answer contains it; 0 is none.",
        default=0.0,
        least=-2.0,
        most=2.0,
        rest="frequency_penalty",
        trtllm=Alias(name="frequency_penalty", datatype="FP32"),
    ),
    TokenBias(
        name="logit_bias",
        help="Added to the logits: a JSON object from token id to number; -100 all but bans a token.",
        most=100.0,
        rest="logit_bias",
    ),
    TokenIds(
        name="stop_token_ids",
        help="Token ids that end the answer, as the model's own end does; a JSON list.",
        rest="stop_token_ids",
    ),
    StopWords(
        name="stop_words",
        help="Texts that end the answer and are no part of it; a special token's text stands for the token.",
        rest="stop",
        translated=True,
    ),
    Switch(
        name="ignore_eos",
        help="Go on after tokens that end an answer, up to max_length or a stop word.",
        rest="ignore_eos",
        translated=True,
    ),
    Switch(name="use_greedy", help="Take the most likely token, whatever the other parameters say."),
    Switch(
        name="compute_logprob",
        field="log_probs",
        help="Return log-probabilities.",
        rest="logprobs",
        translated=True,
        trtllm=Alias(name="return_log_probs", datatype="BOOL"),
    ),
    Integer(
        name="n_top_logprobs",
        field="top_logprobs",
        help="Return that many most likely tokens at each position.",
        default=0,
        most=MAX_TOP_LOGPROBS,
        rest="top_logprobs",
        translated=True,
    ),
    Switch(
        name="apply_chat_template",
        field="chat",
        help="The prompt is a JSON list of chat messages.",
        rest="messages",
        translated=True,
    ),
    Switch(name="echo", help="Begin the answer with the prompt.", rest="echo", translated=True),
    IMAGES,
)
"""In the order in which config.pbtxt lists them."""

BY_NAME = {tensor.name: tensor for tensor in INPUTS}


OUTPUTS = (
    Output(name="sentences", datatype="BYTES", help="The answer; with echo after the prompt."),
    Output(
        name="log_probs",
        datatype="FP32",
        dims=-1,
        help="Natural logarithms of the tokens' probabilities; with compute_logprob.",
    ),
    Output(
        name="top_logprobs",
        datatype="BYTES",
        help="JSON: for each token an object from token to logarithm; with n_top_logprobs.",
    ),
    Output(name="log_probs_lengths", datatype="INT64", help="Entries of log_probs that are no padding."),
    Output(name="finish_reason", datatype="BYTES", help="`stop` or `length`."),
    Output(name="prompt_tokens", datatype="INT64", help="Tokens of the prompt."),
    Output(name="completion_tokens", datatype="INT64", help="New tokens."),
    Output(
        name="tokens",
        datatype="BYTES",
        help="JSON list: each token's text, or `bytes:\\xe7\\x8c` where it is no text by itself; with compute_logprob.",
    ),
)

TRTLLM_ONLY = {
    Alias(name="beam_width", datatype="INT32"): 1,
}
"""Inputs of the alias that may have no other value."""
TRTLLM_INPUTS: tuple[tuple[Alias, int], ...] = (
    *((tensor.trtllm, 1) for tensor in INPUTS if tensor.trtllm is not None),
    *((alias, 1) for alias in TRTLLM_ONLY),
    (Alias(name="stop_words", datatype="BYTES"), -1),
    (Alias(name="stream", datatype="BOOL"), 1),
    (Alias(name="exclude_input_in_output", datatype="BOOL"), 1),
    (Alias(name="return_num_input_tokens", datatype="BOOL"), 1),
    (Alias(name="return_num_output_tokens", datatype="BOOL"), 1),
)
"""The alias' inputs and their dims. The last two are accepted: token counts come in any case."""

TRTLLM_OUTPUTS = (
    Output(name="text_output", datatype="BYTES", help="New text."),
    Output(name="num_input_tokens", datatype="INT32", help="Tokens of the prompt."),
    Output(name="num_output_tokens", datatype="INT32", help="New tokens."),
    Output(
        name="output_log_probs",
        datatype="FP32",
        dims=-1,
        help="Log-probabilities of the tokens; with return_log_probs.",
    ),
    Output(name="cum_log_probs", datatype="FP32", help="Their sum."),
)


CONTEXT_LENGTH = "maximum context length is"
"""In every refusal of a sequence that is too long: clients look for these words and the number behind them."""


def context_length(tokens: int) -> str:
    """Return the words in which a refusal tells how long a sequence may be."""
    return f"{CONTEXT_LENGTH} {tokens} tokens"


def rename_inputs(sentence: str, names: Mapping[str, str]) -> tuple[str, str | None]:
    """Return a refusal with other names of the tensors, and the new name of the one to blame, if it is about one.

    Args:
        sentence: names a tensor as `name` where that is no English word, else as its first word.
        names: other names by the tensors' own.
    """
    found = [names[match[0]] for match in _INPUT_NAMES.finditer(sentence) if match[0] in names]
    renamed = _INPUT_NAMES.sub(lambda match: names.get(match[0], match[0]), sentence)
    blamed = found[0] if found else names.get(PROMPTS.name) if sentence.lower().startswith(_ABOUT_PROMPTS) else None
    return renamed, blamed


_INPUT_NAMES = re.compile(
    "|".join(rf"(?<!')\b{tensor.name}\b" if "_" in tensor.name else rf"^{tensor.name}\b" for tensor in INPUTS)
)
"""What stands in quotes is the client's."""
_ABOUT_PROMPTS = ("the prompt ", "prompt and answer ", "a message")


def inputs(*, multimodal: bool) -> tuple[Input, ...]:
    """Return the inputs of a language model, or of a multimodal one."""
    return tuple(tensor for tensor in INPUTS if multimodal or not tensor.multimodal_only)


def config_type(datatype: Datatype) -> str:
    """Return a datatype as config.pbtxt writes it."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def default(name: str) -> Any:
    """Return the default of a language model's input."""
    return BY_NAME[name].default


def names(tensors: Iterable[Input | Output]) -> frozenset[str]:
    """Return the tensors' names."""
    return frozenset(tensor.name for tensor in tensors)
