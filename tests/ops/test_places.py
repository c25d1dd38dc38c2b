"""Places in dictionaries, looked at by native code: what is noticed, and that what they are made of lives."""

import gc
from collections import OrderedDict

import torch

from spikeconv.ops.places import NOTHING, Place, Places


def test_what_is_noticed() -> None:
    module = torch.nn.Linear(2, 2)
    weight, hooks = module.weight, OrderedDict[int, object]()
    observers: list[object] = []
    places = [
        Place(module._parameters, "weight", weight),
        Place(module._buffers, "scale", NOTHING),
        Place(vars(module), "in_features", module.in_features),
        Place(vars(module), "bias_of", NOTHING),
    ]
    held = Places(places, empty=[hooks, observers], read_next=[weight])
    assert held.hold()
    with torch.no_grad():
        module.weight.add_(1)  # the same object: in what address it lies is looked at elsewhere
    assert held.hold()

    module.weight = torch.nn.Parameter(weight.detach())  # equal, but another
    assert not held.hold()
    module.weight = weight
    assert held.hold()
    del module._parameters["weight"]
    assert not held.hold()
    module._parameters["weight"] = weight

    module.register_buffer("scale", None)  # None is something
    assert not held.hold()
    del module._buffers["scale"]

    for container, put, take in (
        (hooks, lambda: hooks.update({1: print}), hooks.clear),
        (observers, lambda: observers.append(print), observers.clear),
    ):
        assert held.hold()
        put()
        assert container and not held.hold()
        take()
    assert held.hold()
    assert Places([]).hold() and Places([Place({"none": None}, "none", None)]).hold()


def test_what_they_are_made_of_lives() -> None:
    places = (Place({f"{i}:": str(i)}, f"{i}?", NOTHING) for i in range(1000))  # names that nobody else holds
    held = Places(places, empty=({} for _ in range(1000)))
    gc.collect()
    others = [{f"{i}?": object()} for i in range(4000)]  # where freed ones were, one would be found
    assert held.hold() and others
