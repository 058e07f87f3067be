"""Every setting: its name, unit, default and where it may come from."""

from sluicegate.settings.load import load_settings
from sluicegate.settings.model import (
    HttpSettings,
    LimiterSettings,
    LimitSettings,
    PriceSettings,
    ProviderFormat,
    ProviderSettings,
    ReplaySettings,
    RetrySettings,
    Settings,
    StreamSettings,
    TopicsSettings,
    WorkerSettings,
)
from sluicegate.settings.routes import Route
from sluicegate.settings.servers import KafkaSettings, RedisSettings, SaslMechanism, SecurityProtocol

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
    "SaslMechanism",
    "SecurityProtocol",
    "Settings",
    "StreamSettings",
    "TopicsSettings",
    "WorkerSettings",
    "load_settings",
]
