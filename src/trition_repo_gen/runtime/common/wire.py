"""The wire: every tensor between a client and a model, described once.

Requests, clients, REST, `trgen query`, the TensorRT-LLM-shaped alias, config.pbtxt and the reference documentation read
this table; whatever names a tensor reads it. Each tensor has the batch dimension first: a client sends shape (N, 1).
Standard library only.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Datatype = Literal["BYTES", "INT64", "INT32", "UINT64", "FP32", "BOOL"]
"""Triton's name of an element's type; config.pbtxt writes TYPE_STRING for BYTES."""

MAX_INT = 2**31 - 1
MAX_STOP_WORDS = 64
"""Each is searched for after every token of its sequence."""
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 256
MAX_TOKEN_IDS = 1024
"""Token ids in one `logit_bias` or `stop_token_ids`."""
STREAM_SUFFIX = "_stream"
"""What the name of a model's streaming model adds to the model's."""
TRTLLM_SUFFIX = "_trtllm"
"""What the name of a model's TensorRT-LLM-shaped alias adds to the model's."""
PRIORITY_PARAMETER = "queue_priority"
"""A request parameter, not a tensor: Triton keeps its own `priority` from Python models."""
BUSY_MARK = "[busy]"
"""Ends the refusal of a request that found the queue full, for programs: the model is alive."""


class BadRequestError(ValueError):
    """The client's mistake; the text is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A parameter's name and datatype in the tensors of a TensorRT-LLM model."""

    name: str
    datatype: Datatype


@dataclass(frozen=True, kw_only=True)
class Input(ABC):
    """An input tensor.

    `default` holds for language models, `multimodal_default`, where given, for multimodal ones.
    """

    datatype: ClassVar[Datatype]

    name: str
    help: str
    """What it does, as a sentence for the reference and for `trgen query --help`."""
    default: Any = None
    multimodal_default: Any = None
    field: str = ""
    """The attribute of `SequenceRequest`, where it is not the name."""
    rest: str = ""
    """The field of a REST request; empty where REST has none."""
    translated: bool = False
    """Whether REST means something else by its field than the tensor does; `rest/sequences.py` translates it then."""
    trtllm: Alias | None = None
    multimodal_only: bool = False
    ignored: bool = False
    """Whether it is accepted for older clients only."""
    dims: int = 1
    """Elements of one sequence; -1 is any number: Triton's `generate` sends one for each of a JSON list's."""

    @abstractmethod
    def read(self, value: Any) -> Any:
        """Return an element of the tensor as Python's value, checked.

        Raises:
            BadRequestError: the value is out of bounds or malformed.
        """

    def read_elements(self, values: Sequence[Any]) -> Any:
        """Return a sequence's elements, of which there are `dims`, as Python's value, checked.

        Raises:
            BadRequestError: as `read`.
        """
        return self.read(values[0])

    @property
    def attribute(self) -> str:
        """The attribute of `SequenceRequest` that the tensor sets."""
        return self.field or self.name

    def default_for(self, *, multimodal: bool) -> Any:
        """Return the value of a request that does not send the tensor."""
        return self.multimodal_default if multimodal and self.multimodal_default is not None else self.default

    def pack(self, value: Any) -> Any:
        """Return a Python value as the tensor's element.

        Raises:
            BadRequestError: it is of a type that the tensor cannot hold without changing it.
        """
        return value

    @property
    def bounds(self) -> str:
        """What a value has to be, in words; empty where any is valid."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Integer(Input):
    """A whole number within bounds."""

    datatype: ClassVar[Datatype] = "INT64"

    least: int = 0
    most: int = MAX_INT

    def read(self, value: Any) -> int:
        number = int(value)
        if not self.least <= number <= self.most:
            raise BadRequestError(f"{self.name} is {number}; it has to be {self.bounds}.")
        return number

    def pack(self, value: Any) -> Any:
        if isinstance(value, bool) or not hasattr(value, "__index__") or not -(2**63) < int(value) < 2**63:
            raise BadRequestError(f"{self.name} is {value!r}; it has to be a whole number of 64 bits.")
        return value

    @property
    def bounds(self) -> str:
        return f"{self.least} or more, and at most {self.most}"


