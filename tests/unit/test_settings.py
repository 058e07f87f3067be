"""Settings: what is read, from where, and what is refused with which words."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import ConfigurationError
from sluicegate.limiter.api import Lane, Learn
from sluicegate.limiter.profiles import Profile
from sluicegate.settings import ProviderFormat, Route, Settings, load_settings
from sluicegate.settings.model import section_fields

NOTHING: Mapping[str, str] = {}
STREAM = "agent = 'a:b'\nmodel = 'm'\nprovider = 'main'"
BACKUP = "[providers.backup]\nbase_url = 'http://x/v1'\n[streams.documents]"
PRICES = "input_dollars_per_million = 1\noutput_dollars_per_million = 1"
# Keys that take any text at all.
ANY_TEXT = {
    ("streams", "documents", "model"),
    ("providers", "main", "api_key_file"),
    ("redis", "password_file"),
    ("http", "host"),
}

CONTRACT = """
[kafka]
bootstrap_servers = "127.0.0.1:9092"
group = "sluicegate"
session_timeout_s = 6
[topics]
partitions = 12
replication_factor = -1
retry_retention_s = 2592000
dlq_retention_s = 2592000
[redis]
url = "redis://127.0.0.1:6379/0"
[providers.main]
format = "openai"
base_url = "http://127.0.0.1:8089/v1"
api_key_file = "/run/secrets/main"
profile = "openai"
timeout_s = 60
[limits.main]
requests_per_minute = 3000
tokens_per_minute = 250000
[limiter]
bulk_share = 0.1
[streams.support-chat]
agent = "streams.support_chat:reply"
provider = "main"
model = "gpt-4o-mini"
lane = "interactive"
ordered = true
max_running = 200
max_attempts = 8
deadline_s = 86400
expires_after_s = 0
max_output_tokens = 512
[streams.documents]
agent = "streams.documents:index"
provider = "main"
model = "gpt-4o-mini"
lane = "bulk"
chunk_tokens = 1000
[retry]
in_place_max_s = 5
base_s = 1
cap_s = 3600
tiers_s = [5, 30, 120, 600, 3600]
horizon_s = 604800
[prices."main/gpt-4o-mini"]
input_dollars_per_million = 0.15
output_dollars_per_million = 0.60
[http]
host = "127.0.0.1"
port = 9464
[worker]
drain_s = 20
"""


def load(tmp_path: Path, text: str = "", environ: Mapping[str, str] = NOTHING) -> Settings:
    """Load settings from a file with this text."""
    path = tmp_path / "sluicegate.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ)


def refusal(tmp_path: Path, text: str = "", environ: Mapping[str, str] = NOTHING) -> str:
    """Return what the error says about a file that must be refused."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, environ)
    return str(caught.value)


def from_environment(**variables: str) -> Settings:
    """Load settings from variables alone, given without their prefix."""
    return load_settings(None, {f"SLUICEGATE_{name}": value for name, value in variables.items()})


# --- Defaults and files -----------------------------------------------------------------------------


def test_the_shipped_defaults_are_the_documented_sample(tmp_path: Path) -> None:
    """A file that spells out every documented key changes nothing but what has no default."""
    written = load(tmp_path, CONTRACT)
    shipped = load_settings(None, {})
    changed = {"api_key_file": None}
    assert written.limits.keys() == {"main"}
    assert written.prices.keys() == {"main/gpt-4o-mini"}
    assert written.providers["main"].model_copy(update=changed) == shipped.providers["main"]
    assert written.model_copy(update={"limits": {}, "prices": {}, "providers": shipped.providers}) == shipped


def test_a_section_merges_over_the_shipped_stream(tmp_path: Path) -> None:
    """One key in a shipped stream's section leaves the rest of it as it was."""
    settings = load(tmp_path, "[streams.support-chat]\nmax_running = 3")
    chat = settings.streams["support-chat"]
    assert (chat.max_running, chat.agent, chat.ordered) == (3, "streams.support_chat:reply", True)
    assert "documents" in settings.streams


