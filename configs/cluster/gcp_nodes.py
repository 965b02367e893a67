"""Google Cloud's node provider for Ray's autoscaler, which also reports refused launches.

Ray's provider raises an ordinary error for a refused instance, but the autoscaler records only NodeLaunchException, and
spot_first reads that record.
"""

import sys
from typing import Any

from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException


class GcpNodes(GCPNodeProvider):
    """Ray's provider, except for the error that a failed launch raises."""

    def create_node(self, base_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Launch instances; returns the result of each operation, by instance.

        Raises:
            NodeLaunchException: one of them failed, usually for lack of capacity or quota.
        """
        try:
            return super().create_node(base_config, tags, count)
        except Exception as error:
            raise NodeLaunchException("LaunchRefused", str(error), sys.exc_info()) from error
