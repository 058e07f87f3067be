"""Every setting: its name, unit, default and where it may come from."""

from sluicegate.settings.load import load_settings
from sluicegate.settings.model import (
    HttpSettings,
    KafkaSettings,
    LimiterSettings,
    LimitSettings,
    PriceSettings,
    ProviderFormat,
    ProviderSettings,
    RedisSettings,
    ReplaySettings,
    RetrySettings,
    Settings,
    StreamSettings,
    TopicsSettings,
    WorkerSettings,
)
from sluicegate.settings.routes import Route

__all__ = [
    "HttpSettings",
    "KafkaSettings",
    "LimitSettings",
    "LimiterSettings",
    "PriceSettings",
    "ProviderFormat",
    "ProviderSettings",
    "RedisSettings",
    "ReplaySettings",
    "RetrySettings",
    "Route",
    "Settings",
    "StreamSettings",
    "TopicsSettings",
    "WorkerSettings",
    "load_settings",
]