def test_lanes_become_the_limiters_own_classes() -> None:
    """The word in the file is the priority class that the limiter knows."""
    streams = load_settings(None, {}).streams
    assert (streams["support-chat"].lane, streams["documents"].lane) == (Lane.INTERACTIVE, Lane.BULK)


def test_the_profile_follows_the_format_unless_it_is_given(tmp_path: Path) -> None:
    """A provider that speaks Anthropic's format is charged Anthropic's way."""
    other = '[providers.other]\nbase_url = "https://x/v1"\nprofile = "azure"'
    text = f'[providers.main]\nformat = "anthropic"\n{other}'
    providers = load(tmp_path, text).providers
    assert providers["main"].format is ProviderFormat.ANTHROPIC
    assert providers["main"].profile is Profile.ANTHROPIC
    assert (providers["other"].format, providers["other"].profile) == (ProviderFormat.OPENAI, Profile.AZURE)


def test_the_default_provider_is_absent_when_nobody_calls_it(tmp_path: Path) -> None:
    """Streams that all call another provider need no loopback address that nobody serves."""
    text = """
    [providers.acme]
    base_url = "https://llm.example/v1/"
    [streams.support-chat]
    provider = "acme"
    [streams.documents]
    provider = "acme"
    """
    providers = load(tmp_path, text).providers
    assert providers.keys() == {"acme"}
    assert providers["acme"].base_url == "https://llm.example/v1"


def test_the_most_specific_limits_apply_alone(tmp_path: Path) -> None:
    """A model with limits of its own does not share its provider's."""
    text = (
        '[limits.main]\nrequests_per_minute = 60\n[limits."main/big"]\ntokens_per_minute = 100\nburst_s = 0.2'
    )
    settings = load(tmp_path, text)
    big, small = settings.limits_for("main", "big"), settings.limits_for("main", "small")
    assert big is not None
    assert small is not None
    assert (big.requests_per_minute, big.tokens_per_minute, big.burst_s) == (None, 100, 0.2)
    assert small.requests_per_minute == 60
    assert [settings.scope_for("main", model) for model in ("big", "small")] == ["main/big", "main"]


def test_no_limits_section_means_unlimited() -> None:
    """Without a section there is nothing to enforce, and the scope is the provider's name."""
    settings = load_settings(None, {})
    assert settings.limits_for("main", "any") is None
    assert settings.scope_for("main", "any") == "main"


@pytest.mark.parametrize(
    "key",
    [
        "requests_per_minute",
        "tokens_per_minute",
        "input_tokens_per_minute",
        "output_tokens_per_minute",
        "requests_per_day",
        "tokens_per_day",
        "dollars_per_day",
        "concurrency",
    ],
)
def test_any_one_limit_makes_a_section(tmp_path: Path, key: str) -> None:
    """A section needs one limit, whichever; all that it does not name stays without one."""
    limits = load(tmp_path, f"[limits.main]\n{key} = 7").limits["main"]
    assert getattr(limits, key) == 7
    assert limits.model_fields_set == {key}
    assert (limits.strict_window_s, limits.largest_call_tokens, limits.learn) == (0, None, Learn.FOLLOW)


def test_a_streams_routes_are_its_own_and_then_its_fallbacks(tmp_path: Path) -> None:
    """A fallback without a model asks for the stream's; every route is booked on its own limits."""
    text = """
    [providers.main]
    [providers.backup]
    base_url = "https://backup.example/v1"
    [limits.backup]
    concurrency = 2
    [limits."backup/acme/large"]
    concurrency = 1
    [streams.documents]
    fallback = ["backup", "backup/acme/large", "main/small"]
    """
    settings = load(tmp_path, text)
    assert settings.streams["documents"].fallback_after_s == 5
    assert settings.routes("documents") == (
        Route(provider="main", model="gpt-4o-mini", scope="main"),
        Route(provider="backup", model="gpt-4o-mini", scope="backup"),
        Route(provider="backup", model="acme/large", scope="backup/acme/large"),
        Route(provider="main", model="small", scope="main"),
    )
    assert [route.provider for route in settings.routes("support-chat")] == ["main"]


