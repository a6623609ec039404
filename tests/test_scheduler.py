"""FlowMatchScheduler against the original's numbers."""

from __future__ import annotations

import json

import pytest
import torch

from src.errors import InputError
from src.schedulers.flow_match import FlowMatchScheduler
from tests.golden_data import GOLDEN

DATA = json.loads((GOLDEN / "scheduler.json").read_text())
# Sigmas are a handful of float32 operations; timesteps are 1000 times as large.
SIGMA, TIMESTEP = 1e-6, 1e-3


def check(scheduler: FlowMatchScheduler, expected: dict) -> None:
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(expected["sigmas"]), rtol=0, atol=SIGMA)
    torch.testing.assert_close(scheduler.timesteps, torch.tensor(expected["timesteps"]), rtol=0, atol=TIMESTEP)


def test_construction():
    numbers = {k: v for k, v in DATA["constructor"].items() if k not in ("inverse_timesteps", "reverse_sigmas")}
    check(FlowMatchScheduler(**numbers), DATA["after_construction"])
    check(FlowMatchScheduler(), DATA["after_construction"])


@pytest.mark.parametrize("case", DATA["cases"], ids=lambda c: f"{c['num_inference_steps']}-{c['denoising_strength']}")
def test_set_timesteps(case):
    scheduler = FlowMatchScheduler()
    scheduler.set_timesteps(case["num_inference_steps"], case["denoising_strength"], case["shift"])
    check(scheduler, case)


def prepared(case: dict) -> FlowMatchScheduler:
    scheduler = FlowMatchScheduler()
    scheduler.set_timesteps(case["num_inference_steps"], shift=case.get("shift", 5.0))
    return scheduler


@pytest.mark.parametrize("case", DATA["step"])
def test_step(case):
    got = prepared(case).step(torch.tensor(case["model_output"]), case["timestep"], torch.tensor(case["sample"]))
    torch.testing.assert_close(got, torch.tensor(case["prev_sample"]), rtol=0, atol=SIGMA)


@pytest.mark.parametrize("case", DATA["add_noise"])
def test_add_noise(case):
    got = prepared(case).add_noise(
        torch.tensor(case["original"]), torch.tensor(case["noise"]), torch.tensor(case["timestep"])
    )
    torch.testing.assert_close(got, torch.tensor(case["result"]), rtol=0, atol=SIGMA)


def test_one_step_is_noise_minus_velocity():
    """The pipelines write this out; the scheduler must agree with them exactly."""
    scheduler = FlowMatchScheduler(num_inference_steps=1)
    noise, velocity = torch.randn(2, 3, 4).unbind(0)
    assert torch.equal(scheduler.step(velocity, scheduler.timesteps[0], noise), noise - velocity)


def test_a_rounded_timestep_finds_its_level():
    scheduler = FlowMatchScheduler(num_inference_steps=4)
    sample = torch.ones(2)
    half = scheduler.timesteps[2].to(torch.bfloat16)
    assert half != scheduler.timesteps[2]
    assert torch.equal(scheduler.step(sample, half, sample), scheduler.step(sample, scheduler.timesteps[2], sample))


@pytest.mark.parametrize(("steps", "strength"), [(0, 1.0), (-1, 1.0), (4, 0.0), (4, 1.5)])
def test_bad_numbers_are_refused(steps, strength):
    with pytest.raises(InputError, match=str(strength if steps > 0 else steps)):
        FlowMatchScheduler().set_timesteps(steps, strength)
