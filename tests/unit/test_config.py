"""Configuration: what is read, what is refused, and what the error says."""

import base64
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from auth_service.config import durations, reference
from auth_service.config.loading import Settings, load_settings, unknown_variables
from auth_service.errors import ConfigError

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()  # with padding
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "auth.toml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


def refusal(config_file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(config_file)
    return caught.value.text


def test_defaults_are_those_of_the_design() -> None:
    """By default the service serves loopback with the documented lifetimes."""
    settings = load_settings()
    assert settings.grpc_address == "127.0.0.1:50051"
    assert settings.access_token_ttl == timedelta(minutes=15)
    assert settings.shared_key_bytes() is None


def test_settings_are_frozen() -> None:
    """A setting cannot change after it was read."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().issuer = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_ACCESS_TOKEN_TTL", "soon"),
        ("AUTH_ACCESS_TOKEN_TTL", "0s"),
        ("AUTH_ACCESS_TOKEN_TTL", "9" * 30 + "d"),
        ("AUTH_REFRESH_TOKEN_ABSOLUTE_TTL", "3651d"),
        ("AUTH_KEY_ROTATION_INTERVAL", "3651d"),
        ("AUTH_REFRESH_GRACE", "-1s"),
        ("AUTH_GRPC_ADDRESS", "50051"),
        ("AUTH_GRPC_ADDRESS", "::1:50051"),
        ("AUTH_GRPC_ADDRESS", "127.0.0.1:70000"),
        ("AUTH_DATABASE_POOL_MAX", "many"),
        ("AUTH_SIGNING_ALGORITHM", "none"),
        ("AUTH_DEFAULT_AUDIENCE", ""),
        ("AUTH_DEFAULT_AUDIENCE", "a,,b"),
        ("AUTH_EMBEDDED_DIR", ""),
        ("AUTH_REFLECTION", "perhaps"),
        ("AUTH_PASSWORD_MIN_LENGTH", "7"),
        ("AUTH_PASSWORD_MIN_LENGTH_WITH_FACTOR", "7"),
        ("AUTH_PASSWORD_PROFILE", "fast"),
        ("AUTH_HTTP_ADDRESS", "8080"),
        ("AUTH_HTTP_ADDRESS", "unix:/run/auth"),
        ("AUTH_HTTP_ADDRESS", "no"),
        ("AUTH_HTTP_ADDRESS", "::1:8080"),
        ("AUTH_PUBLIC_URL", ""),
        ("AUTH_PUBLIC_URL", "auth.example.com"),
        ("AUTH_PUBLIC_URL", "ftp://auth.example.com"),
        ("AUTH_PUBLIC_URL", "https://"),
        ("AUTH_PUBLIC_URL", "https://ada:pw@auth.example.com"),
        ("AUTH_PUBLIC_URL", "https://auth.example.com?x"),
        ("AUTH_PUBLIC_URL", "https://auth.example.com/#x"),
        ("AUTH_PUBLIC_URL", "https://auth.example.com:65536"),
        ("AUTH_PUBLIC_URL", "https://[::1"),
        ("AUTH_PUBLIC_URL", "https://auth.example.com\n"),
        ("AUTH_BROWSER_ORIGINS", ""),
        ("AUTH_BROWSER_ORIGINS", "*"),
        ("AUTH_BROWSER_ORIGINS", "null"),
        ("AUTH_BROWSER_ORIGINS", "https://"),
        ("AUTH_BROWSER_ORIGINS", "app.example.com"),
        ("AUTH_BROWSER_ORIGINS", "https://*.example.com"),
        ("AUTH_BROWSER_ORIGINS", "https://app.example.com/"),
        ("AUTH_BROWSER_ORIGINS", "https://ada@app.example.com"),
        ("AUTH_BROWSER_ORIGINS", "https://äpp.example.com"),
        ("AUTH_BROWSER_ORIGINS", "https://app.example.com,"),
        ("AUTH_ACCESS_COOKIE", "perhaps"),
    ],
)
def test_wrong_value_names_variable_and_example(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The error has the name of the variable and an example that is accepted."""
    monkeypatch.setenv(name, value)
    text = refusal()
    assert text.startswith(f"{name}: ")
    example = text.partition(f"example: {name}=")[2]
    assert example
    monkeypatch.setenv(name, example)
    monkeypatch.setenv("AUTH_ALLOW_PLAINTEXT", "true")
    load_settings()


@pytest.mark.parametrize("name", ["AUTH_DATABASE_URL", "AUTH_SHARED_KEY", "AUTH_MASTER_KEY"])
def test_refusal_never_shows_a_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The value of a secret stays out of the refusal."""
    monkeypatch.setenv(name, "hunter2!")
    text = refusal()
    assert name in text
    assert "hunter2" not in text


def test_several_wrong_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error lists all of them."""
    monkeypatch.setenv("AUTH_LOG_LEVEL", "loud")
    monkeypatch.setenv("AUTH_HASH_QUEUE", "0")
    assert {line.partition(":")[0] for line in refusal().splitlines()} == {
        "AUTH_LOG_LEVEL",
        "AUTH_HASH_QUEUE",
    }


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({"GRPC_ADDRESS": "0.0.0.0:50051"}, "AUTH_ALLOW_PLAINTEXT=true"),
        ({"GRPC_ADDRESS": "[::]:50051"}, "AUTH_TLS_CERT_FILE"),
        ({"GRPC_ADDRESS": "auth.example.com:50051"}, "AUTH_TLS_CERT_FILE"),
        ({"HTTP_ADDRESS": "0.0.0.0:8080"}, "AUTH_ALLOW_PLAINTEXT=true"),
        ({"HTTP_ADDRESS": "[::]:8080"}, "serve 127.0.0.1:8080"),
        ({"HTTP_ADDRESS": "localhost.example.com:8080"}, "AUTH_TLS_CERT_FILE"),
        ({"TLS_CERT_FILE": "/x"}, "set both"),
        ({"TLS_CLIENT_CA_FILE": "/x"}, "requires AUTH_TLS_CERT_FILE"),
        ({"SHARED_KEY": KEY, "SHARED_KEY_FILE": "/x"}, "unset one"),
        ({"MASTER_KEY": KEY, "MASTER_KEY_FILE": "/x"}, "unset one"),
        ({"DATABASE_POOL_MIN": "11"}, "lower it"),
        ({"WORKERS": "2", "GRPC_ADDRESS": "unix:/run/auth.sock"}, "set a port"),
        ({"WORKERS": "2", "GRPC_ADDRESS": "127.0.0.1:0"}, "set a port"),
        ({"REFRESH_TOKEN_IDLE_TTL": "31d"}, "lower it"),
        ({"FEED_POLL_INTERVAL": "5s"}, "lower it"),
        ({"SHARED_KEY_FILE": "/nowhere"}, "name a file"),
        ({"TLS_CERT_FILE": "/nowhere", "TLS_KEY_FILE": "/nowhere"}, "name a file"),
    ],
)
def test_unsafe_or_contradictory_settings_are_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], remedy: str
) -> None:
    """The error says what to change."""
    for name, value in variables.items():
        monkeypatch.setenv(f"AUTH_{name}", value)
    assert remedy in refusal()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:50051", "localhost:50051", "unix:/run/auth"]
)
def test_plaintext_on_loopback_is_served(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """An address that only this machine can reach needs no TLS."""
    monkeypatch.setenv("AUTH_GRPC_ADDRESS", address)
    assert load_settings().grpc_address == address


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:8080", "localhost:8080", "off"])
def test_plaintext_http_on_loopback_is_served(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """As for gRPC; a server that is off needs nothing."""
    monkeypatch.setenv("AUTH_HTTP_ADDRESS", address)
    assert load_settings().http_address == address


@pytest.mark.parametrize("name", ["AUTH_GRPC_ADDRESS", "AUTH_HTTP_ADDRESS"])
def test_plaintext_elsewhere_is_served_when_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The operator states that something else encrypts."""
    monkeypatch.setenv(name, "0.0.0.0:1")
    monkeypatch.setenv("AUTH_ALLOW_PLAINTEXT", "true")
    load_settings()


def test_browser_sessions_are_for_the_own_origin_by_default() -> None:
    """There is no other origin and no access cookie, and loopback is served."""
    settings = load_settings()
    assert settings.http_address == "127.0.0.1:8080"
    assert settings.public_url is None
    assert settings.browser_origins == ()
    assert not settings.access_cookie


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://auth.example.com", "https://auth.example.com"),
        ("https://auth.example.com/", "https://auth.example.com"),
        ("HTTPS://Auth.Example.com:443/Auth/", "https://auth.example.com/Auth"),
        ("http://localhost:80", "http://localhost"),
        ("https://auth.example.com:80", "https://auth.example.com:80"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_the_public_url_is_kept_as_browsers_write_it(
    monkeypatch: pytest.MonkeyPatch, given: str, kept: str
) -> None:
    """Lower case, no default port (RFC 6454 section 6.2), and no slash at the end."""
    monkeypatch.setenv("AUTH_PUBLIC_URL", given)
    assert load_settings().public_url == kept


def test_origins_are_kept_as_browsers_write_them(
    monkeypatch: pytest.MonkeyPatch, toml: Callable[[str], Path]
) -> None:
    """From the variable and from the file; origins are compared byte by byte."""
    monkeypatch.setenv("AUTH_BROWSER_ORIGINS", "https://App.example.com:443, http://localhost:3000")
    expected = ("https://app.example.com", "http://localhost:3000")
    assert load_settings().browser_origins == expected
    monkeypatch.delenv("AUTH_BROWSER_ORIGINS")
    path = toml('browser_origins = ["https://App.example.com:443", "http://localhost:3000"]')
    assert load_settings(path).browser_origins == expected


@pytest.mark.parametrize(
    ("given", "party"),
    [
        ({}, ("auth.internal", ("https://auth.internal",))),
        ({"issuer": "internal"}, ("", ())),
        (
            {"public_url": "https://auth.example.com/x", "browser_origins": "https://app.test"},
            ("auth.example.com", ("https://auth.example.com", "https://app.test")),
        ),
        (
            {"passkey_rp_id": "example.com", "passkey_origins": "https://a.example.com"},
            ("example.com", ("https://a.example.com",)),
        ),
    ],
    ids=["issuer", "no-url", "public-url", "given"],
)
def test_passkeys_belong_to_the_pages_of_the_service(
    given: dict[str, str], party: tuple[str, tuple[str, ...]]
) -> None:
    """Unless the settings say otherwise; without a URL there are none."""
    assert load_settings(None, **given).passkey_party() == party


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "auth.internal"),
        ({"issuer": "our:issuer"}, "our issuer"),
        ({"service_name": "Example Shop"}, "Example Shop"),
    ],
    ids=["issuer", "no-url", "given"],
)
def test_authenticator_apps_show_the_name_of_the_service(given: dict[str, str], name: str) -> None:
    """A colon would end it in an otpauth URI."""
    assert load_settings(None, **given).own_name() == name


@pytest.mark.parametrize("key", [KEY, KEY.rstrip("="), f" {KEY}\n"])
def test_shared_key_is_base64url_padded_or_not(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Padding of a key and white space around it are ignored."""
    monkeypatch.setenv("AUTH_SHARED_KEY", key)
    assert load_settings().shared_key_bytes() == bytes(range(32))


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (base64.urlsafe_b64encode(bytes(31)).decode(), "248 bits"),
        ("", "0 bits"),
        ("a" * 45, "cut off"),
        ("+/" * 30, "not base64url"),
        (base64.urlsafe_b64encode(bytes(32)).decode(), "not random"),
        (base64.urlsafe_b64encode(bytes(range(16)) * 2).decode(), "not random"),
    ],
)
@pytest.mark.parametrize("name", ["AUTH_SHARED_KEY", "AUTH_MASTER_KEY"])
def test_bad_key_is_refused_with_its_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, key: str, problem: str
) -> None:
    """Keys that are short, truncated, in another encoding, or evidently not random."""
    monkeypatch.setenv(name, key)
    assert problem in refusal()
    monkeypatch.delenv(name)
    path = tmp_path / "key"
    path.write_text(key)
    path.chmod(0o600)
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert problem in refusal()


