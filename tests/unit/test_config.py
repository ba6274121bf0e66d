import os
from pathlib import Path

import pytest

from poolcore.errors import Exit, PoolError, Reason
from poolmaster.store.urls import EtcdUrl, SqliteUrl, parse
from poolmember.config import (
    DEFAULT_SOCKET,
    DEFAULT_STATE_DIR,
    load,
    pool_file_path,
    socket_path,
    state_directory,
)
from poolmember.config_values import (
    Endpoint,
    LibvirtDriver,
    LogFormat,
    LogLevel,
    NoDriver,
    SimDriver,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file; empty unless a test writes to it."""
    path = tmp_path / "config.toml"
    path.write_text("")
    return path


def refused(flags: dict[str, object], environ: dict[str, str] | None = None) -> PoolError:
    with pytest.raises(PoolError) as caught:
        load(flags, environ or {})
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert caught.value.entry.exit is Exit.USAGE
    return caught.value


def test_with_nothing_said_the_defaults_hold(file: Path) -> None:
    config = load({"config": str(file)}, {})
    assert config.listen == config.advertise == Endpoint("127.0.0.1", 7443)
    assert config.state_dir == Path("/var/lib/poolmember")
    assert config.driver == LibvirtDriver("qemu:///system")
    assert config.store is None
    assert not config.witness
    assert not config.insecure
    assert config.log_format is LogFormat.TEXT
    assert config.log_level is LogLevel.INFO
    assert config.builtin_srs == ()
    assert config.history_revisions == 10_000
    assert config.hooks_dir == Path("/etc/poolmember/hooks.d")
    assert config.hook_seconds == 30
    assert config.name
    assert "." not in config.name


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text('name = "file"\nlisten = "127.0.0.1:1"\nlog_level = "error"')
    environ = {"POOLMEMBER_NAME": "environment", "POOLMEMBER_LISTEN": "127.0.0.1:2"}
    config = load({"config": str(file), "name": "flag", "listen": None}, environ)
    assert config.name == "flag"
    assert config.listen.port == 2
    assert config.log_level is LogLevel.ERROR


def test_the_file_may_be_named_by_the_environment(file: Path) -> None:
    file.write_text('name = "ignite"')
    assert load({}, {"POOLMEMBER_CONFIG": str(file)}).name == "ignite"


def test_a_file_may_hold_every_key(file: Path) -> None:
    (file.parent / "host.toml").write_text("")
    file.write_text(
        """
        name = "specter"
        listen = "0.0.0.0:8000"
        advertise = "specter.example"
        state_dir = "state"
        driver = "sim:host.toml"
        store = "sqlite:///srv/pool.sqlite"
        insecure = true
        log_format = "json"
        log_level = "debug"
        builtin_srs = ["default", "images"]
        history_revisions = 500
        hooks_dir = "scripts"
        hook_seconds = 2.5
        """
    )
    config = load({"config": str(file)}, {})
    assert config.advertise == Endpoint("specter.example", 8000)
    assert config.state_dir == file.parent / "state", "relative to the file that says so"
    assert config.driver == SimDriver(file.parent / "host.toml")
    assert config.store == SqliteUrl(Path("/srv/pool.sqlite"))
    assert str(config.store) == "sqlite:///srv/pool.sqlite"
    assert config.insecure
    assert config.log_format is LogFormat.JSON
    assert config.builtin_srs == ("default", "images")
    assert config.history_revisions == 500
    assert config.hooks_dir == file.parent / "scripts"
    assert config.hook_seconds == 2.5


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_switches_are_read_from_the_environment(file: Path, text: str) -> None:
    environ = {"POOLMEMBER_INSECURE": text, "POOLMEMBER_BUILTIN_SRS": "default, images"}
    environ["POOLMEMBER_HISTORY_REVISIONS"] = "500"
    environ["POOLMEMBER_HOOK_SECONDS"] = "90"
    config = load({"config": str(file)}, environ)
    assert config.insecure
    assert config.builtin_srs == ("default", "images")
    assert config.history_revisions == 500
    assert config.hook_seconds == 90


def test_the_shared_store_is_absolute_with_three_or_four_slashes(file: Path) -> None:
    for url in ("sqlite:///srv/p.db", "sqlite:////srv/p.db"):
        store = load({"config": str(file), "store": url}, {}).store
        assert store == SqliteUrl(Path("/srv/p.db"))


@pytest.mark.parametrize(
    "url",
    [
        "etcd:10.0.0.1:2379",
        "etcd:a.example:2379,[fd00::2]:2379?prefix=pools/",
        "etcd:10.0.0.1:2379?prefix=p/&ca=/etc/etcd/ca.pem",
        "etcd:10.0.0.1:2379?ca=/etc/etcd/ca.pem&cert=/etc/etcd/me.pem&key=/etc/etcd/me.key",
    ],
)
def test_a_cluster_of_etcd_is_named_as_it_was_given(file: Path, url: str) -> None:
    store = load({"config": str(file), "store": url}, {}).store
    assert isinstance(store, EtcdUrl)
    assert str(store) == url
    assert parse(str(store)) == store


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.2", Endpoint("127.0.0.2", 7443)),
        ("localhost:80", Endpoint("localhost", 80)),
        ("[::1]", Endpoint("::1", 7443)),
        ("[::1]:65535", Endpoint("::1", 65535)),
        ("[::ffff:127.0.0.1]:1", Endpoint("::ffff:127.0.0.1", 1)),
    ],
)
def test_loopback_needs_no_permission(file: Path, listen: str, endpoint: Endpoint) -> None:
    config = load({"config": str(file), "listen": listen}, {})
    assert config.listen == endpoint
    assert str(Endpoint("::1", 7443)) == "[::1]:7443"


@pytest.mark.parametrize("listen", ["192.0.2.11:7443", "0.0.0.0", "[::]:7443", "[2001:db8::1]"])
def test_beyond_loopback_needs_insecure(file: Path, listen: str) -> None:
    flags: dict[str, object] = {"config": str(file), "listen": listen, "advertise": "192.0.2.11"}
    assert "--insecure" in refused(flags).message
    assert load(flags | {"insecure": True}, {}).insecure


def test_all_addresses_are_no_address_to_advertise(file: Path) -> None:
    flags: dict[str, object] = {"config": str(file), "listen": "0.0.0.0", "insecure": True}
    assert refused(flags).params["key"] == "--advertise"
    refused(flags | {"advertise": "0.0.0.0:7443"})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("listen", "127.0.0.1:0", "1 to 65535"),
        ("listen", "127.0.0.1:65536", "1 to 65535"),
        ("listen", "127.0.0.1:http", "1 to 65535"),
        ("listen", "127.0.0.1:", "1 to 65535"),
        ("listen", "::1", "brackets"),
        ("listen", "[::1", "must look like"),
        ("listen", "[phantom]:7443", "must look like"),
        ("listen", ":7443", "must look like"),
        ("listen", "", "must look like"),
        ("listen", "phantom:7443", "must be an IP address"),
        ("advertise", "phan tom:7443", "must look like"),
        ("advertise", "phantom:99999", "1 to 65535"),
        ("name", "", "empty"),
        ("name", "   ", "empty"),
        ("name", "a\nb", "U+000A"),
        ("name", "\x1b[31mred", "U+001B"),
        ("name", "not utf-8: \udcff", "U+DCFF"),
        ("name", "a" * 256, "255 bytes"),
        ("name", "ü" * 128, "255 bytes"),
        ("driver", "xen", "libvirt, libvirt:URI, sim, sim:FILE or none"),
        ("driver", "libvirt:", "behind the colon"),
        ("driver", "sim:/there/is/none.toml", "no file"),
        ("driver", "simulator", "sim, sim:FILE or none"),
        ("store", "etcd:", "HOST:PORT"),
        ("store", "etcd:10.0.0.1", "HOST:PORT"),
        ("store", "etcd:10.0.0.1:2379,:2379", "HOST:PORT"),
        ("store", "etcd:10.0.0.1:70000", "HOST:PORT"),
        ("store", "etcd:http://10.0.0.1:2379", "HOST:PORT"),
        ("store", "etcd:10.0.0.1:2379?user=root", "prefix, ca, cert, key"),
        ("store", "etcd:10.0.0.1:2379?ca=ca.pem", "absolute path"),
        ("store", "etcd:10.0.0.1:2379?cert=/c&key=/k", "ca with them"),
        ("store", "etcd:10.0.0.1:2379?ca=/a&cert=/c", "together"),
        ("store", "sqlite://relative", "absolute path"),
        ("store", "sqlite:///", "name a file"),
        ("store", "/srv/pool.db", "sqlite:///PATH"),
        ("log_format", "xml", "text or json"),
        ("log_level", "loud", "debug, info, warning, error"),
        ("state_dir", "", "must be a path"),
        ("state_dir", "/" + "d" * 100, "too long"),
        ("insecure", "perhaps", "true or false"),
        ("hooks_dir", "", "must be a path"),
        ("hook_seconds", "soon", "seconds from 0.1 to 3600"),
        ("hook_seconds", "0", "seconds from 0.1 to 3600"),
        ("hook_seconds", "nan", "seconds from 0.1 to 3600"),
        ("hook_seconds", "inf", "seconds from 0.1 to 3600"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_problem(
    file: Path, key: str, value: str, says: str
) -> None:
    flag = "--" + key.replace("_", "-")
    error = refused({"config": str(file), key: value})
    assert error.params["key"] == flag
    assert says in error.message
    variable = f"POOLMEMBER_{key.upper()}"
    error = refused({"config": str(file)}, {variable: value})
    assert error.params["key"] in {variable, flag}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("nmae = 'x'", "did you mean name?"),
        ("state-dir = '/srv'", "did you mean state_dir?"),
        ("colour = 'red'", "there are name, listen"),
        ("name = 7", "text in quotes"),
        ("insecure = 1", "true or false"),
        ("builtin_srs = [1]", "list of names"),
        ("builtin_srs = true", "list of names"),
        ("history_revisions = 9", "from 10 to 1000000"),
        ("history_revisions = 1000001", "from 10 to 1000000"),
        ("history_revisions = 50.0", "from 10 to 1000000"),
        ("history_revisions = true", "from 10 to 1000000"),
        ('history_revisions = "many"', "from 10 to 1000000"),
        ("hook_seconds = true", "seconds from 0.1 to 3600"),
        ("hook_seconds = [30]", "seconds from 0.1 to 3600"),
        ("listen = 7443", "text in quotes"),
        ("name =", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(file: Path, content: str, says: str) -> None:
    file.write_text(content)
    error = refused({"config": str(file)})
    assert says in error.message
    assert str(file) in error.message


def test_a_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"name = '\xff'")
    assert "not valid TOML" in refused({"config": str(file)}).message


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    error = refused({"config": str(tmp_path / "none.toml")})
    assert error.params["key"] == "--config"
    assert refused({"config": str(tmp_path)}).message, "a directory is no file"


def test_the_socket_is_in_a_given_directory_and_below_run_otherwise(tmp_path: Path) -> None:
    assert socket_path(DEFAULT_STATE_DIR) == DEFAULT_SOCKET
    assert socket_path(tmp_path) == tmp_path / "api.sock"


def test_what_scripts_see_is_beside_the_socket_and_a_directory_of_its_own_has_its_own_hooks(
    file: Path, tmp_path: Path
) -> None:
    assert pool_file_path(DEFAULT_STATE_DIR) == Path("/run/poolmember/pool.json")
    assert pool_file_path(tmp_path) == tmp_path / "pool.json"
    config = load({"config": str(file), "state_dir": str(tmp_path)}, {})
    assert config.hooks_dir == tmp_path / "hooks.d"


def test_other_commands_find_the_state_directory_the_same_way(file: Path) -> None:
    file.write_text('state_dir = "state"\n')
    assert state_directory({"config": str(file)}, {}) == file.parent / "state"
    here = state_directory({"config": str(file), "state_dir": "x/../y"}, {})
    assert here == Path(os.getcwd()) / "y"


def test_a_witness_is_given_no_store(file: Path) -> None:
    assert load({"config": str(file), "witness": True}, {}).witness
    assert load({"config": str(file)}, {"POOLMEMBER_WITNESS": "yes"}).witness
    file.write_text("witness = true")
    assert load({"config": str(file)}, {}).witness
    assert not load({"config": str(file), "witness": False}, {}).witness
    error = refused({"config": str(file), "store": "sqlite:///srv/pool.db"})
    assert error.params["key"] == "--store"
    assert "a witness learns the store from its pool" in error.message


def test_only_a_witness_needs_no_hypervisor(file: Path) -> None:
    assert load({"config": str(file), "witness": True}, {}).driver == NoDriver()
    assert load({"config": str(file), "witness": True, "driver": "sim"}, {}).driver == SimDriver()
    assert "goes only with --witness" in refused({"config": str(file), "driver": "none"}).message
