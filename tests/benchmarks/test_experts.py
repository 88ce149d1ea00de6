"""Controls cost what the plan costs, and every start computes what it says."""

import dataclasses
import functools

from benchmarks.experts import models, plan
from benchmarks.experts.run import _parameters
from benchmarks.peers.models import MMRec

CONFIG = dataclasses.replace(models.config_of(50, 8, 2, 16), num_heads=2, dropout=0.0)


def test_the_wider_base_has_as_many_parameters_as_the_fusion():
    wider = _parameters(functools.partial(MMRec, plan.WIDER))
    fused = _parameters(functools.partial(models.Fused, plan.CONFIG))
    assert abs(wider / fused - 1) < 0.03
