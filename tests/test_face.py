"""What `import cotune` offers: light, documented, and what its examples say."""

import doctest
import subprocess
import sys

import cotune
import pytest
from cotune import face
from cotune.errors import UserError


def test_the_examples_hold() -> None:
    found = doctest.testmod(face, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted >= 3
    assert not found.failed


def test_every_name_is_there_and_documented() -> None:
    for name in cotune.__all__:
        assert getattr(cotune, name).__doc__, name
        assert name in dir(cotune)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cotune.nothing


def test_the_import_is_light_and_offline() -> None:
    """A notebook that imports it has loaded nothing heavy, and nothing that is loaded later reports anywhere."""
    code = (
        "import sys, os, cotune; "
        "print(sorted({'torch', 'flwr', 'ray', 'hydra', 'pydantic', 'numpy'} & set(sys.modules)), "
        "os.environ['FLWR_TELEMETRY_ENABLED'], os.environ['HF_HUB_OFFLINE'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "0", "1"]


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0.0}, {"units": 0}, {"rounds": -1}, {"sample_rate": 1.5}, {"steps_per_round": 0}]
)
def test_a_plan_out_of_range_is_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give a"):
        cotune.plan_privacy(**{"epsilon": 8.0, "units": 100, "rounds": 5, **wrong})  # type: ignore[arg-type]
