"""The models again in PyTorch, to run an export there and to test the JAX ones against."""

from bridge.twin.models import TWINS as TWINS
from bridge.twin.models import Memory as Memory
from bridge.twin.models import twin as twin
