# syntax=docker/dockerfile:1

# Stock tritonserver, trgen, and the Megatron environment of the ranks.
#
#   docker build -t trgen .
#   docker run --rm -v trgen-models:/models -v CHECKPOINTS:/checkpoints:ro trgen \
#       build --megatron-checkpoint /checkpoints/llama --model-name llama --model-repository /models
#   docker run --name trgen --rm --init --gpus all --shm-size 4g -p 8000-8002:8000-8002 -p 8080:8080 \
#       -v trgen-models:/models -v CHECKPOINTS:/checkpoints:ro trgen
#   docker exec trgen trgen query -mn llama -p "What is the capital of United States?"
#
# Docker makes the volume so that the user below may write to it; a folder of the host has to be that user's.
#
# With `docker build --target multimodal` it has NeMo's environment as well, which NeMo 2.0 checkpoints need.

# Both are Ubuntu 24.04 with CUDA 13.0, which the torch of locks/megatron-gpu.txt is built for. The environments made in
# the first work in the second because both have Ubuntu's Python 3.12 at the same place.
ARG CUDA_TAG=13.0.2-cudnn-devel-ubuntu24.04
ARG TRITON_TAG=25.10-py3


FROM nvidia/cuda:${CUDA_TAG} AS environments

# Ubuntu's archive keeps no older versions, so that pinned ones would stop being found.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

ARG UV_VERSION=0.13.9
RUN python3.12 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"
# The cache is mounted from elsewhere, where files cannot be linked from.
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never

WORKDIR /build
COPY scripts/install-environment scripts/
COPY locks/megatron-gpu.txt locks/
RUN --mount=type=cache,target=/root/.cache/uv \
    scripts/install-environment /opt/uv/bin/uv /usr/bin/python3.12 locks/megatron-gpu.txt /opt/megatron

COPY scripts/install-transformer-engine-extension scripts/
COPY locks/build.txt locks/transformer-engine-torch.txt locks/
RUN --mount=type=cache,target=/root/.cache/uv \
    scripts/install-transformer-engine-extension /opt/uv/bin/uv /opt/megatron

COPY locks/serve.txt locks/
RUN --mount=type=cache,target=/root/.cache/uv \
    scripts/install-environment /opt/uv/bin/uv /usr/bin/python3.12 locks/serve.txt /opt/trgen

# The wheel carries the locks of the ranks' environments, for `trgen environment`.
COPY locks/megatron.txt locks/nemo.txt locks/
COPY scripts/install-trgen scripts/
COPY pyproject.toml README.md LICENSE ./
COPY templates templates
COPY src src
RUN --mount=type=cache,target=/root/.cache/uv \
    scripts/install-trgen /opt/uv/bin/uv /opt/trgen


FROM environments AS nemo

COPY locks/nemo.txt locks/
RUN --mount=type=cache,target=/root/.cache/uv \
    scripts/install-environment /opt/uv/bin/uv /usr/bin/python3.12 locks/nemo.txt /opt/nemo


FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG} AS serving

# The image has a user with this id, but no home for it; torch and Triton's compiler keep caches there.
RUN install -d -o 1000 -g 1000 /home/triton-server /models

COPY --from=environments /opt/megatron /opt/megatron
COPY --from=environments /opt/trgen /opt/trgen
COPY scripts/healthcheck.py /opt/trgen/

# tritonserver's Python backend takes its packages from the python3 that stands first on PATH.
ENV PATH=/opt/trgen/bin:${PATH} \
    TRGEN_RANK_PYTHON=/opt/megatron/bin/python \
    HOME=/home/triton-server

USER 1000:1000
WORKDIR /home/triton-server
VOLUME /models
# HTTP, gRPC, metrics, REST
EXPOSE 8000 8001 8002 8080

# Loading a large checkpoint takes minutes; until then nothing counts as a failure.
HEALTHCHECK --start-period=30m --interval=30s --timeout=60s --retries=3 \
    CMD ["/opt/trgen/bin/python", "/opt/trgen/healthcheck.py"]

ENTRYPOINT ["/opt/trgen/bin/trgen"]
CMD ["serve", "--model-repository", "/models"]


FROM serving AS multimodal

COPY --from=nemo /opt/nemo /opt/nemo
ENV TRGEN_NEMO_PYTHON=/opt/nemo/bin/python


# The last stage is what is built unless a target is named.
FROM serving
