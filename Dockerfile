# FlashVSR+ for NVIDIA GPUs (it also runs without one, on the CPU).
#
#   docker build -t flashvsr-plus .
#   docker run --rm --gpus all \
#       -v "$PWD/inputs:/app/inputs:ro" -v "$PWD/outputs:/app/outputs" -v flashvsr-weights:/weights \
#       flashvsr-plus -i inputs/bbb_320x180.mp4 outputs/
#
# The page instead of the command line, for a browser on the same machine:
#
#   docker run --rm --gpus all -p 127.0.0.1:7860:7860 -v "$PWD/outputs:/app/outputs" -v flashvsr-weights:/weights \
#       --entrypoint python flashvsr-plus webui.py --models-dir /weights --output-dir /app/outputs \
#       --data /app/outputs/.webui --listen --auth me:a-long-password
#
# Downloaded weights go to the volume /weights, never to /app/models: a volume there would hide the
# embedded nano weights. FFmpeg comes with the Python package imageio-ffmpeg.

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

# The compiler and Python's headers are Triton's, which builds its kernels on the card they will run on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/weights/huggingface \
    TRITON_CACHE_DIR=/weights/triton

WORKDIR /app
COPY requirements.txt ./

# uv takes PyTorch's CUDA 12.8 build, in the range that requirements.txt allows.
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --no-cache --torch-backend=cu128 --requirement requirements.txt

COPY . .

# The base image has the user "ubuntu" (1000:1000). New volumes take the owner of these folders.
RUN mkdir -p /weights /app/outputs && chown ubuntu:ubuntu /weights /app/outputs
VOLUME ["/weights", "/app/outputs"]
USER 1000:1000

EXPOSE 7860
# A --models-dir given to `docker run` comes later and wins.
ENTRYPOINT ["python", "run.py", "--models-dir", "/weights"]
CMD ["--help"]
