"""The React Flow canvas: checked for its shape, and kept key for key as it came, whatever else stands in it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_BYTES = 1024 * 1024


class CanvasPart(BaseModel):
    """Strict, so that what is stored already has the types that a client reads; extra keys are React Flow's own."""

    model_config = ConfigDict(extra="allow", strict=True)


class CanvasNode(CanvasPart):
    id: str
    type: str
    position: dict[str, float]
    data: dict[str, Any]


class CanvasEdge(CanvasPart):
    id: str
    source: str
    target: str
    sourceHandle: str | None = None
    targetHandle: str | None = None


class CanvasState(CanvasPart):
    """The nodes, edges and viewport that draw a flow."""

    nodes: list[CanvasNode] = Field(max_length=5_000)
    edges: list[CanvasEdge] = Field(max_length=20_000)
    viewport: dict[str, float]


def problems(value: Any, *, limit: int = 20) -> list[str]:
    """What is wrong with a canvas, each with its place ("nodes.2.position.x"); empty when it is sound."""
    try:
        CanvasState.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return [f"{'.'.join(map(str, each['loc'])) or 'canvasState'}: {each['msg']}." for each in found[:limit]]
    return []
