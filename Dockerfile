# FlashVSR+ for NVIDIA GPUs (it also runs without one, on the CPU).
#
#   docker build -t flashvsr-plus .
#   docker run --rm --gpus all \
#       -v "$PWD/inputs:/app/inputs:ro" -v "$PWD/outputs:/app/outputs" -v flashvsr-weights:/weights \
#       flashvsr-plus -i inputs/bbb_320x180.mp4 outputs/
#
# Downloaded weights go to the volume /weights, never to /app/models: a volume there would hide the
# embedded nano weights. FFmpeg comes with the Python package imageio-ffmpeg.

FROM ghcr.io/astral-sh/uv:0.8.22 AS uv

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

COPY --from=uv /uv /usr/local/bin/uv

ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/weights/huggingface

WORKDIR /app
COPY requirements.txt ./

# PyTorch first, from its CUDA 12.8 index, in the range that requirements.txt allows; then the rest.
RUN uv venv --python /usr/bin/python3 "$VIRTUAL_ENV" \
    && grep '^torch' requirements.txt > /tmp/torch.txt \
    && uv pip install --no-cache --index-url https://download.pytorch.org/whl/cu128 --requirement /tmp/torch.txt \
    && uv pip install --no-cache --requirement requirements.txt \
    && rm /tmp/torch.txt

COPY . .

# The base image has the user "ubuntu" (1000:1000). New volumes take the owner of these folders.
RUN mkdir -p /weights /app/outputs && chown ubuntu:ubuntu /weights /app/outputs
VOLUME ["/weights", "/app/outputs"]
USER ubuntu

# A --models-dir given to `docker run` comes later and wins.
ENTRYPOINT ["python", "run.py", "--models-dir", "/weights"]
CMD ["--help"]
