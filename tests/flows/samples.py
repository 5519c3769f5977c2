"""YAML and bodies that several of these tests use."""

from typing import Any

from rest_framework.test import APIClient

SOUND = """\
organism:
  name: sample
listeners:
  - name: note
    handler: blox.transform
    config: {value: "{{ payload }}"}
    peers: [done]
  - name: done
    handler: blox.output
"""
CHANGED = SOUND.replace("name: sample", "name: changed")
BROKEN = SOUND.replace("peers: [done]", "peers: [nobody]")

# What the camelCase layer must not touch: keys that a rewriting would change.
USERS_KEYS = {
    "userID": 1,
    "ABCD": {"inner_key": [{"deepKey": 1, "deep_key": 2}]},
    "X-Request-Id": "x",
    "snake_key": True,
    "__typename": None,
    "a1": 1.5,
}
CANVAS: dict[str, Any] = {
    "nodes": [
        {
            "id": "note",
            "type": "listener",
            "position": {"x": 1, "y": -2.5},
            "data": USERS_KEYS,
            "dragging": False,
            "extra_key": {"alsoThis": 1},
        }
    ],
    "edges": [{"id": "e1", "source": "note", "target": "done", "sourceHandle": None, "animated": True}],
    "viewport": {"x": 0, "y": 0, "zoom": 1.25},
}


def make_flow(api: APIClient, **body: Any) -> dict[str, Any]:
    """The `Flow` that POST /flows answered."""
    answer = api.post("/api/v1/flows", {"name": "Orders", "organismYaml": SOUND, **body})
    assert answer.status_code == 201, answer.content
    return answer.json()


def start(api: APIClient, flow: dict[str, Any]) -> dict[str, Any]:
    answer = api.post(f"/api/v1/flows/{flow['id']}/start")
    assert answer.status_code == 200, answer.content
    return answer.json()
