"""Spot nodes first, on-demand ones while the cloud has no spot: how Ray's autoscaler chooses between node types.

Between types that fit a demand equally well, Ray 2.60 chooses the same one each time, whatever became of it the last
time. Its autoscaler v1 keeps account of launches that were refused, and asks the function that is named in
RAY_AUTOSCALER_UTILIZATION_SCORER how well a type fits: this one reads the account. (v2 has no such function, and its
account is of nodes that were launched and never came up.)
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
    """How well a node type fits: Ray's own score, then whether it can be had, then whether it is spot (`…_spot`).

    A refusal counts for AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S, half an hour unless the head's environment says
    otherwise.

    Args:
        node_resources: what a node of the type offers.
        resources: what is asked for, by task or actor.
        node_type: its name.
        node_availability_summary: how the last launch of each type went.

    Returns:
        The higher, the better; None when the type fits none of what is asked for.
    """
    # Ray learns a type's memory when its first node runs: one twin would have it and the other not.
    told = {"memory"}.difference(*resources)
    offered = {name: amount for name, amount in node_resources.items() if name not in told}
    fit = _default_utilization_scorer(
        offered, resources, node_type, node_availability_summary=node_availability_summary
    )
    if fit is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    return *fit, last is None or last.is_available, node_type.endswith("_spot")
