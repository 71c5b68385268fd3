# The locked versions and this package, on the CPU or on NVIDIA's GPUs:
#     docker build -t vissl-clusterfit .
#     docker build -t vissl-clusterfit:gpu --build-arg FAISS=gpu .
# docs/container.md says how to run it. BASE is any image with Python 3.11, venv and pip.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# PyTorch of the lock runs on both; faiss comes as one of two builds: cpu or gpu.
ARG FAISS=cpu
# NVIDIA's container toolkit brings the driver in where these are set; without it they say nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PATH=/opt/venv/bin:${PATH} PYTHONUNBUFFERED=1

WORKDIR /opt/vissl-clusterfit
COPY requirements.lock requirements-${FAISS}.lock ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir $(grep -E '^(pip|setuptools|uv)==' requirements.lock) \
    && uv pip sync --system-certs --no-cache --compile-bytecode --no-build-isolation --python /opt/venv/bin/python \
        requirements.lock requirements-${FAISS}.lock

COPY setup.py pyproject.toml README.md LICENSE ./
COPY vissl_clusterfit vissl_clusterfit
COPY hydra_plugins hydra_plugins
COPY configs configs
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# What a run reads and writes is mounted here.
WORKDIR /work
ENTRYPOINT ["vissl-clusterfit"]
CMD ["--help"]