def test_key_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key may be in a file of mode 0600."""
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("AUTH_SHARED_KEY_FILE", str(path))
    monkeypatch.setenv("AUTH_MASTER_KEY_FILE", str(path))
    settings = load_settings()
    assert settings.shared_key_bytes() == settings.master_key_bytes() == bytes(range(32))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_key_file_of_another_owner_may_be_readable_by_a_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of systemd or Kubernetes that this user can read, but not one that all can read."""
    path = tmp_path / "key"
    path.write_text(KEY)
    os.chown(path, 65534, 65534)
    path.chmod(0o440)
    monkeypatch.setenv("AUTH_MASTER_KEY_FILE", str(path))
    assert load_settings().master_key_bytes() == bytes(range(32))
    path.chmod(0o444)
    assert "chmod 600" in refusal()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_key_file_open_to_others_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int
) -> None:
    """A key file that the group or others may read or write is refused."""
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    monkeypatch.setenv("AUTH_SHARED_KEY_FILE", str(path))
    assert f"chmod 600 '{path}'" in refusal()


@pytest.mark.parametrize("content", [b"short", b"\xff\xfe"])
def test_key_file_without_a_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    """The rules are those of the variable, and the error does not show the content."""
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    monkeypatch.setenv("AUTH_MASTER_KEY_FILE", str(path))
    text = refusal()
    assert text.startswith("AUTH_MASTER_KEY_FILE: ")
    assert "short" not in text


