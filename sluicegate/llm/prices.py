"""What a model's tokens cost: the settings' own prices first, else the table that `genai-prices` ships.

That table is as old as the installed package; nothing is ever fetched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from sluicegate.errors import ConfigurationError
from sluicegate.settings import ProviderFormat, Route, Settings

# Small, so that of prices which rise with the prompt's length the first one is found.
_SAMPLE_TOKENS = 1_000
_SAMPLES_PER_MILLION = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens. What a provider takes off for cached input is not known here."""

    input_dollars_per_million: float
    output_dollars_per_million: float

    def micro_dollars(self, input_tokens: int, output_tokens: int) -> int:
        """Return the price of a call in millionths of a dollar, rounded up."""
        micro_dollars = (
            input_tokens * self.input_dollars_per_million + output_tokens * self.output_dollars_per_million
        )
        # 50 x 1.1 is 55.00000000000001 in binary: that is no fifty-sixth.
        return math.ceil(round(micro_dollars, 6))


def price_of(settings: Settings, route: Route) -> Price | None:
    """Return what the route's model costs; None when nobody knows."""
    own = settings.prices.get(f"{route.provider}/{route.model}")
    if own is not None:
        return Price(
            input_dollars_per_million=own.input_dollars_per_million,
            output_dollars_per_million=own.output_dollars_per_million,
        )
    provider = settings.providers[route.provider]
    return _listed_price(provider.base_url, provider.format, route.model)


def required_price(settings: Settings, route: Route) -> Price | None:
    """Return the price that the route's limits need: None when they count no dollars.

    Raises ConfigurationError, which says what to write, when they do and the price is not known.
    """
    limits = settings.limits_for(route.provider, route.model)
    if limits is None or limits.dollars_per_day is None:
        return None
    price = price_of(settings, route)
    if price is None:
        name = f"{route.provider}/{route.model}"
        raise ConfigurationError(
            f'limits."{route.scope}".dollars_per_day: nobody knows what {name} costs; '
            f'write [prices."{name}"] with input_dollars_per_million and output_dollars_per_million'
        )
    return price


@cache
def _listed_price(base_url: str, wire_format: ProviderFormat, model: str) -> Price | None:
    """Look the model up at the vendor whose address it is, else at the one who made the wire format."""
    # Here and not above: the import takes 0.3 s and 30 MB, and most processes count no dollars.
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=_SAMPLE_TOKENS, output_tokens=_SAMPLE_TOKENS)
    try:
        found = calc_price(usage, model, provider_api_url=base_url)
    except LookupError:
        try:
            found = calc_price(usage, model, provider_id=wire_format.value)
        except LookupError:
            return None
    if found.total_price == 0:
        return None  # it is charged by the minute or the picture; who has it for nothing says so
    return Price(
        input_dollars_per_million=float(found.input_price) * _SAMPLES_PER_MILLION,
        output_dollars_per_million=float(found.output_price) * _SAMPLES_PER_MILLION,
    )