def test_the_default_provider_can_be_a_fallback(tmp_path: Path) -> None:
    """A stream that calls another provider may fall back on the one that exists without a section."""
    text = """
    [providers.acme]
    base_url = "https://llm.example/v1"
    [streams.support-chat]
    provider = "acme"
    fallback = ["main/small"]
    [streams.documents]
    provider = "acme"
    """
    settings = load(tmp_path, text)
    assert [route.provider for route in settings.routes("support-chat")] == ["acme", "main"]


def test_an_unknown_stream_is_answered_with_the_nearest() -> None:
    """Asking for a stream that is not there names the one that was meant."""
    with pytest.raises(ConfigurationError, match="did you mean support-chat"):
        load_settings(None, {}).stream("suport-chat")


def test_the_redis_address_for_the_eye_has_no_credentials() -> None:
    """What is logged of the address names neither user, password nor options."""
    redis = from_environment(REDIS__URL="rediss://me:hunter2@cache:6380/1?password=hunter3").redis
    assert redis.public_url == "rediss://cache:6380/1"
    assert "hunter" not in repr(redis)


def test_every_setting_has_a_description() -> None:
    """A setting without a word on its meaning and unit is not finished."""
    sections = list(Settings.model_fields)
    fields = [(section, key, field) for section in sections for key, field in section_fields(section).items()]
    assert len(fields) > 40
    assert [f"{section}.{key}" for section, key, field in fields if not field.description] == []


# --- Environment ------------------------------------------------------------------------------------


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """The same key in both is taken from the environment."""
    environ = {"SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": "kafka-1:9092, kafka-2:9092"}
    settings = load(tmp_path, '[kafka]\nbootstrap_servers = "file:1"\ngroup = "g"', environ)
    assert settings.kafka.bootstrap_servers == "kafka-1:9092,kafka-2:9092"
    assert settings.kafka.group == "g"


def test_environment_names_sections_with_underscores() -> None:
    """SUPPORT_CHAT is the stream support-chat, never a second one."""
    settings = from_environment(STREAMS__SUPPORT_CHAT__MAX_RUNNING="7")
    assert settings.streams["support-chat"].max_running == 7
    assert settings.streams.keys() == {"support-chat", "documents"}


def test_environment_reaches_the_limits_of_one_model() -> None:
    """A section named PROVIDER/MODEL can be written too, as long as some stream calls that model."""
    settings = from_environment(LIMITS__MAIN_GPT_4O_MINI__TOKENS_PER_MINUTE="1000")
    assert settings.limits.keys() == {"main/gpt-4o-mini"}


def test_environment_reaches_the_limits_of_a_fallback() -> None:
    """A fallback is written as an array, and the model that it names may have limits of its own."""
    settings = from_environment(
        PROVIDERS__BACKUP__BASE_URL="http://x/v1",
        STREAMS__DOCUMENTS__FALLBACK='["backup/acme/large"]',
        LIMITS__BACKUP_ACME_LARGE__CONCURRENCY="3",
        LIMITS__BACKUP_ACME_LARGE__LEARN="lower",
    )
    assert settings.routes("documents")[1].scope == "backup/acme/large"
    assert settings.limits["backup/acme/large"].learn is Learn.LOWER


