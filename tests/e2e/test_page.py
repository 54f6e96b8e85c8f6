"""The page in a real browser: a question, its streamed answer, stop, an image."""

import base64
import fcntl
import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.e2e.resting import rest_service
from tests.e2e.serving import Serving
from trition_repo_gen.server import free_ports, running_server

RATE = re.compile(r"^\d+(\.\d)?$")
PATIENCE = 60_000  # milliseconds
# Headless, and silent: Chromium would look for its maker's hosts.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

# A model of the wire that answers with the conversation that it was given, each image as its format and size. Its
# streaming model streams word by word, and goes on to the last one only when nobody holds the file LOCK.
SEES = """
import base64, fcntl, json, struct
import numpy as np
import triton_python_backend_utils as pb_utils

def read(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()[0, 0]

def seen(image):
    head, _, data = image.partition(",")
    width, height = struct.unpack(">II", base64.b64decode(data)[16:24])
    return f"{head} {width}x{height}; "

def answer(request):
    given = read(request, "images") or b"[]"
    images = iter(json.loads(given) if given.startswith(b"[") else [given.decode()])
    turns = []
    for message in json.loads(read(request, "prompts")):
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        turns.append("".join(seen(next(images)) if part["type"] == "image" else part["text"] for part in parts))
    assert next(images, None) is None
    return " / ".join(turns)

class TritonPythonModel:
    def initialize(self, args):
        self.streams = args["model_name"].endswith("_stream")

    def execute(self, requests):
        for request in requests:
            words = answer(request).split(" ")
            sender = request.get_response_sender()
            pieces = [word + " " for word in words[:-1]] + words[-1:] if self.streams else [" ".join(words)]
            for piece in pieces[:-1]:
                sender.send(pb_utils.InferenceResponse([self.text("sentences", piece)]))
            with open(LOCK) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
            last = [self.text("sentences", pieces[-1]), self.text("finish_reason", "stop")]
            last += [pb_utils.Tensor(name, np.array([[len(words)]])) for name in ("prompt_tokens", "completion_tokens")]
            sender.send(pb_utils.InferenceResponse(last), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def text(self, name, value):
        return pb_utils.Tensor(name, np.array([[value.encode()]], dtype=np.object_))
"""
CONFIG = """
backend: "python"
max_batch_size: 1
input [
  { name: "prompts", data_type: TYPE_STRING, dims: [ 1 ] },
  { name: "apply_chat_template", data_type: TYPE_BOOL, dims: [ 1 ], optional: true },
  { name: "max_length", data_type: TYPE_INT64, dims: [ 1 ], optional: true },
  { name: "temperature", data_type: TYPE_FP32, dims: [ 1 ], optional: true },
  { name: "top_k", data_type: TYPE_INT64, dims: [ 1 ], optional: true }
]
output [
  { name: "sentences", data_type: TYPE_STRING, dims: [ 1 ] },
  { name: "finish_reason", data_type: TYPE_STRING, dims: [ 1 ] },
  { name: "prompt_tokens", data_type: TYPE_INT64, dims: [ 1 ] },
  { name: "completion_tokens", data_type: TYPE_INT64, dims: [ 1 ] }
]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""
IMAGES = 'input [ { name: "images", data_type: TYPE_STRING, dims: [ 1 ], optional: true } ]\n'
DECOUPLED = "model_transaction_policy { decoupled: true }\n"


def png(width: int, height: int) -> bytes:
    """Return a grey image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    sequences = (b"\0" + b"\x80" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(sequences)) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        what = "chromium is missing; install your distribution's package chromium, or run scripts/install-chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may reach this machine alone, and must not meet an error in its script."""
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    strangers: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: strangers.append(request.url) if "//127.0.0.1:" not in request.url else None)
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield page
    context.close()
    assert errors == []
    assert [url for url in strangers if not url.startswith("data:")] == []


