"""Scores node types for Ray's autoscaler: spot nodes first, on-demand nodes while the cloud refuses spot nodes.

Between types that fit a demand equally well, Ray 2.60 always chooses the same one, even if its last launch was refused.
Its autoscaler v1 records refused launches, and calls the function named in RAY_AUTOSCALER_UTILIZATION_SCORER to score a
type; this one reads the record. (v2 calls no such function, and records only nodes that were launched and never came
up.)
"""

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

Resources = dict[str, float]


def score(
    node_resources: Resources,
    resources: list[Resources],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[float, ...] | None:
    """How well a node type fits: Ray's own score, then whether it is available, then whether it is spot (`…_spot`).

    A refusal counts for AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S: half an hour by default.

    Args:
        node_resources: resources that a node of the type offers.
        resources: demands, one dict per task or actor.
        node_type: name of the type.
        node_availability_summary: result of the last launch of each type.

    Returns:
        A higher score is better; None if the type fits none of the demands.
    """
    # Ray learns a type's memory from its first node, so only one type of a pair may have it; ignored unless demanded.
    ignored = {"memory"}.difference(*resources)
    offered = {name: amount for name, amount in node_resources.items() if name not in ignored}
    fit = _default_utilization_scorer(
        offered, resources, node_type, node_availability_summary=node_availability_summary
    )
    if fit is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    return *fit, last is None or last.is_available, node_type.endswith("_spot")