def test_own_database_needs_a_master_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AUTH_DATABASE_URL no master key is generated."""
    monkeypatch.setenv("AUTH_DATABASE_URL", "postgresql://auth@db/auth")
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY is missing"):
        load_settings().master_key_bytes()
    monkeypatch.setenv("AUTH_MASTER_KEY", KEY)
    assert load_settings().master_key_bytes() == bytes(range(32))


def test_embedded_master_key_is_made_once(tmp_path: Path) -> None:
    """The generated master key is private and does not change."""
    settings = Settings(embedded_dir=tmp_path / "new" / "data")
    key = settings.master_key_bytes()
    path = tmp_path / "new" / "data" / "master.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) == 32
    assert settings.master_key_bytes() == key
    assert Settings().master_key_bytes(path.parent) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]


def test_file_is_read_and_variables_win(
    monkeypatch: pytest.MonkeyPatch, toml: Callable[[str], Path]
) -> None:
    """A variable takes precedence over the TOML file."""
    path = toml('issuer = "file"\naccess_token_ttl = "5m"\ndefault_audience = ["a", "b"]\n')
    monkeypatch.setenv("AUTH_ISSUER", "variable")
    monkeypatch.setenv("AUTH_CONFIG_FILE", str(path))
    settings = load_settings()
    assert settings.issuer == "variable"
    assert settings.access_token_ttl == timedelta(minutes=5)
    assert settings.default_audience == ("a", "b")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('isuer = "x"', "isuer is not a setting; did you mean issuer?"),
        ("issuer =", "is not TOML"),
        ('grpc_address = "x"', "AUTH_GRPC_ADDRESS (grpc_address in "),
    ],
)
def test_wrong_file_is_refused(toml: Callable[[str], Path], text: str, problem: str) -> None:
    """The error for an unknown name, wrong syntax or a wrong value has the name of the file."""
    path = toml(text)
    told = refusal(path)
    assert problem in told
    assert str(path) in told


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is named must exist."""
    assert "cannot be read" in refusal(tmp_path / "none.toml")