@pytest.fixture(scope="module")
def service(llama: Serving) -> Iterator[str]:
    with rest_service(llama.server.grpc_url) as url:
        yield url


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the models of `seeing` wait for."""
    path = tmp_path_factory.mktemp("lock") / "lock"
    path.touch()
    return path


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, lock: Path) -> Iterator[str]:
    """The service in front of a tritonserver with a model that takes images, `sees`, and one that does not, `tells`."""
    repository = tmp_path_factory.mktemp("sees")
    for name, inputs in (("sees", IMAGES), ("tells", "")):
        for model, policy in ((name, ""), (f"{name}_stream", DECOUPLED)):
            (repository / model / "1").mkdir(parents=True)
            (repository / model / "1" / "model.py").write_text(f"LOCK = {str(lock)!r}\n{SEES}")
            (repository / model / "config.pbtxt").write_text(CONFIG + inputs + policy)
    http, grpc, metrics = free_ports(3)
    with (
        running_server(repository, http_port=http, grpc_port=grpc, metrics_port=metrics) as server,
        rest_service(server.grpc_url) as url,
    ):
        yield url


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Keep answers of `seeing` from ending; while the block runs they lack their last word."""
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ask(page: Page, question: str) -> Locator:
    """Ask as somebody at a keyboard does; return the answer's article."""
    expect(page.get_by_role("button", name="Send")).to_be_visible()  # until then the page takes no question
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    return page.locator("article.answer").last


def set_up(page: Page, url: str, **settings: str) -> None:
    page.goto(url)
    expect(page.get_by_label("Model")).to_be_enabled()
    page.get_by_role("button", name="Settings").click()
    for label, value in settings.items():
        page.get_by_label(label.replace("_", " ")).fill(value)


def test_a_question_and_its_streamed_answer(page: Page, service: str) -> None:
    set_up(page, service, Temperature="0", Most_new_tokens="600")
    expect(page.get_by_label("Model")).to_have_value("llama")
    answer = ask(page, "What is the color of a banana?")
    expect(page.get_by_role("status")).to_have_text("llama has answered.")
    expect(answer.locator(".text")).to_have_text("Yellow.")
    expect(answer.locator(".tokens")).to_have_text("9")
    expect(answer.locator(".rate")).to_have_text(RATE)
    expect(answer.locator(".first")).to_have_text(re.compile(r"^\d+ ms$"))
    expect(page.get_by_label("Your question")).to_be_focused()


def test_the_answer_grows_and_can_be_stopped(page: Page, seeing: str, lock: Path) -> None:
    page.goto(seeing)
    expect(page.get_by_label("Model")).to_be_enabled()
    with held(lock):
        answer = ask(page, "One, two, three, and so on up to fifty")
        expect(answer.locator(".text")).to_contain_text("One, two, three")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_have_text("Stopped.")
        stopped = answer.locator(".text").inner_text()
        assert "fifty" not in stopped
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_new_conversation_knows_nothing_of_the_answer_that_it_stops(page: Page, seeing: str, lock: Path) -> None:
    page.goto(seeing)
    expect(page.get_by_label("Model")).to_be_enabled()
    with held(lock):
        expect(ask(page, "Hello again").locator(".text")).to_contain_text("Hello")
        page.get_by_role("button", name="New conversation").click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(ask(page, "Who are you?").locator(".text")).to_have_text("Who are you?")
    expect(ask(page, "I see.").locator(".text")).to_have_text("Who are you? / Who are you? / I see.")


def test_a_refusal_is_shown(page: Page, service: str) -> None:
    set_up(page, service, Most_new_tokens="100000")
    answer = ask(page, "a")
    expect(answer.locator(".failure")).to_contain_text("at most 1024 tokens")


def test_plain_text_is_completed(page: Page, service: str) -> None:
    set_up(page, service, Temperature="0")
    page.get_by_label("Send as").select_option("plain text")
    expect(ask(page, "What is the capital of United States?").locator(".text")).to_have_text("Washington, D.C.")


