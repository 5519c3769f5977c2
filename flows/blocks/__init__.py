"""The blocks that flows are made of, a module each, and the catalogue of them."""

from flows.blocks.registry import catalogue, get_block, nearest

__all__ = ["catalogue", "get_block", "nearest"]
