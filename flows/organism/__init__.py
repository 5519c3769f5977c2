"""The flow language: organism.yaml to an `Organism`, without Django."""

from flows.organism.validate import OrganismInvalid, load, validate

__all__ = ["OrganismInvalid", "load", "validate"]
