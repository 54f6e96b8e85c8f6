"""Query classes for programs written for NeMo Export-Deploy.

Names, arguments and the shape of the answer are those of `nemo_deploy.llm.NemoQueryLLMPyTorch` and
`nemo_deploy.multimodal.NemoQueryMultimodalPytorch` (https://github.com/NVIDIA-NeMo/Export-Deploy,
nemo_deploy/llm/query_llm.py and nemo_deploy/multimodal/query_multimodal.py).
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trition_repo_gen.errors import QueryError

from .images import Images
from .llm import LLMClient, Prompt
from .text import decode


class NemoQueryLLMPyTorch:
    """Queries a language model on a Triton server.

        query = NemoQueryLLMPyTorch(url="localhost:8000", model_name="llama")
        output = query.query_llm(prompts=["What is the color of a banana?"], max_length=20)
        output["choices"][0]["text"][0, 0]

    Args:
        url: `host`, `host:port`, `http://host:port` or `grpc://host:port`; without a port, 8000 (gRPC: 8001).
        model_name: the model's name in Triton.
    """

    def __init__(self, url: str, model_name: str) -> None:
        self.url = url
        self.model_name = model_name

    def query_llm(
        self,
        prompts: Sequence[Prompt],
        use_greedy: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        add_BOS: bool | None = None,  # noqa: N803
        all_probs: bool | None = None,
        compute_logprob: bool | None = None,
        end_strings: Sequence[str] | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        apply_chat_template: bool = False,
        n_top_logprobs: int | None = None,
        init_timeout: float = 60.0,
        echo: bool | None = None,
        stop_words: Sequence[str] | None = None,
        random_seed: int | None = None,
        inference_timeout: float = 600.0,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Continue prompts and wait for the answers.

        What is None is left to the server. Every sampling argument may be a list, too: one value per prompt.

        Args:
            prompts: N texts; with `apply_chat_template` conversations, as JSON or as lists of messages.
            use_greedy: take the most likely token at every step.
            temperature: of the softmax; 0 is greedy.
            top_k: sample from the k most likely tokens; 1 is greedy, 0 does not limit.
            top_p: sample from the most likely tokens that have this probability together; 0 does not limit.
            repetition_penalty: 1.0 is none.
            add_BOS: has no counterpart; the checkpoint's tokenizer decides. Refused when set.
            all_probs: has no counterpart; refused when set.
            compute_logprob: return log-probabilities.
            end_strings: texts that end the answer, as `stop_words`.
            min_length: least new tokens before an answer may end by itself.
            max_length: most new tokens.
            apply_chat_template: prompts are conversations.
            n_top_logprobs: return that many most likely tokens at each position.
            init_timeout: seconds to wait for the server and the model.
            echo: begin the answer with the prompt.
            stop_words: texts that end the answer.
            random_seed: the same seed gives the same answer.
            inference_timeout: seconds to wait for the answer.
            parameters: further ones of `LLMClient.infer`.

        Returns:
            an OpenAI-shaped dictionary: `id`, `object` ("text_completion"), `created` (seconds), `model`, and
            `choices`, a list of one, with `text`: an array of str, shape (N, 1). When asked for,
            `choices[0]["logprobs"]` has `token_logprobs`: float32, shape (N, most tokens), padded with 0; and
            `top_logprobs`: N lists with a dictionary from token to logarithm for each token.

        Raises:
            QueryError: an argument is refused, the server did not answer in time, or answered with an error.
        """
        for name, value in (("add_BOS", add_BOS), ("all_probs", all_probs)):
            if value:
                raise QueryError(f"{name} is {value!r}, which this server cannot do; leave it out.")
        words = [*(end_strings or []), *(stop_words or [])]
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if top_k is None and top_p:
            top_k = 0  # the server's default, 1, would disable top_p
        with LLMClient(self.url, self.model_name, timeout=inference_timeout) as client:
            client.wait_ready(init_timeout)
            outputs = client.infer_arrays(
                prompts,
                ["sentences"],
                min_length=min_length,
                max_length=max_length,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                use_greedy=use_greedy,
                repetition_penalty=repetition_penalty,
                random_seed=random_seed,
                stop_words=words or None,
                compute_logprob=compute_logprob,
                n_top_logprobs=n_top_logprobs,
                echo=echo,
                apply_chat_template=apply_chat_template or None,
                **parameters,
            )
        return _openai_shaped(self.model_name, outputs)


class NemoQueryMultimodalPytorch:
    """Queries a model that takes images on a Triton server.

        query = NemoQueryMultimodalPytorch(url="localhost:8000", model_name="qwen")
        output = query.query_multimodal(prompts=["What is in this image?"], images=[Image.open("photo.jpg")])
        output["choices"][0]["text"][0, 0]

    Args:
        url: `host`, `host:port`, `http://host:port` or `grpc://host:port`; without a port, 8000 (gRPC: 8001).
        model_name: the model's name in Triton.
    """

    def __init__(self, url: str, model_name: str) -> None:
        self.url = url
        self.model_name = model_name

    def query_multimodal(
        self,
        prompts: Sequence[Prompt],
        images: Images,
        max_length: int | None = None,
        max_batch_size: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        random_seed: int | None = None,
        apply_chat_template: bool | None = None,
        init_timeout: float = 60.0,
        inference_timeout: float = 600.0,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Continue prompts about images and wait for the answers.

        What is None is left to the server. Every sampling argument may be a list, too: one value per prompt.

        Args:
            prompts: N texts, or conversations with `apply_chat_template`. A text that marks its images as the model's
                chat template does is taken as it is; any other becomes a user's message about them.
            images: for each prompt an image or a list of images: Pillow images, paths, URLs (fetched here), the
                bytes of files, base64 or `data:` URIs.
            max_length: most new tokens.
            max_batch_size: has no effect: the engine forms its batch anew at every step.
            top_k: sample from that many most likely tokens; 1 is greedy, 0 does not limit.
            top_p: sample from the most likely tokens that have this probability together; 0 does not limit.
            temperature: 0 is greedy.
            random_seed: the same seed gives the same answer.
            apply_chat_template: prompts are conversations.
            init_timeout: seconds to wait for the server and the model.
            inference_timeout: seconds to wait for the answer.
            parameters: further ones of `LLMClient.infer`.

        Returns:
            the dictionary that `NemoQueryLLMPyTorch.query_llm` returns.

        Raises:
            QueryError: an argument is refused, an image cannot be read, the server did not answer in time, or
                answered with an error.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if top_k is None and top_p:
            top_k = 0  # the server's default, 1, would disable top_p
        with LLMClient(self.url, self.model_name, timeout=inference_timeout) as client:
            client.wait_ready(init_timeout)
            outputs = client.infer_arrays(
                prompts,
                ["sentences"],
                images=images,
                max_length=max_length,
                top_k=top_k,
                top_p=top_p,
                temperature=temperature,
                random_seed=random_seed,
                apply_chat_template=apply_chat_template,
                **parameters,
            )
        return _openai_shaped(self.model_name, outputs)


def _openai_shaped(model: str, outputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": np.array([[decode(sequence[0])] for sequence in outputs["sentences"]])}
    logprobs: dict[str, Any] = {}
    if "log_probs" in outputs:
        logprobs["token_logprobs"] = outputs["log_probs"]
    if "top_logprobs" in outputs:
        logprobs["top_logprobs"] = [json.loads(decode(sequence[0])) for sequence in outputs["top_logprobs"]]
    if logprobs:
        choice["logprobs"] = logprobs
    created = int(time.time())
    return {
        "id": f"cmpl-{created}",
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [choice],
    }