def test_file_with_a_key_must_be_private(toml: Callable[[str], Path]) -> None:
    """The rules are those of a key file."""
    path = toml(f'shared_key = "{KEY}"')
    load_settings(path)
    path.chmod(0o644)
    assert "chmod 600" in refusal(path)


def test_unknown_override_is_refused() -> None:
    """A misspelt argument of load_settings is an error."""
    with pytest.raises(ConfigError, match="did you mean issuer"):
        load_settings(None, isuer="x")


def test_unknown_variable_gets_a_warning_with_the_nearest() -> None:
    """Known variables get no warning."""
    names = ["AUTH_SHARD_KEY", "AUTH_SHARED_KEY", "AUTH_ADDRESS", "AUTH_QQQQQQQQ", "PATH"]
    assert unknown_variables(names) == [
        "AUTH_QQQQQQQQ is not a setting and has no effect",
        "AUTH_SHARD_KEY is not a setting and has no effect; did you mean AUTH_SHARED_KEY?",
    ]


@pytest.mark.parametrize("text", ["250ms", "90s", "15m", "36h", "7d", "0ms"])
def test_durations_are_written_as_they_are_read(text: str) -> None:
    """The output of `config show` can be pasted into a variable."""
    assert durations.duration_text(durations.parse_duration(text)) == text


def test_numbers_are_seconds() -> None:
    """A duration without a unit is in seconds, in the file also as a number."""
    assert durations.parse_duration(1.5) == durations.parse_duration("1500ms")
    with pytest.raises(ValueError, match="not a duration"):
        durations.parse_duration(True)


def test_masked_shows_no_secret() -> None:
    """The output has no key and no password."""
    shown = reference.masked(load_settings(shared_key=KEY, database_url="postgresql://u:pw@h/d"))
    assert shown["shared_key"] == shown["database_url"] == "**********"
    assert KEY not in repr(load_settings(shared_key=KEY))


def test_reference_is_up_to_date() -> None:
    """docs/configuration.md is the output of `config docs`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == reference.reference()


def test_every_setting_has_a_description_and_an_example() -> None:
    """The reference is complete."""
    for name, info in Settings.model_fields.items():
        assert info.description, name
        assert info.examples, name
