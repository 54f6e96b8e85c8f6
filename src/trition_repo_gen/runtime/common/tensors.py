"""The kinds of tensors that the wire has: how a value is read, checked and packed. Standard library only."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output tensor of shape (N, dims), -1 for as many as the longest sequence has; padded with 0."""

    name: str
    datatype: Datatype
    help: str
    dims: int = 1
