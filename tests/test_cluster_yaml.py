"""The cluster launcher's file, checked without a cloud."""

import json
from pathlib import Path

import jsonschema
import ray
import yaml

ROOT = Path(__file__).parent.parent
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_rays_own_schema_accepts_it():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())

    jsonschema.validate(CLUSTER, schema)


def test_every_node_starts_with_token_authentication_and_the_dashboard_on_loopback():
    starts = [command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command]
    starts += [command for command in CLUSTER["worker_start_ray_commands"] if "ray start" in command]

    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