def test_a_key_is_asked_for(page: Page, llama: Serving, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("let-me-in\n")
    with rest_service(llama.server.grpc_url, "--api-key-file", tmp_path / "keys") as url:
        page.goto(url)
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("let-me-in")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Model")).to_have_value("llama")
        expect(ask(page, "What is the color of a banana?").locator(".figures .tokens")).not_to_have_text("–")


def test_images_are_dropped_and_chosen(page: Page, seeing: str) -> None:
    page.goto(seeing)
    expect(page.get_by_label("Model")).to_have_value("sees")
    dropped = page.evaluate_handle(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
            return transfer;
        }""",
        base64.b64encode(png(31, 7)).decode(),
    )
    page.locator("#box").dispatch_event("drop", {"dataTransfer": dropped})
    expect(page.get_by_role("img", name="dropped.png")).to_be_visible()
    page.get_by_label("Add image").set_input_files({"name": "chosen.png", "mimeType": "image/png", "buffer": png(5, 9)})
    expect(page.get_by_role("img", name="chosen.png")).to_be_visible()
    both = ask(page, "What is it?")
    seen = "data:image/png;base64 31x7; data:image/png;base64 5x9; What is it?"
    expect(both.locator(".text")).to_have_text(seen)
    expect(page.locator("#images")).to_be_hidden()

    page.get_by_label("Add image").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": png(2, 3)})
    page.get_by_role("button", name="Remove x.png").click()
    expect(page.locator("#images")).to_be_hidden()


def test_a_text_model_goes_on_with_a_conversation_about_images(page: Page, seeing: str) -> None:
    page.goto(seeing)
    expect(page.get_by_label("Model")).to_have_value("sees")
    page.get_by_label("Add image").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png(5, 9)})
    expect(page.get_by_role("img", name="a.png")).to_be_visible()
    seen = "data:image/png;base64 5x9; What is it?"
    expect(ask(page, "What is it?").locator(".text")).to_have_text(seen)

    page.get_by_label("Model").select_option("tells")
    without = ask(page, "Are you sure?")
    expect(without.locator(".text")).to_have_text(f"What is it? / {seen} / Are you sure?")
    page.get_by_label("Model").select_option("sees")
    again = ask(page, "And now?")
    expect(again.locator(".text")).to_have_text(
        f"{seen} / {seen} / Are you sure? / What is it? / {seen} / Are you sure? / And now?"
    )


def test_an_answer_in_one_piece_has_figures(page: Page, seeing: str) -> None:
    page.goto(seeing)
    expect(page.get_by_label("Model")).to_have_value("sees")
    answer = ask(page, "Nothing.")
    expect(answer.locator(".text")).to_have_text("Nothing.")
    expect(answer.locator(".rate")).to_have_text(RATE)


def test_a_text_model_takes_no_image(page: Page, service: str) -> None:
    page.goto(service)
    expect(page.get_by_label("Model")).to_be_enabled()
    transfer = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["x"], "x.png", {type: "image/png"}));
            return transfer;
        }"""
    )
    page.locator("#box").dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.get_by_role("status")).to_have_text("llama takes no images.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Page, service: str, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 between text and what is behind it."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(service)
    pairs = [("--ink", "--ground"), ("--ink", "--raised"), ("--quiet", "--surface"), ("--quiet", "--raised")]
    pairs += [("--quiet", "--ground"), ("--on-accent", "--accent"), ("--danger", "--ground")]
    for ink, ground in pairs:
        colours = [
            page.evaluate("(name) => getComputedStyle(document.documentElement).getPropertyValue(name)", name)
            for name in (ink, ground)
        ]
        lighter, darker = sorted((luminance(colour.strip()) for colour in colours), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (scheme, ink, ground)


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_control_has_a_name(page: Page, service: str) -> None:
    set_up(page, service)
    for control in page.locator("button, input:not([type=file]), select, textarea").all():
        if control.is_visible():
            name = control.evaluate(
                "(e) => e.labels?.[0]?.textContent || e.getAttribute('aria-label') || e.textContent"
            )
            assert name.strip()
