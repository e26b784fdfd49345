"""solver.prototxt, learning-rate policies and the update rule, against Caffe's own sentences."""

import math

import numpy as np
import pytest
from segtwin.architectures import Parameter
from segtwin.errors import SolverError
from segtwin.solver import LIGHT, ORDER, PUBLISHED, Solver

# The comment over GetLearningRate in sgd_solver.cpp, worked out by hand.
RATES = {
    "fixed": (Solver(0.5), {0: 0.5, 10**6: 0.5}),
    "step": (Solver(0.5, "step", gamma=0.1, stepsize=3), {0: 0.5, 2: 0.5, 3: 0.05, 5: 0.05, 6: 0.005}),
    "multistep": (
        Solver(0.5, "multistep", gamma=0.1, stepvalue=(2, 5)),
        {1: 0.5, 2: 0.05, 4: 0.05, 5: 0.005, 99: 0.005},
    ),
    "exp": (Solver(0.5, "exp", gamma=0.5), {0: 0.5, 1: 0.25, 3: 0.0625}),
    "inv": (Solver(0.5, "inv", gamma=2.0, power=0.5), {0: 0.5, 4: 0.5 / 3}),
    "poly": (Solver(0.5, "poly", power=2.0, max_iter=10), {0: 0.5, 5: 0.125, 10: 0.0}),
    "sigmoid": (Solver(0.5, "sigmoid", gamma=0.1, stepsize=5), {5: 0.25, 15: 0.5 / (1 + math.e**-1)}),
}


@pytest.mark.parametrize("policy", RATES)
def test_learning_rates(policy: str) -> None:
    solver, rates = RATES[policy]
    for step, rate in rates.items():
        assert solver.learning_rate(step) == pytest.approx(rate, rel=1e-14), step


def test_poly_has_no_rate_beyond_its_end() -> None:
    with pytest.raises(SolverError, match="'poly' ends at max_iter, 10"):
        RATES["poly"][0].learning_rate(11)


def test_sigmoid_does_not_overflow() -> None:
    assert Solver(1.0, "sigmoid", gamma=1.0, stepsize=2000).learning_rate(0) == 0.0


def test_two_steps_by_hand() -> None:
    """w = 2, gradients 10 then 20 over iter_size 2, decay 0.5, lr_mult 2, rates 0.1 then 0.01."""
    solver = Solver(0.1, "exp", gamma=0.1, momentum=0.5, weight_decay=0.5, iter_size=2)
    parameters = [Parameter("a", (1,), 2, 1, 0.0), Parameter("b", (1,), 1, 0, 0.0), Parameter("c", (1,), 0, 1, 0.0)]
    weights = {name: np.array([2.0]) for name in "abc"}
    slopes = {name: np.array([10.0]) for name in "abc"}
    one, history = solver.updated(weights, {}, slopes, parameters, 0)
    assert history["a"] == pytest.approx(0.1 * 2 * (5 + 1))
    assert one["a"] == pytest.approx(2 - 1.2)
    assert one["b"] == pytest.approx(2 - 0.1 * 5)
    two, history = solver.updated(one, history, {name: 2 * slope for name, slope in slopes.items()}, parameters, 1)
    assert history["a"] == pytest.approx(0.5 * 1.2 + 0.01 * 2 * (10 + 0.5 * 0.8))
    assert two["a"] == pytest.approx(0.8 - history["a"])
    assert two["c"] is weights["c"]


TEXT = """
# lr for unnormalized softmax
train_net: "train.prototxt"  test_net: 'val.prototxt'
test_iter: 736
test_interval: 999999999 # never
display: 20
average_loss: 20
lr_policy: "multistep"
base_lr: .5e-9; gamma: 0.1
stepvalue: 100, stepvalue: 200
momentum: 0.99
iter_size: 1
max_iter: 100000
weight_decay: 0.0005
snapshot: 4000
snapshot_prefix: "snap \\"shot\\"/train"
test_initialization: false
solver_mode: GPU
type: "SGD"
regularization_type: "L2"
random_seed: 7
"""


def test_a_solver_prototxt_is_read_and_written() -> None:
    solver = Solver.from_prototxt(TEXT)
    assert solver.base_lr == 5e-10
    assert (solver.train_net, solver.test_net) == ("train.prototxt", "val.prototxt")
    assert solver.stepvalue == (100, 200)
    assert solver.snapshot_prefix == 'snap "shot"/train'
    assert not solver.test_initialization
    assert Solver.from_prototxt(solver.prototxt()) == solver
    assert "stepvalue: 100\nstepvalue: 200\n" in solver.prototxt()
    assert "test_initialization: false\n" in solver.prototxt()


@pytest.mark.parametrize("solver", [*PUBLISHED.values(), LIGHT])
def test_every_solver_survives_its_text(solver: Solver) -> None:
    assert Solver.from_prototxt(solver.prototxt()) == solver


def test_every_field_has_a_place_in_the_text() -> None:
    from dataclasses import fields

    assert sorted(ORDER) == sorted(field.name for field in fields(Solver))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base_lr: 1\ntype: "Adam"', "line 2 of the solver: type is Adam; here it is SGD"),
        ("base_lr: 1 solver_type: NESTEROV", "solver_type is NESTEROV"),
        ('base_lr: 1 regularization_type: "L1"', "regularization_type is L1; here it is L2"),
        ("base_lr: 1 clip_gradients: 35", "clip_gradients is not built here"),
        ("base_lr: 1 momentm: 3", "there is no field 'momentm'; did you mean momentum"),
        ("base_lr: 1\nbase_lr: 2", "line 2 of the solver: base_lr a second time"),
        ("momentum: 0.9", "a solver needs base_lr"),
        ("base_lr: fast", "base_lr is fast; it is a number"),
        ("base_lr: 1 max_iter: 1.5", "max_iter is 1.5; it is a whole number"),
        ("base_lr: 1 test_initialization: 0", "it is true or false"),
        ("net_param { name: 1 }", "line 1 of the solver is no field: net_param"),
        ("base_lr", "is no field: base_lr"),
        ('base_lr: 1 net: "unfinished', "is no field: net"),
        ('base_lr: 1 lr_policy: "step"', "'step' needs gamma and stepsize"),
        ('base_lr: 1 lr_policy: "cosine"', "there is no lr_policy 'cosine'"),
        ("base_lr: -1", "base_lr is -1.0; it is a number of at least 0"),
        ("base_lr: nan", "base_lr is nan"),
        ("base_lr: 1 iter_size: 0", "iter_size is 0; it is at least 1"),
        ('base_lr: 1 lr_policy: "multistep" gamma: 1 stepvalue: 5 stepvalue: 3', "its values do not fall"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(text: str, message: str) -> None:
    with pytest.raises(SolverError) as caught:
        Solver.from_prototxt(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