@dataclass(frozen=True, kw_only=True)
class Seed(Integer):
    """A whole number of 64 bits; its sign does not count."""

    def read(self, value: Any) -> int:
        return int(value) & (2**63 - 1)

    @property
    def bounds(self) -> str:
        return "64 bits"


@dataclass(frozen=True, kw_only=True)
class Number(Input):
    """A finite number within bounds; `above` is a bound that the value must not touch."""

    datatype: ClassVar[Datatype] = "FP32"

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def read(self, value: Any) -> float:
        number = float(value)
        if not (math.isfinite(number) and self.least <= number <= self.most and number > self.above):
            raise BadRequestError(f"{self.name} is {number}; it has to be {self.bounds}.")
        return number

    def pack(self, value: Any) -> Any:
        whole = hasattr(value, "__index__") and not isinstance(value, bool)
        # numpy's floats are no subclass of float, but for float64
        if not whole and not (isinstance(value, float) or getattr(getattr(value, "dtype", None), "kind", "") == "f"):
            raise BadRequestError(f"{self.name} is {value!r}; it has to be a number.")
        return value

    @property
    def bounds(self) -> str:
        if math.isfinite(self.above):
            return f"above {self.above:g}"
        if math.isfinite(self.most):
            return f"between {self.least:g} and {self.most:g}"
        return f"{self.least:g} or more"


