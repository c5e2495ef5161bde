"""The order of an ONNX graph's nodes."""

import heapq
from typing import Any


def sort_nodes(graph: Any) -> None:
    """Put every node behind those that make its inputs: some converters append theirs, and runtimes sort as well."""
    nodes = list(graph.node)
    makers = {output: number for number, node in enumerate(nodes) for output in node.output if output}
    if all(makers.get(value, -1) < number for number, node in enumerate(nodes) for value in node.input):
        return
    waits_for = [{makers[value] for value in node.input if value in makers} for node in nodes]
    needed_by: dict[int, list[int]] = {}
    for number, others in enumerate(waits_for):
        for other in others:
            needed_by.setdefault(other, []).append(number)
    left = [len(others) for others in waits_for]
    ready = [number for number, count in enumerate(left) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for later in needed_by.get(number, ()):
            left[later] -= 1
            if left[later] == 0:
                heapq.heappush(ready, later)
    if len(order) < len(nodes):
        return  # a circle: the reader says which value is missing
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies[number] for number in order)