def test_environment_can_add_a_stream() -> None:
    """A stream that no file knows is spelt with dashes."""
    settings = from_environment(
        STREAMS__MY_STREAM__AGENT="mine:handle",
        STREAMS__MY_STREAM__PROVIDER="main",
        STREAMS__MY_STREAM__MODEL="4",
        STREAMS__MY_STREAM__LANE="bulk",
    )
    stream = settings.streams["my-stream"]
    assert (stream.agent, stream.model, stream.lane) == ("mine:handle", "4", Lane.BULK)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("KAFKA__GROUP", "2024", "2024"),
        ("KAFKA__GROUP", '"quoted"', "quoted"),
        ("KAFKA__GROUP", "true", "true"),
        ("KAFKA__INSTANCE_ID", "worker-0", "worker-0"),
        ("PROVIDERS__MAIN__API_KEY_FILE", "/run/secrets/1", Path("/run/secrets/1")),
        ("PROVIDERS__MAIN__API_KEY_FILE", "", None),
        ("PROVIDERS__MAIN__TIMEOUT_S", "2.5", 2.5),
        ("STREAMS__DOCUMENTS__ORDERED", "true", True),
        ("STREAMS__DOCUMENTS__TOPIC", "2024", "2024"),
        ("RETRY__TIERS_S", "[1, 2.5]", (1.0, 2.5)),
        ("LIMITS__MAIN__REQUESTS_PER_MINUTE", "600", 600),
    ],
)
def test_environment_values_are_read_for_what_the_key_holds(name: str, text: str, expected: object) -> None:
    """Text keys take digits as text; number keys take numbers; arrays are written as in TOML."""
    found: object = from_environment(**{name: text})
    for part in name.lower().split("__"):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    "name", ["SLUICEGATE_CONFIG", "SLUICEGATE_TEST_KAFKA", "SLUICEGATE_PORT", "OTHER__X"]
)
def test_environment_names_without_a_double_underscore_are_no_settings(name: str) -> None:
    """Service links and our own switches do not count as misspelt settings."""
    assert load_settings(None, {name: "tcp://1.2.3.4:5"}) == load_settings(None, {})


def test_the_settings_remember_that_the_environment_named_the_port(tmp_path: Path) -> None:
    """Only a port from the environment must be had: then a taken one is an error."""
    assert from_environment(HTTP__PORT="9464").http_port_from_environment
    assert not load(tmp_path, "[http]\nport = 9464").http_port_from_environment
    assert not from_environment(HTTP__HOST="0.0.0.0").http_port_from_environment


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "KAFKA__GROUP",
                "REDIS__URL",
                "RETRY__TIERS_S",
                "STREAMS__A__B",
                "HTTP__PORT",
                "X__Y",
                "__",
                "LIMITS__A",
            ]
        ).map(lambda name: f"SLUICEGATE_{name}"),
        st.text(max_size=30),
    )
)
def test_no_environment_crashes_the_loader(environ: dict[str, str]) -> None:
    """Whatever the variables hold, the answer is settings or a ConfigurationError."""
    try:
        load_settings(None, environ)
    except ConfigurationError as error:
        assert str(error)


