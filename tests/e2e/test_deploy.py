"""`trgen deploy` takes the line that people have for NeMo Export-Deploy's script."""

import signal
import subprocess
import sys
from pathlib import Path

import openai

from tests.e2e.serving import PROMPTS
from trition_repo_gen.clients import NemoQueryLLMPyTorch
from trition_repo_gen.server import free_ports


def test_a_line_of_the_script_works_with_the_name_replaced(
    tmp_path: Path, checkpoints: dict[str, Path], megatron_python: Path
) -> None:
    http, grpc, metrics, rest = map(str, free_ports(4))
    command: list[str | Path] = [
        *(Path(sys.executable).with_name("trgen"), "deploy", "--megatron_checkpoint", checkpoints["llama"]),
        *("--triton_model_name", "llama", "--triton_model_version", "1", "--triton_port", http),
        *("--triton_http_address", "127.0.0.1", "--tensor_parallelism_size", "1", "--pipeline_parallelism_size", "1"),
        *(
            "-mbs",
            "8",
            "-imsl",
            "512",
            "--rank-python",
            megatron_python,
            "--grpc-port",
            grpc,
            "--metrics-port",
            metrics,
            "--server_port",
            rest,
            "--server_address",
            "127.0.0.1",
        ),
    ]
    with (tmp_path / "log").open("wb") as log:
        deploy = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            output = NemoQueryLLMPyTorch(url=f"127.0.0.1:{http}", model_name="llama").query_llm(
                prompts=PROMPTS[:1], max_length=20, top_k=1, init_timeout=300
            )
            service = openai.OpenAI(base_url=f"http://127.0.0.1:{rest}/v1", api_key="none")
            completion = service.completions.create(model="llama", prompt=PROMPTS[0], max_tokens=20, temperature=0)
        finally:
            deploy.send_signal(signal.SIGINT)
            code = deploy.wait()

    assert output["choices"][0]["text"][0, 0].strip().startswith("Yellow")
    assert completion.choices[0].text == " Yellow."
    assert code == 0, (tmp_path / "log").read_text()[-3000:]
