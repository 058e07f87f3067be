"""Fixtures that every suite shares; each lives in its own module."""

pytest_plugins = ["tests.fixtures.redis", "tests.fixtures.kafka", "tests.fixtures.texts"]
