//! The configuration, layer by layer, and every way to get it wrong.

use std::collections::BTreeSet;
use std::io::Write;

use super::*;

fn keys_of(value: &toml::Value) -> BTreeSet<String> {
    let sections = value.as_table().unwrap();
    let keys = |(section, keys): (&String, &toml::Value)| {
        let of_section: Vec<_> =
            keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")).collect();
        of_section
    };
    sections.iter().flat_map(keys).collect()
}

fn load_text(text: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let name = file.path().display().to_string();
    Config::load(Some(file.path()), [], &[]).map_err(|error| error.to_string().replace(&name, "FILE"))
}

fn load_env(name: &str, value: &str) -> Result<Config, String> {
    Config::load(None, [(name.to_owned(), value.to_owned())], &[]).map_err(|error| error.to_string())
}

fn flag(flag: &str, key: &str, value: &str) -> FlagValue {
    FlagValue { flag: flag.into(), key: key.into(), value: value.into() }
}

#[test]
fn the_default_file_and_the_struct_have_the_same_keys() {
    let file: toml::Value = toml::from_str(DEFAULTS).unwrap();
    let config = toml::Value::try_from(Config::defaults()).unwrap();
    assert_eq!(keys_of(&file), keys_of(&config));
    assert_eq!(file, config);
}

#[test]
fn every_default_has_its_reason_right_above_it() {
    let lines: Vec<_> = DEFAULTS.lines().collect();
    for (above, line) in lines.iter().zip(&lines[1..]) {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(above.starts_with("# "), "no reason above: {line}");
        }
    }
}

#[test]
fn the_production_example_fits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/production.toml");
    let config = Config::load(Some(&path), [], &[]).unwrap();
    assert_ne!(config, Config::defaults());
}

#[test]
fn each_layer_lies_over_the_one_before() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = "[checkpoint]\nevents = 5\n[orders]\nremember_seconds = 5\nremember_max = 5\n[log]\nlevel = \"warn\"\n";
    file.write_all(text.as_bytes()).unwrap();
    let env =
        [("ORDERS__REMEMBER_SECONDS", "6"), ("ORDERS__REMEMBER_MAX", "6"), ("SERVER__LISTEN", "[::1]:6")];
    let env = env.map(|(name, value)| (format!("HOTSTOCK__{name}"), value.to_owned()));
    let other = ("PATH".to_owned(), "/bin".to_owned());
    let flags = [flag("--set", "orders.remember_max", "7")];
    let config = Config::load(Some(file.path()), env.into_iter().chain([other]), &flags).unwrap();
    assert_eq!(config.checkpoint.events, 5);
    assert_eq!((config.orders.remember_seconds, config.orders.remember_max), (6, 7));
    assert_eq!((config.log.level.as_str(), config.server.listen.port()), ("warn", 6));
}

#[test]
fn an_unknown_key_in_a_file_is_named_with_its_line_and_a_hint() {
    assert_eq!(
        load_text("[server]\n# so far so good\nlisten = \"127.0.0.1:1\"\nmax_conections = 5\n").unwrap_err(),
        "configuration: FILE, line 4: `server.max_conections` is not a known key; \
         the nearest known key is `server.max_connections`"
    );
    let error = load_text("\n[sever]\nlisten = \"127.0.0.1:1\"\n").unwrap_err();
    assert!(error.contains("FILE, line 3: `sever.listen`") && error.contains("`server.listen`"), "{error}");
    let error = load_text("listen = \"127.0.0.1:1\"\n").unwrap_err();
    assert!(error.contains("FILE, line 1: `listen` stands outside"), "{error}");
    let error = load_text("[server]\nlisten.port = 5\n").unwrap_err();
    assert!(error.contains("FILE, line 2: `server.listen` is of type table, but must be string"), "{error}");
    let error = load_text("[log]\nlevel = \"info\"\n[server]\nmax_connections == 5\n").unwrap_err();
    assert!(error.contains("FILE, line 4"), "{error}");
}

