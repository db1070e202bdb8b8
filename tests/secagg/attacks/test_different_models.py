"""Different models: the server gives each organization a model of its own, so that all updates but one are nothing.

Attacker: a coordinator with its genuine key. A model with dead units has the gradient zero; the "sum" is then the
victim's update, exactly. Stopped three times: each organization holds the plan's model hash against the bytes that it
loaded (`plan.model`); the hash is in ctx0, so adverts under another plan are refused (`adverts.context`); and the
context is in the keys of every box and mask (`share.seal`, `sum.control`).
Source: Pasquini, Francati, Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency".
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Build = Callable[..., Any]
DEAD = b"dead units, all gradients zero.."


def test_the_gain_of_one_dead_model(federation: Build) -> None:
    """Everybody agreed on a model that is dead for all but the victim: that is not for this protocol to see."""
    fed = federation(4)
    fed.vectors[1:] = 0
    assert np.allclose(fed.play().values, fed.vectors[0], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "code"), [("model_hash", "plan.model"), ("schema_hash", "plan.schema"), ("dp_hash", "plan.privacy")]
)
def test_first_what_is_loaded_here(federation: Build, refusal: Build, name: str, code: str) -> None:
    """The hash is of what is loaded. Where the dead model itself was loaded from the server, the next two hold."""
    fed = federation(4)
    other = fed.plan(**{name: DEAD}).sign(fed.coordinator_key)
    assert refusal(fed.begin, 0, other) == code
    assert fed.begin(0, other, **{name: DEAD})


def dead_for_all_but(fed: Any, victim: int) -> Any:
    """Each organization begins under the plan that fits the model it was given."""
    dead = fed.plan(model_hash=DEAD).sign(fed.coordinator_key)
    for i in range(fed.n):
        fed.vectors[i] *= i == victim
    return {i: fed.begin(i) if i == victim else fed.begin(i, dead, model_hash=DEAD) for i in range(fed.n)}


def test_then_adverts_of_another_plan(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    fed.organizations = dead_for_all_but(fed, 0)
    taken = [fed.coordinator.add_advert(i, organization.advert) for i, organization in fed.organizations.items()]
    assert taken == [True, False, False, False]
    assert fed.coordinator.rejections[-1].code == "adverts.context"
    assert refusal(fed.coordinator.close_adverts) == "round.too_few"


def test_then_boxes_that_do_not_open(federation: Build, without: Build, refusal: Build) -> None:
    """Every check of a context is off, at the server and at the organizations: the keys of the boxes know it too."""
    fed = federation(4)
    fed.organizations = dead_for_all_but(fed, 0)
    without("adverts.context", "shares.context", "message.context", "shares.root", "shares.leaf")
    assert all(fed.coordinator.add_advert(i, organization.advert) for i, organization in fed.organizations.items())
    bundle = fed.coordinator.close_adverts()
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_shares(i, organization.share(bundle))
    inboxes = fed.coordinator.close_shares()
    assert refusal(fed.organizations[0].mask, inboxes[0], fed.vectors[0]) == "share.seal"


def test_without_a_context_the_victim_is_read(federation: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key schedule that knows nothing of the plan, as in SecAgg+: the whole round passes."""
    monkeypatch.setattr("cotune.secagg.plan.context0", lambda body: bytes(32))
    fed = federation(4)
    organizations = dead_for_all_but(fed, 0)
    fed.begin = lambda index: organizations[index]
    assert np.allclose(fed.play().values, fed.vectors[0], atol=1e-4)
    assert fed.vectors[0].any()
