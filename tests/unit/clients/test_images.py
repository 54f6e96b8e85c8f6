import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trition_repo_gen.clients import LLMClient, NemoQueryMultimodalPytorch
from trition_repo_gen.clients.images import encode, tensor
from trition_repo_gen.errors import QueryError

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
ENCODED = "data:image;base64," + base64.b64encode(PICTURE).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b.png"
    path.write_bytes(PICTURE)
    return path


@pytest.fixture
def host() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/a.png":
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_and_their_bytes(file: Path) -> None:
    for image in (file, str(file), PICTURE, bytearray(PICTURE)):
        assert encode(image) == ENCODED


def test_what_is_encoded_already(file: Path) -> None:
    assert encode(ENCODED) == ENCODED
    assert encode(ENCODED.partition(",")[2]) == ENCODED.partition(",")[2]


def test_a_url_is_fetched_here(host: str) -> None:
    assert encode(f"{host}/a.png") == ENCODED
    with pytest.raises(QueryError, match=r"b\.png' cannot be fetched: its host answered 404"):
        encode(f"{host}/b.png")
    with pytest.raises(QueryError, match="cannot be fetched"):
        encode("http://127.0.0.1:1/a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_a_pillow_image(mode: str) -> None:
    text = encode(Image.new(mode, (7, 5)))
    again = Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))
    assert (again.format, again.size) == ("PNG", (7, 5))


def test_one_element_per_prompt(file: Path) -> None:
    elements = tensor([file, [file, PICTURE], None, []], 4)
    assert elements.shape == (4, 1)
    assert [element.decode() for element in elements[:, 0]] == [ENCODED, json.dumps([ENCODED, ENCODED]), "", ""]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ("a.png", "images has to be a list: for each prompt"),
        (b"abc", "images has to be a list"),
        ([b"abc"], "images has 1 elements for 2 prompts"),
        ([1, 2], "images has a int; give a Pillow image"),
        (["nowhere.png", b""], r"'nowhere\.png' cannot be read \(No such file or directory\)"),
        (["file:///etc/passwd", b""], "cannot be read"),
        (["/", b""], "cannot be read"),
        (["x" * 5001, b""], "cannot be read"),
        (["a\0b", b""], "cannot be read"),
        (["data:,\udcff", b""], r"^An image has '\\udcff', which is not valid Unicode"),
    ],
)
def test_what_is_no_picture(images: Any, sentence: str) -> None:
    with LLMClient("127.0.0.1:1", "qwen") as client, pytest.raises(QueryError, match=sentence):
        client.infer(["a", "b"], images=images)


def test_the_query_class_waits_for_the_server() -> None:
    query = NemoQueryMultimodalPytorch("127.0.0.1:1", "qwen")
    with pytest.raises(QueryError, match="Waited 0 s for a Triton server at"):
        query.query_multimodal(["a"], [PICTURE], 5, 4, init_timeout=0.0)