# --- Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka]\nbootstrap_server = 'x:1'", "no such setting; did you mean bootstrap_servers?"),
        ("[kafk]\n", "kafk: there is no such setting; did you mean kafka?"),
        ("[streams.documents]\nchunk_token = 3", "no such setting; did you mean chunk_tokens?"),
        ("[streams.suport-chat]\nmax_running = 1", "did you mean support-chat?"),
        ("[streams.my]\nmodel = 'm'\nprovider = 'main'", "streams.my.agent: is missing"),
        (f"[streams.support_chat]\n{STREAM}", "lower-case letters, digits and dashes"),
        (f"[streams.relay]\n{STREAM}", "streams.relay: this name belongs to the relay"),
        ("[streams.documents]\nprovider = 'mian'", "no such [providers.*] section; did you mean main?"),
        ("[streams.documents]\nlane = 'fast'", "must be 'interactive' or 'bulk'"),
        ("[streams.documents]\nagent = 'streams.documents.index'", "package.module:function"),
        ("[streams.documents]\ntopic = 'a b'", "letters, digits, dots"),
        ("[streams.documents]\ntopic = '..'", "letters, digits, dots"),
        ("[streams.documents]\nresults_topic = 'documents'", "must differ from the input topic"),
        ("[streams.documents]\ntopic = 'sluicegate.audit'", "are for internal topics"),
        ("[providers.other]\nformat = 'openai'", "providers.other.base_url: is missing"),
        ("[providers.main]\nformat = 'mistral'", "must be 'openai' or 'anthropic'"),
        ("[providers.main]\nbase_url = 'ftp://x'", "http:// or https://"),
        ("[providers.main]\nbase_url = 'http://x:port'", "http:// or https://"),
        ("[providers.main]\nbase_url = 'http://x/v1?key=1'", "neither a credential nor a query"),
        ("[providers.main]\nbase_url = 'http://x/v1#key'", "neither a credential nor a query"),
        ("[providers.main]\nbase_url = 'http://me@x/v1'", "neither a credential nor a query"),
        ("[http]\nport = -1", "http.port"),
        ("[http]\nport = 65536", "http.port"),
        ("[streams.documents]\nmax_event_bytes = 67108865", "max_event_bytes"),
        ("[streams.documents]\nmax_attempts = 0", "max_attempts"),
        ("[limits.other]\nrequests_per_minute = 1", 'limits."other": there is no such [providers.*] section'),
        ("[limits.'main/']\nrequests_per_minute = 1", 'limits."main/": write it as "PROVIDER/MODEL"'),
        ("[limits.main]\nburst_s = 1", "sets no limit"),
        ("[limits.main]\nrequests_per_minute = 0", "must be greater than 0"),
        ("[limits.main]\nconcurrency = 0", "limits.main.concurrency: must be greater than or equal to 1"),
        ("[limits.main]\nconcurrency = 1.5", "limits.main.concurrency: must be a valid integer"),
        (
            "[limits.main]\nconcurrency = 1\nlearn = 'up'",
            "limits.main.learn: must be 'follow', 'lower' or 'off'",
        ),
        ("[limits.main]\nconcurrency = 1\nlargest_call_tokens = 9", "no effect without strict_window_s"),
        ("[limits.main]\nstrict_window_s = 60", "sets no limit"),
        ("[streams.documents]\nfallback = ['mian']", "fallback.0: there is no such [providers.*] section"),
        ("[streams.documents]\nfallback = ['main']", "fallback.0: the stream's calls go there already"),
        (f"{BACKUP}\nfallback = ['backup/']", 'fallback.0: write it as "PROVIDER" or "PROVIDER/MODEL"'),
        (f"{BACKUP}\nfallback = ['backup', 'backup/gpt-4o-mini']", "fallback.1: the stream's calls go there"),
        ("[streams.documents]\nfallback = 'main'", "streams.documents.fallback: must be a valid tuple"),
        ("[providers.'a/b']\nbase_url = 'http://x'", "names are letters, digits, dots"),
        ("[limits.main]\nrequests_per_minute = nan", "limits.main.requests_per_minute"),
        (f"[prices.main]\n{PRICES}", 'write it as "PROVIDER/MODEL"'),
        ("[retry]\ntiers_s = [5, 5]", "tiers_s must ascend"),
        ("[retry]\ntiers_s = []", "retry.tiers_s"),
        ("[retry]\ntiers_s = [1, '2']", "retry.tiers_s.1: must be a valid number"),
        ("[retry]\nbase_s = 10\ncap_s = 5", "base_s must not be above cap_s"),
        ("[retry]\nhorizon_s = 60", "cap_s must not be above horizon_s"),
        ("[topics]\nretry_retention_s = 86400", "horizon_s: must not be above topics.retry_retention_s"),
        ("[topics]\nreplication_factor = 0", "-1 (the broker's default) or at least 1"),
        ("[worker]\ndrain_s = true", "must be a valid number"),
        ("[worker]\ndrain_s = 301", "worker.drain_s"),
        ("[http]\nport = '80'", "must be a valid integer"),
        ("[redis]\nurl = 'http://x'", "redis://host:6379/0"),
        ("[kafka]\nbootstrap_servers = 'kafka://x:1'", "without a scheme"),
        ("[kafka]\nbootstrap_servers = 'x:1,'", "without a scheme"),
        ("[kafka]\ninstance_id = 'a b'", "kafka.instance_id: must be 1 to 249 letters"),
        ("kafka = 3", "kafka: must be a table, written as [kafka]"),
        ("streams = 3", "streams: must be a table"),
        ("providers = 3", "providers: must be a table"),
        ("[streams]\ndocuments = 3", "streams.documents: must be a table"),
        ("[kafka", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_way_out(tmp_path: Path, text: str, words: str) -> None:
    """Every refusal names the key and what to write instead."""
    assert words in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SLUICEGATE_KAFK__GROUP", "SLUICEGATE_KAFK__GROUP: there is no such section; did you mean kafka?"),
        (
            "SLUICEGATE_KAFKA__GRUOP",
            "kafka.gruop (from SLUICEGATE_KAFKA__GRUOP): there is no such setting; did",
        ),
        ("SLUICEGATE_KAFKA__GROUP__NAME", "write it as SLUICEGATE_SECTION__KEY"),
        ("SLUICEGATE_STREAMS__MAX_RUNNING", "write it as SLUICEGATE_SECTION__NAME__KEY"),
        ("SLUICEGATE_STREAMS__SUPORT_CHAT__MODEL", "did you mean support-chat?"),
    ],
)
def test_a_misspelt_variable_is_refused_by_its_name(name: str, words: str) -> None:
    """A typo in the environment is as loud as one in the file."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {name: "x"})
    assert words in str(caught.value)


def test_a_variable_that_means_two_sections_is_refused(tmp_path: Path) -> None:
    """Which of two providers a_b and a-b is meant cannot be told from A_B."""
    text = '[providers.a_b]\nbase_url = "http://x"\n[providers.a-b]\nbase_url = "http://y"'
    words = refusal(tmp_path, text, {"SLUICEGATE_PROVIDERS__A_B__TIMEOUT_S": "1"})
    assert "means more than one of a-b, a_b" in words


def test_a_variable_into_what_is_no_table_is_refused(tmp_path: Path) -> None:
    """A file that has a value where the variable needs a table is named as the fault."""
    assert "where a table belongs" in refusal(tmp_path, "kafka = 3", {"SLUICEGATE_KAFKA__GROUP": "x"})


def test_bounds_that_meet_are_accepted(tmp_path: Path) -> None:
    """Equal is not above: a constant backoff and a horizon of exactly the cap are choices, not mistakes."""
    retry = load(
        tmp_path, "[retry]\nbase_s = 60\ncap_s = 60\nhorizon_s = 60\n[topics]\nretry_retention_s = 60"
    )
    assert (retry.retry.base_s, retry.retry.horizon_s) == (60, 60)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Nobody has to start a program five times to learn of five typos."""
    words = refusal(tmp_path, "[kafka]\nx = 1\n[http]\ny = 2\n[worker]\nz = 3")
    assert len(words.splitlines()) == 3


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A file that was asked for and is not there is never taken for an empty one."""
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_settings(tmp_path / "none.toml", {})
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_settings(tmp_path, {})


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are refused before they are parsed."""
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(path, {})