#[test]
fn a_wrong_value_in_a_file_is_named_with_its_line() {
    let error = load_text("[engine]\nshards = 1\ngate_permits = \"many\"\n").unwrap_err();
    assert!(
        error.contains("FILE, line 3: `engine.gate_permits` is of type string, but must be integer"),
        "{error}"
    );
    let error = load_text("[engine]\nshards = -1\n").unwrap_err();
    assert!(error.contains("FILE, line 2: `engine.shards`") && error.contains("-1"), "{error}");
    let error = load_text("[engine]\n\nshards = 0\n").unwrap_err();
    assert_eq!(error, "configuration: FILE, line 3: `engine.shards`: is 0, but must be 1 to 1024");
    let error = load_text("[server]\nlisten = \"here\"\n").unwrap_err();
    assert!(error.contains("FILE, line 2: `server.listen`") && error.contains("address"), "{error}");
    let error = load_text("[log]\nlevel = \"a=b=c\"\n").unwrap_err();
    assert!(error.contains("FILE, line 2: `log.level`"), "{error}");
}

#[test]
fn a_wrong_variable_is_named() {
    let error = load_env("HOTSTOCK__SERVER__LISTNE", "127.0.0.1:1").unwrap_err();
    assert_eq!(
        error,
        "configuration: environment variable HOTSTOCK__SERVER__LISTNE: `server.listne` is not a known key; \
         the nearest known key is `server.listen`"
    );
    let error = load_env("HOTSTOCK__CHECKPOINT__EVENTS", "soon").unwrap_err();
    assert!(
        error.contains("variable HOTSTOCK__CHECKPOINT__EVENTS: `checkpoint.events` is \"soon\""),
        "{error}"
    );
    let error = load_env("HOTSTOCK__ENGINE__SHARDS", "70000").unwrap_err();
    assert!(error.contains("variable HOTSTOCK__ENGINE__SHARDS: `engine.shards`"), "{error}");
}

#[test]
fn a_list_is_said_in_brackets_or_without() {
    let prefer = |text: &str| {
        load_env("HOTSTOCK__ORDERS__PREFER_WAREHOUSES", text).map(|c| c.orders.prefer_warehouses)
    };
    for (text, list) in [("[2, 1]", &[2, 1][..]), ("2,1", &[2, 1]), ("7", &[7]), ("", &[]), ("[]", &[])] {
        assert_eq!(prefer(text).unwrap(), list, "{text:?}");
    }
    for wrong in ["[2", "a", "2,1]\nx = 1", "[-1]", "[4294967296]", "['2']"] {
        let error = prefer(wrong).unwrap_err();
        assert!(
            error.contains("variable HOTSTOCK__ORDERS__PREFER_WAREHOUSES: `orders.prefer_warehouses"),
            "{error}"
        );
    }
    assert!(prefer(&vec!["1"; 1_001].join(",")).unwrap_err().contains("at most 1000 entries"));
    assert_eq!(load_text("[orders]\nprefer_warehouses = [3]\n").unwrap().orders.prefer_warehouses, [3]);
}

#[test]
fn a_wrong_flag_is_named() {
    let error = Config::load(None, [], &[flag("--listen", "server.listen", "8080")]).unwrap_err().to_string();
    assert!(error.contains("flag --listen: `server.listen`"), "{error}");
    let error = Config::load(None, [], &[flag("--set", "server.port", "8080")]).unwrap_err().to_string();
    assert!(error.contains("flag --set: `server.port` is not a known key"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("no/such.toml")), [], &[]).unwrap_err().to_string();
    assert!(error.contains("no/such.toml"), "{error}");
}

#[test]
fn what_does_not_fit_is_named_and_no_password_told() {
    for (text, key) in [
        ("[store]\nurl = \"postgres://root:s3cret@db\"\n", "store.url"),
        ("[mirror]\nredis_url = \"http://:s3cret@db\"\n", "mirror.redis_url"),
        ("[mirror]\nkey_prefix = \"\"\n", "mirror.key_prefix"),
        ("[orders]\ncheck_url = \"ftp://root:s3cret@shop\"\n", "orders.check_url"),
        ("[orders]\ncheck_url = \"http://root:s3cret@shop/orders\"\n", "orders.check_url"),
        ("[orders]\ncheck_url = \"http://shop/orders?key=s3cret\"\n", "orders.check_url"),
        ("[admin]\ntoken_sha256 = \"s3cret\"\n", "admin.token_sha256"),
        ("[store]\nconnections = 0\n", "store.connections"),
    ] {
        let error = load_text(text).unwrap_err();
        assert!(error.contains(&format!("FILE, line 2: `{key}`")) && !error.contains("s3cret"), "{error}");
    }
}