@dataclass(frozen=True, kw_only=True)
class Switch(Input):
    """On or off."""

    datatype: ClassVar[Datatype] = "BOOL"

    default: Any = False

    def read(self, value: Any) -> bool:
        return bool(value)

    def pack(self, value: Any) -> Any:
        if not (isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"):
            raise BadRequestError(f"{self.name} is {value!r}; it has to be True or False.")
        return value


@dataclass(frozen=True, kw_only=True)
class Text(Input):
    """UTF-8 text."""

    datatype: ClassVar[Datatype] = "BYTES"

    def read(self, value: Any) -> str:
        data = value.encode() if isinstance(value, str) else bytes(value)
        if not data:
            raise BadRequestError(f"{self.name} has an empty text; send at least one character.")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadRequestError(f"{self.name} has a text that is not UTF-8 (byte {error.start}).") from None


@dataclass(frozen=True, kw_only=True)
class Json(Input):
    """A JSON document: in a tensor its text, in REST and for our clients the document itself."""

    datatype: ClassVar[Datatype] = "BYTES"
    form: ClassVar[str]
    """What a document is, in words."""

    def read(self, value: Any) -> Any:
        return self.check(_parse_json(value))

    @abstractmethod
    def check(self, document: Any) -> Any:
        """Return the document's value.

        Raises:
            BadRequestError: it is not of the right form.
        """

    @staticmethod
    @abstractmethod
    def is_document(value: Any) -> bool:
        """Whether a Python value is one document, and not a list of them."""

    def pack(self, value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _parse_json(text: str | bytes) -> Any:
    """Return the document, or None where the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True)
class StopWords(Json):
    """A JSON list of texts; or the texts themselves, an element each, as `generate` sends a list."""

    form: ClassVar[str] = "a list of texts"

    dims: int = -1

    def read(self, value: Any) -> list[str]:
        """Return the texts of an only element: a JSON list, or the text in a list of one."""
        try:
            text = value if isinstance(value, str) else bytes(value).decode()
        except UnicodeDecodeError:
            return self.check(None)
        document = _parse_json(text)
        plain = not text.lstrip().startswith("[") and not isinstance(document, str | dict)
        return self.check([text] if plain else document)

    def read_elements(self, values: Sequence[Any]) -> list[str]:
        if len(values) == 1:
            return self.read(values[0])
        try:  # of several sequences, the shorter lists are filled up with empty texts
            return self.check([text for text in (v if isinstance(v, str) else v.decode() for v in values) if text])
        except UnicodeDecodeError:
            return self.check(None)

    def check(self, document: Any) -> list[str]:
        if not _is_list_of_texts(document):
            raise BadRequestError(
                f'{self.name} has to be a JSON list of texts such as ["\\n", "END"], none of them empty.'
            )
        if len(document) > MAX_STOP_WORDS or any(len(text) > MAX_STOP_CHARACTERS for text in document):
            raise BadRequestError(
                f"{self.name} has {len(document)} texts, the longest of {max(map(len, document))} characters; "
                f"send {self.bounds}."
            )
        return list(document)

    @staticmethod
    def is_document(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)

    @property
    def bounds(self) -> str:
        return f"at most {MAX_STOP_WORDS} of at most {MAX_STOP_CHARACTERS}"


def _is_list_of_texts(document: Any) -> bool:
    try:
        # JSON can spell half a character, which no text has.
        return isinstance(document, list) and all(isinstance(text, str) and text.encode() for text in document)
    except UnicodeEncodeError:
        return False


class Tokens(Json):
    """A JSON document that names tokens: iterating over its value gives their ids."""


def _is_token_id(value: Any) -> bool:
    """Whether a value is a token id, as a number or as the key of a JSON object."""
    text = str(value)
    return not isinstance(value, bool) and text.isascii() and text.isdigit() and int(text[:11]) <= MAX_INT


@dataclass(frozen=True, kw_only=True)
class TokenBias(Tokens):
    """A JSON object from token id to a number within bounds."""

    form: ClassVar[str] = "a dictionary from token id to number"

    most: float

    def check(self, document: Any) -> dict[int, float]:
        if not self.is_document(document):
            raise BadRequestError(
                f'{self.name} has to be a JSON object from token id to number such as {{"42": -100}}.'
            )
        biases = {int(token): float(bias) for token, bias in document.items()}
        if len(biases) > MAX_TOKEN_IDS:
            raise BadRequestError(f"{self.name} has {len(biases)} tokens; send {MAX_TOKEN_IDS} at most.")
        for bias in biases.values():
            if not -self.most <= bias <= self.most:
                raise BadRequestError(f"{self.name} has {bias}; a bias has to be {self.bounds}.")
        return biases

    @staticmethod
    def is_document(value: Any) -> bool:
        return isinstance(value, dict) and all(
            _is_token_id(token) and isinstance(bias, int | float) and not isinstance(bias, bool)
            for token, bias in value.items()
        )

    @property
    def bounds(self) -> str:
        return f"between -{self.most:g} and {self.most:g}"


@dataclass(frozen=True, kw_only=True)
class TokenIds(Tokens):
    """A JSON list of token ids."""

    form: ClassVar[str] = "a list of token ids"

    def check(self, document: Any) -> list[int]:
        if not self.is_document(document):
            raise BadRequestError(f"{self.name} has to be a JSON list of token ids such as [2, 13].")
        if len(document) > MAX_TOKEN_IDS:
            raise BadRequestError(f"{self.name} has {len(document)} tokens; send {MAX_TOKEN_IDS} at most.")
        return list(document)

    @staticmethod
    def is_document(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(id_, int) and _is_token_id(id_) for id_ in value)


@dataclass(frozen=True, kw_only=True)
class Images(Text):
    """Encoded images; `stub/images.py` reads them, within the limits of the deployment."""

    dims: int = -1


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


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output tensor of shape (N, dims), -1 for as many as the longest sequence has; padded with 0."""

    name: str
    datatype: Datatype
    help: str
    dims: int = 1


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


def spell_bytes(data: bytes, *, always: bool = False) -> str:
    r"""Return how a token of these bytes is spelt in `tokens` and `top_logprobs`.

    It is the token's text; one that is no text by itself, such as a part of a character, is spelt `bytes:\xe7\x8c`,
    as OpenAI's API does.

    Args:
        data: the token's bytes.
        always: whether to spell text in bytes as well, because another token has the same.
    """
    try:
        text = data.decode()
        is_text = not always and _SPELT_BYTES.fullmatch(text) is None
    except UnicodeDecodeError:
        is_text = False
    return text if is_text else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def bytes_of_spelling(spelling: str) -> bytes:
    """Return the bytes of a token that `spell_bytes` spelt."""
    if _SPELT_BYTES.fullmatch(spelling):
        return bytes.fromhex(spelling.removeprefix("bytes:").replace("\\x", ""))
    return spelling.encode()


_SPELT_BYTES = re.compile(r"bytes:(?:\\x[0-9a-f]{2})+")


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
    "|".join(rf"\b{tensor.name}\b" if "_" in tensor.name else rf"^{tensor.name}\b" for tensor in INPUTS)
)
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
