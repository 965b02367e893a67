# Image of a Ray node, for KubeRay (configs/cluster/kuberay-*.yaml) and for the `docker:` option of cluster.yaml.
#   docker build --tag mmgenre:0.1.0 .
# Based on Python's image rather than rayproject/ray: everything, Ray included, has the tested version from
# constraints.txt, and nothing is installed twice. torch brings CUDA; the host must have NVIDIA's driver, 580 or newer.
FROM python:3.11-slim

# KubeRay's probes call wget; the cluster launcher copies files with rsync.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends rsync wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mmgenre

# The dependencies, several GB, are a separate layer that is reused while only the code changes.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        extras = project["optional-dependencies"]; \
        names = [name for name in extras if name not in ("all", "dev")]; \
        needs = project["dependencies"] + [need for name in names for need in extras[name]]; \
        print("\n".join(need for need in needs if not need.startswith("mmgenre")))' \
        > /tmp/requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY README.md LICENSE ./
COPY mmgenre mmgenre
RUN pip install --no-cache-dir --no-deps --constraint constraints.txt .
COPY configs configs
COPY jobs jobs

# The parts of the driver that the container toolkit mounts; the scheduler chooses the GPUs.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

# A numeric user, so that Kubernetes can verify that it is not root.
RUN useradd --create-home --uid 1000 mmgenre
USER 1000:1000