SASL = "sasl_username = 'u'\nsasl_password_file = '/p'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'", "needs sasl_username and sasl_password_file"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'\nsasl_username = 'u'", "needs sasl_username and"),
        (f"[kafka]\n{SASL}", "need security_protocol SASL_SSL or"),
        (f"[kafka]\nsecurity_protocol = 'SSL'\n{SASL}", "need security_protocol SASL_SSL or"),
        (f"[kafka]\nsecurity_protocol = 'SASL_PLAINTEXT'\nsasl_mechanism = 'PLAIN'\n{SASL}", "unencrypted"),
        ("[kafka]\nca_file = '/ca'", "need security_protocol SSL or SASL_SSL"),
        (f"[kafka]\nsecurity_protocol = 'SASL_PLAINTEXT'\n{SASL}\nca_file = '/ca'", "need security_protocol"),
        ("[kafka]\nsecurity_protocol = 'SSL'\ncertificate_file = '/c'", "give both or neither"),
        ("[kafka]\nsecurity_protocol = 'SSL'\nkey_password_file = '/p'", "has no effect without key_file"),
        ("[kafka]\nsecurity_protocol = 'ssl'", "must be 'PLAINTEXT', 'SSL'"),
        ("[kafka]\nsasl_password = 'p'", "did you mean sasl_password_file"),
        ("[redis]\nusername = 'u'", "username needs password_file"),
        ("[redis]\nurl = 'redis://u:p@h'\npassword_file = '/p'", "holds a user or password already"),
        ("[redis]\nca_file = '/ca'", "need a rediss:// url"),
        ("[redis]\nurl = 'rediss://h?ssl_cert_reqs=none'", "no ssl_ options"),
    ],
)
def test_a_door_that_is_half_locked_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Keys that would have no effect, or leave a password readable, never pass for security."""
    assert words in refusal(tmp_path, text)


def test_files_of_secrets_may_come_by_environment_and_be_taken_back_by_it(tmp_path: Path) -> None:
    """An empty variable is no file; a name of digits stays a name."""
    path = tmp_path / "sluicegate.toml"
    path.write_text("[redis]\nusername = '1'\npassword_file = '/p'")
    variables = {"SLUICEGATE_REDIS__USERNAME": "2024", "SLUICEGATE_KAFKA__CA_FILE": ""}
    settings = load_settings(path, variables)
    assert (settings.redis.username, settings.redis.password_file) == ("2024", Path("/p"))
    assert settings.kafka.ca_file is None


def _every_key() -> list[tuple[str, ...]]:
    named = {"providers": "main", "limits": "main", "streams": "documents", "prices": "main/gpt-4o-mini"}
    return [
        (section, named[section], key) if section in named else (section, key)
        for section in Settings.model_fields
        for key in (*section_fields(section), "unknown_key")
    ]


@pytest.mark.parametrize("path", _every_key(), ids="/".join)
@pytest.mark.parametrize("canary", ["'sk-canary://me:sk-canary@h h'", "['sk-canary']", "{a = 'sk-canary'}"])
def test_no_error_quotes_a_value(tmp_path: Path, path: tuple[str, ...], canary: str) -> None:
    """A credential that lands in the wrong key never shows in an error or in what it was raised from."""
    table, key = path[:-1], path[-1]
    header = ".".join(f'"{part}"' for part in table)
    error: BaseException | None = None
    try:
        load(tmp_path, f"[{header}]\n{key} = {canary}")
    except ConfigurationError as refused:
        error = refused
    assert (error is None) == (path in ANY_TEXT and canary.startswith("'"))
    while error is not None:
        assert "sk-canary" not in f"{error!s} {error!r}"
        error = error.__cause__


@pytest.mark.parametrize("line", ["url = sk-canary", "url = 'sk-canary", 'url = "sk-canary\\q"', "sk-canary"])
def test_no_syntax_error_quotes_a_value(tmp_path: Path, line: str) -> None:
    """A file that is no TOML is refused by position alone."""
    words = refusal(tmp_path, f"[redis]\n{line}")
    assert "is not valid TOML" in words
    assert "sk-canary" not in words


TOML_VALUES = st.sampled_from(
    [
        "1",
        "-1",
        "0",
        "1e400",
        "nan",
        "-inf",
        "true",
        "''",
        "'x'",
        "[]",
        "[[1], {a = 1}]",
        "{}",
        "1979-05-27",
        "07:32:00",
    ]
)


@given(
    section=st.sampled_from([*Settings.model_fields, "other"]),
    name=st.sampled_from(["", ".main", ".documents", ".'main/x'", ".''", ".'ü'"]),
    key=st.sampled_from(
        sorted({key for section in Settings.model_fields for key in section_fields(section)})
    ),
    value=TOML_VALUES,
)
def test_no_toml_crashes_the_loader(section: str, name: str, key: str, value: str) -> None:
    """Any value under any key gives settings or a ConfigurationError, never another error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sluicegate.toml"
        path.write_text(f"[{section}{name}]\n{key} = {value}", encoding="utf-8")
        try:
            load_settings(path, {})
        except ConfigurationError as error:
            assert str(error)
