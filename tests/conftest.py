"""Fixtures that every suite shares; each lives in its own module."""

from hypothesis import HealthCheck, Phase, settings

pytest_plugins = ["tests.fixtures.redis", "tests.fixtures.kafka", "tests.fixtures.texts"]

# Machines are noisy: how long an example takes says nothing. A failure prints how to repeat it.
settings.register_profile(
    "sluicegate", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
# For `make mutants`, which needs to know only that a test fails.
settings.register_profile(
    "unshrunk", settings.get_profile("sluicegate"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("sluicegate")
