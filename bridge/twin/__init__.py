"""The same models in PyTorch, to run exported files there and to test the JAX models."""

from bridge.twin.models import TWINS as TWINS
from bridge.twin.models import twin as twin
from bridge.twin.state import Memory as Memory
