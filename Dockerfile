# Ray's nodes in containers: for KubeRay (configs/cluster/kuberay-*.yaml) and for the `docker:` option of cluster.yaml.
#   docker build --tag mmgenre:0.1.0 .
# Python's own image rather than rayproject/ray: everything, Ray included, comes in the tested versions of
# constraints.txt, and nothing comes twice. CUDA comes with torch; of the host it takes NVIDIA's driver, 580 or newer.
FROM python:3.11-slim

# KubeRay's probes call wget, the launcher copies files with rsync.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends rsync wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mmgenre

# Some GB of dependencies in a layer of their own, which stays while only the code changes.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' \
        > /tmp/requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY README.md LICENSE ./
COPY mmgenre mmgenre
RUN pip install --no-cache-dir --no-deps --constraint constraints.txt .
COPY configs configs
COPY jobs jobs

# What the toolkit hands in of the driver; which GPUs, the scheduler says.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

# By number, so that Kubernetes sees that it is not root.
RUN useradd --create-home --uid 1000 mmgenre
USER 1000:1000
