"""Google's nodes for Ray's autoscaler, with an account of those that could not be had.

Ray's provider reports a refused instance as any other error, and the autoscaler keeps account of NodeLaunchException
only, which spot_first reads.
"""

import sys
from typing import Any

from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException


class GcpNodes(GCPNodeProvider):
    """Ray's own, but for what a failed launch raises."""

    def create_node(self, base_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Launch instances; what each operation answered, by instance.

        Raises:
            NodeLaunchException: one of them failed, for want of capacity or quota above all.
        """
        try:
            return super().create_node(base_config, tags, count)
        except Exception as error:
            raise NodeLaunchException("LaunchRefused", str(error), sys.exc_info()) from error
