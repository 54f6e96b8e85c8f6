"""Questions about images to NeMo 2.0 checkpoints on one rank."""

import base64
import http.server
import importlib.util
import io
import json
import random
import struct
import sys
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.e2e.multimodal.cases import CASES, ONE_IMAGE, Case, ask, ask_together, assert_parity, random_image, user
from tests.e2e.multimodal.prepared import NEMO_MODELS, TRAINED, Prepared
from tests.e2e.resting import rest_service
from tests.e2e.serving import Serving, run
from trition_repo_gen.clients import Completion, LLMClient, NemoQueryMultimodalPytorch

SAMPLED = {"top_k": 0, "temperature": 1.5}
UNSEEN = 100
UNSEEN_SEED = 20_261_122


@pytest.fixture
def qwen(one_rank: dict[str, Serving]) -> Serving:
    """Random weights: it answers in bytes of all kinds, and ends hardly an answer by itself."""
    return one_rank["qwen25vl"]


@pytest.fixture(scope="module")
def pictures(tiny_qwen_vl: Path) -> ModuleType:
    """The module that draws images for the trained model."""
    spec = importlib.util.spec_from_file_location("pictures", tiny_qwen_vl / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["pictures"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("model", NEMO_MODELS)
def test_parity(one_rank: dict[str, Serving], prepared_images: Prepared, model: str) -> None:
    assert_parity(one_rank[model], CASES, prepared_images.answers[model])


def test_a_batch_is_its_sequences(qwen: Serving) -> None:
    alone = [ask(qwen.ask, case, compute_logprob=True) for case in ONE_IMAGE]

    together = ask_together(qwen.ask, ONE_IMAGE, compute_logprob=True)

    assert together.sentences == [reply.sentences[0] for reply in alone]
    assert together.completion_tokens == [reply.completion_tokens[0] for reply in alone]
    for sequence, reply in zip(together.log_probs, alone, strict=True):
        assert sequence == pytest.approx(reply.log_probs[0], abs=1e-3)


def test_the_trained_model_knows_images_it_has_not_seen(one_rank: dict[str, Serving], pictures: ModuleType) -> None:
    rng = random.Random(UNSEEN_SEED)
    drawn = [pictures.draw(rng) for _ in range(UNSEEN)]
    question = "What is in this image?"
    query = NemoQueryMultimodalPytorch(one_rank[TRAINED].http, TRAINED)

    def answers(first: int) -> list[str]:
        batch = [each.image for each in drawn[first : first + 4]]
        output = query.query_multimodal([question] * len(batch), batch)
        return [sequence[0] for sequence in output["choices"][0]["text"]]

    with ThreadPoolExecutor(4) as pool:
        found = [answer for batch in pool.map(answers, range(0, UNSEEN, 4)) for answer in batch]

    right = [answer == each.answer(question) for answer, each in zip(found, drawn, strict=True)]
    assert len(right) == UNSEEN
    assert sum(right) >= 90


def test_the_command_asks_about_a_file(one_rank: dict[str, Serving], pictures: ModuleType, tmp_path: Path) -> None:
    drawn = pictures.draw(random.Random(1))
    drawn.image.save(tmp_path / "image.png")
    question = "What shape is it?"

    printed = run(
        [
            *(Path(sys.executable).with_name("trgen"), "query", "-u", one_rank[TRAINED].http, "-mn", TRAINED),
            *("--image", tmp_path / "image.png", "-p", question),
        ]
    )

    assert printed.strip() == drawn.answer(question)


def test_a_plain_prompt_is_a_question_or_a_rendered_template(qwen: Serving, prepared_images: Prepared) -> None:
    case, reference = ONE_IMAGE[1], prepared_images.answers["qwen25vl"][1]

    asked = qwen.ask("What is in this image?", images=case.element, max_length=24)
    rendered = qwen.ask(reference["prompt_text"], images=case.element, max_length=24)

    assert asked.sentences == rendered.sentences == [reference["text"]]


def test_images_before_the_question_where_no_message_places_them(qwen: Serving) -> None:
    placed = CASES[4]
    unplaced = '[{"role": "user", "content": "Are they alike?"}]'

    reply = qwen.ask(unplaced, images=placed.element, apply_chat_template=True, max_length=24)

    assert reply.sentences == ask(qwen.ask, placed).sentences


def test_an_answer_has_fifty_tokens_by_default(qwen: Serving) -> None:
    reply = qwen.ask(CASES[0].prompt, images=CASES[0].element, apply_chat_template=True, min_length=50)

    assert reply.completion_tokens == [50]


def test_the_log_probabilities_of_a_prompt_without_an_answer(qwen: Serving) -> None:
    wanted: dict[str, Any] = {"echo": True, "compute_logprob": True, "n_top_logprobs": 1}
    one = ask(qwen.ask, CASES[0], max_length=1, **wanted)
    none = ask(qwen.ask, CASES[0], max_length=0, **wanted)
    assert (none.completion_tokens, none.finish_reason) == ([0], ["length"])
    assert none.log_probs[0] == pytest.approx(one.log_probs[0][:-1], abs=1e-3)
    assert len(none.top_logprobs[0]) == none.prompt_tokens[0] - 1
    assert one.sentences[0].startswith(none.sentences[0])


def test_text_of_a_message_is_no_control_token(qwen: Serving) -> None:
    def tokens(content: str) -> int:
        messages = f'[{{"role": "user", "content": {content}}}]'
        values = {"images": CASES[0].element, "apply_chat_template": True, "max_length": 1}
        return qwen.ask(messages, **values).prompt_tokens[0]  # type: ignore[arg-type]

    # One image has one place, whatever the text says; processors of transformers 4 know a placeholder as well.
    assert tokens('"<|image_pad|><|im_end|>"') > tokens('"ab"')
    assert tokens('"<|placeholder|>"') == tokens('"<|something12|>"') > tokens('"ab"')
    assert tokens("null") == tokens('""')


def test_seeds(qwen: Serving) -> None:
    def sampled(seed: int) -> str:
        return ask(qwen.ask, CASES[seed % 4], random_seed=seed, **SAMPLED).sentences[0]

    alone = [sampled(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sampled, range(8))) == alone
    together = ask_together(qwen.ask, ONE_IMAGE, random_seed=[0, 1, 2, 3], **SAMPLED)
    assert together.sentences == alone[:4]
    assert alone[0] != sampled(4)  # the same image and question with another seed


def test_parameters_are_those_of_their_sequence(qwen: Serving) -> None:
    reply = ask_together(qwen.ask, ONE_IMAGE, max_length=[3, 24, 9, 1], use_greedy=True, **SAMPLED)

    assert reply.completion_tokens == [3, 24, 9, 1]
    assert reply.sentences[1] == ask(qwen.ask, ONE_IMAGE[1]).sentences[0]


def test_a_stream_joins_to_the_plain_answer(qwen: Serving) -> None:
    case = CASES[5]
    with LLMClient(qwen.http, qwen.model) as client:
        *pieces, whole = client.stream(
            case.messages, images=[case.images], apply_chat_template=True, max_length=240, min_length=240
        )
    plain = ask(qwen.ask, case, max_length=240, min_length=240)

    assert isinstance(whole, Completion)
    assert len(pieces) > 2
    assert "".join(str(piece) for piece in pieces) == whole.text == plain.sentences[0]
    assert whole.prompt_tokens == plain.prompt_tokens[0]


def test_a_short_answer_overtakes_a_long_one(qwen: Serving) -> None:
    with LLMClient(qwen.http, qwen.model) as client:
        case = CASES[1]
        long = client.stream(
            case.messages, images=[case.images], apply_chat_template=True, max_length=1000, min_length=1000
        )
        next(long)  # it runs

        short = ask(qwen.ask, CASES[0], max_length=2, min_length=2)
        read = 1
        *rest, whole = long

    assert short.completion_tokens == [2]
    assert isinstance(whole, Completion)
    assert whole.completion_tokens == 1000
    assert read + len(rest) > 2


def test_chats_over_rest_are_answered_as_questions_to_triton_are(
    one_rank: dict[str, Serving], pictures: ModuleType
) -> None:
    drawn = pictures.draw(random.Random(3))
    question = "What is in this image?"
    buffer = io.BytesIO()
    drawn.image.save(buffer, "PNG")
    trained = Case([user(None, question)], [base64.b64encode(buffer.getvalue()).decode()])

    with rest_service(one_rank[TRAINED].server.grpc_url) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for model, case in ((TRAINED, trained), ("qwen25vl", CASES[4]), ("qwen25vl", CASES[7])):
            plain = ask(one_rank[model].ask, case, max_length=50)
            wanted: dict[str, Any] = {"model": model, "messages": case.chat, "temperature": 0, "max_tokens": 50}
            whole = client.chat.completions.create(**wanted)
            chunks = list(client.chat.completions.create(**wanted, stream=True))

            text = plain.sentences[0].encode(errors="surrogateescape").decode(errors="replace")
            assert whole.choices[0].message.content == text
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
            assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == plain.finish_reason[0]
            assert whole.usage is not None
            assert whole.usage.prompt_tokens == plain.prompt_tokens[0]
            assert model != TRAINED or text == drawn.answer(question)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_the_bodies_of_nemos_services_and_lists_in_generate(one_rank: dict[str, Serving], pictures: ModuleType) -> None:
    drawn = pictures.draw(random.Random(4))
    question = "What is in this image?"
    expected = drawn.answer(question)
    buffer = io.BytesIO()
    drawn.image.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    uri = f"data:image/png;base64,{encoded}"
    sampling = {"temperature": 1.0, "top_k": 1, "top_p": 0.0, "random_seed": None, "max_batch_size": 4}
    with rest_service(one_rank[TRAINED].server.grpc_url) as url:
        for image in ({"image": uri}, {"image": encoded}, {"images": [uri]}):
            body = {"model": TRAINED, "prompt": question, **image, **sampling, "apply_chat_template": False}
            assert post(f"{url}/v1/completions/", body)["choices"][0]["text"] == expected
        for part in ({"type": "image", "image": uri}, {"type": "image_url", "image_url": encoded}):
            messages = [{"role": "user", "content": [part, {"type": "text", "text": question}]}]
            answer = post(f"{url}/v1/chat/completions/", {"model": TRAINED, "messages": messages, **sampling})
            assert answer["choices"][0]["message"]["content"] == expected

    generate = f"http://{one_rank[TRAINED].http}/v2/models/{TRAINED}/generate"
    for images in (uri, encoded, [uri], json.dumps([uri])):
        assert post(generate, {"prompts": question, "images": images})["sentences"] == expected
    two = [post(generate, {"prompts": question, "images": images}) for images in ([uri, uri], json.dumps([uri, uri]))]
    assert two[0]["sentences"] == two[1]["sentences"]
    assert two[0]["prompt_tokens"] == two[1]["prompt_tokens"]


def png(width: int, height: int) -> bytes:
    """A whole PNG of one colour, made without holding its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj()
    sequences = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", sequences) + chunk(b"IEND", b"")


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A web server that notes what is asked of it, as (its address, the paths)."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def assert_refused(serving: Serving, element: str | bytes, says: str) -> None:
    with pytest.raises(InferenceServerException, match=says) as refused:
        serving.ask("What is it?", images=element)
    assert refused.value.status() == "400"


def test_hostile_images_are_refused(qwen: Serving, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    whole = base64.b64decode(random_image(1, 200, 200))
    for element, says in (
        (f"file://{tmp_path}/secret.png", "does not open"),
        (f"{tmp_path}/secret.png", "base64"),
        (f"../../../../../..{tmp_path}/secret.png", "base64"),
        (base64.b64encode(png(10_000, 10_000)), "100000000 pixels"),
        (base64.b64encode(whole[: len(whole) // 2]), "cannot be read"),
        (base64.b64encode(b"%PDF-1.7 and so on"), "no PNG, JPEG, WebP, GIF or BMP image"),
        ("[" * 100_000, "JSON"),
    ):
        assert_refused(qwen, element, says)

    with listening() as (address, asked):
        assert_refused(qwen, f"{address}/image.png", "URL")
    assert asked == []

    assert ask(qwen.ask, CASES[0]).completion_tokens[0] > 0


def test_prompts_and_images_that_do_not_belong_together(qwen: Serving) -> None:
    case = CASES[4]
    for prompt, element, says in (
        (case.prompt, case.images[0], "2 places.*1"),
        (ONE_IMAGE[0].prompt, case.element, "1 place.*2"),
        (ONE_IMAGE[0].prompt, "", "1 place.*0"),
        ('[{"role": "user", "content": 5}]', case.images[0], "content is 5"),
    ):
        with pytest.raises(InferenceServerException, match=says) as refused:
            qwen.ask(prompt, images=element, apply_chat_template=True)
        assert refused.value.status() == "400"


def test_an_image_is_upright_and_in_colour_whatever_its_file(
    one_rank: dict[str, Serving], pictures: ModuleType
) -> None:
    drawn = pictures.draw(random.Random(2))
    expected = drawn.answer("What is in this image?")
    files = []
    for kind, image in (("PNG", drawn.image.convert("RGBA")), ("JPEG", drawn.image), ("WEBP", drawn.image)):
        buffer = io.BytesIO()
        image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
        files.append(buffer.getvalue())

    output = NemoQueryMultimodalPytorch(one_rank[TRAINED].http, TRAINED).query_multimodal(
        ["What is in this image?"] * len(files), files
    )

    assert [sequence[0] for sequence in output["choices"][0]["text"]] == [expected] * len(files)
