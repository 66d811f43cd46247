//! What a person who writes a configuration sees: values, places, errors.

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    Loaded::parse(Path::new("t.toml"), text, &environment(variables))
}

fn errors(text: &str, variables: &[(&str, &str)]) -> String {
    parse(text, variables).expect_err("must be refused").to_string()
}

#[test]
fn without_a_file_every_setting_has_a_default_under_the_data_folder() {
    let loaded = parse("", &[]).unwrap();
    let config = loaded.config;
    assert_eq!(config.jwthenticator.listen.to_string(), "127.0.0.1:5050");
    assert_eq!(config.jwthenticator.internal_listen.unwrap().to_string(), "127.0.0.1:5051");
    assert_eq!(config.netunnel.listen.to_string(), "127.0.0.1:4040");
    assert_eq!(config.jwthenticator.jwt_lifetime, Duration::from_secs(90_000));
    assert_eq!(config.jwthenticator.key_lifetime, Duration::from_secs(120 * 86_400));
    assert_eq!(config.jwthenticator.refresh_lifetime, Duration::from_secs(60 * 86_400));
    for path in [
        &config.jwthenticator.database_url.file().unwrap().to_path_buf(),
        &config.keys.directory,
        &config.jwks.file,
        &config.jwks.revocation_file,
        &config.netunnel.state_file,
    ] {
        assert!(path.starts_with(DEFAULT_DATA), "{}", path.display());
    }
    assert!(loaded.notes.is_empty() && loaded.warnings.is_empty());
    assert!(loaded.effective.iter().all(|e| e.place == Place::Default));
}

#[test]
fn a8_errors_name_place_setting_value_and_what_is_expected() {
    let text = "\
[jwthenticator]
listen = \"127.0.0.1\"
jwt_lifetime = \"25 hours\"
identty = \"registered\"
body_limit = -1
[keys]
algorithm = \"HS256\"
rotate_every = \"30 days\"
[netunel]
x = 1
[jwks]
revocation_file = \"r.json\"
";
    assert_eq!(
        errors(text, &[("JWTUNNEL_NETUNNEL_AUTH", "basic"), ("JWTUNNEL_KEYS_COLOUR", "red")]),
        "\
t.toml:7: [keys] algorithm = \"HS256\": expected one of \"RS256\", \"RS384\", \"RS512\", \"PS256\", \
\"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\"
t.toml:8: [keys] rotate_every = \"30 days\": expected a duration: a whole number and a unit, such as \
\"30s\", \"5m\", \"12h\" or \"30d\"
t.toml:2: [jwthenticator] listen = \"127.0.0.1\": expected an IP address and port such as \
\"127.0.0.1:5050\" or \"[::1]:5050\", or \"unix:/path/to/socket\"
t.toml:3: [jwthenticator] jwt_lifetime = \"25 hours\": expected a duration: a whole number and a \
unit, such as \"30s\", \"5m\", \"12h\" or \"30d\"
t.toml:5: [jwthenticator] body_limit = -1: expected a size in bytes, such as 65536, \"64k\" or \
\"10m\"
environment variable JWTUNNEL_NETUNNEL_AUTH: \"basic\": expected one of \"jwt\", \"secret\", \"none\"
t.toml:4: [jwthenticator] identty: unknown setting; did you mean identity? The settings here are \
listen, internal_listen, database_url, jwt_lifetime, key_lifetime, refresh_lifetime, \
standard_claims, issuer, refresh_requires_live_key, identity, audience, leeway, url_prefix, \
body_limit, queue_limit, header_timeout, body_timeout, handler_timeout, trusted_proxies, \
failures_per_minute, failure_burst, key_failures_per_minute, refresh_delay
t.toml:9: [netunel]: unknown section; the sections are [keys], [jwthenticator], [jwks], [netunnel]
environment variable JWTUNNEL_KEYS_COLOUR: unknown setting; the settings here are directory, \
algorithm, rsa_bits, announce_for, rotate_every, encryption_key_file"
    );
}

#[test]
fn a_schedule_leaves_time_to_announce_and_room_in_the_jwks() {
    let every = |text: &str| format!("[keys]\nrotate_every = \"{text}\"\n");
    assert_eq!(parse("", &[]).unwrap().config.keys.rotate_every, Duration::from_secs(30 * 86_400));
    assert!(parse(&every("0s"), &[]).is_ok());
    let text = errors(&every("5m"), &[("JWT_LEASE_TIME", "60")]);
    assert_eq!(
        text,
        "t.toml:2: [keys] rotate_every: expected more than announce_for, or \"0s\" for no schedule"
    );
    let text = errors(&every("10m"), &[]);
    assert!(
        text.starts_with("t.toml:2: [keys] rotate_every: expected at least a fiftieth"),
        "{text}"
    );
}

#[test]
fn a8_toml_syntax_errors_name_the_line() {
    assert_eq!(
        errors("[keys]\ndirectory = \"a\ndirectory = 1\n", &[]),
        "t.toml:2: not valid TOML: invalid basic string, expected `\"`"
    );
    assert!(
        errors("[keys]\nalgorithm=\"RS256\"\nalgorithm=\"RS256\"\n", &[]).starts_with("t.toml:3:")
    );
}

#[test]
fn a_variable_goes_before_the_file_and_the_file_before_the_originals_variable() {
    let text = "[jwthenticator]\njwt_lifetime = \"1h\"\n";
    let lifetime = |loaded: &Loaded| loaded.config.jwthenticator.jwt_lifetime.as_secs();
    let own = ("JWTUNNEL_JWTHENTICATOR_JWT_LIFETIME", "2h");
    let original = ("JWT_LEASE_TIME", "77");
    assert_eq!(lifetime(&parse(text, &[own, original]).unwrap()), 7_200);
    let loaded = parse(text, &[original]).unwrap();
    assert_eq!(lifetime(&loaded), 3_600);
    assert_eq!(
        loaded.notes[0].effect,
        "has no effect: [jwthenticator] jwt_lifetime is set by t.toml:2"
    );
    let loaded = parse("", &[original]).unwrap();
    assert_eq!(lifetime(&loaded), 77);
    assert_eq!(loaded.notes[0].effect, "sets [jwthenticator] jwt_lifetime");
    // An overridden variable need not even be well-formed.
    assert_eq!(lifetime(&parse(text, &[("JWT_LEASE_TIME", "x")]).unwrap()), 3_600);
    assert_eq!(
        errors("", &[("JWT_LEASE_TIME", "")]),
        "environment variable JWT_LEASE_TIME: \"\": expected a whole number of seconds"
    );
}

#[test]
fn a_deployment_of_the_original_gets_one_listener_and_a_warning() {
    let loaded = parse("", &[("PORT", "9000"), ("DISABLE_EXTERNAL_API", "Yes")]).unwrap();
    let config = &loaded.config.jwthenticator;
    assert_eq!(config.listen.to_string(), "0.0.0.0:9000");
    assert_eq!(config.internal_listen, None);
    assert!(!config.external_api && config.internal_api);
    assert!(loaded.warnings.iter().any(|w| w.contains("internal_listen")), "{:?}", loaded.warnings);
    let text = "[jwthenticator]\ninternal_listen = \"0.0.0.0:5051\"";
    let loaded = Loaded::parse(Path::new("t.toml"), text, &Environment::new()).unwrap();
    assert!(loaded.warnings.iter().any(|w| w.contains("0.0.0.0:5051")), "{:?}", loaded.warnings);
    // Naming the listener ends that layout.
    let loaded = parse("[jwthenticator]\nlisten = \"127.0.0.1:1\"\n", &[("PORT", "9000")]).unwrap();
    assert_eq!(loaded.config.jwthenticator.internal_listen.unwrap().to_string(), "127.0.0.1:5051");
    // jw:T35
    assert_eq!(
        errors("", &[("DISABLE_EXTERNAL_API", "maybe")]),
        "environment variable DISABLE_EXTERNAL_API: \"maybe\": expected one of 1, true, yes, on, 0, \
         false, no, off"
    );
}

#[test]
fn database_variables_are_read_as_sqlalchemy_does() {
    let url = |variables: &[(&str, &str)]| {
        parse("", variables).unwrap().config.jwthenticator.database_url.to_string()
    };
    assert_eq!(url(&[("DB_URI", "sqlite:////a/b.db")]), "sqlite:///a/b.db");
    assert_eq!(
        url(&[("DB_URI", "sqlite:///b.db"), ("ASYNC_URI", "sqlite+aiosqlite:///b.db")]),
        "sqlite://b.db"
    );
    assert_eq!(
        errors("", &[("DB_URI", "sqlite:///a.db"), ("ASYNC_URI", "sqlite+aiosqlite:///b.db")]),
        "environment variable ASYNC_URI: names another database than DB_URI; unset one of them"
    );
    let (db, asynchronous) = ("postgresql+pg8000://u:p@h/n", "postgresql+asyncpg://u:p@h/n");
    assert_eq!(url(&[("DB_URI", db), ("ASYNC_URI", asynchronous)]), "postgres://u@h:5432/n");
    // Any of the parts stands for all of them.
    let default = "postgres://postgres@localhost:5432/jwthenticator";
    assert_eq!(url(&[("DB_PASS", "x")]), default);
    assert_eq!(
        url(&[("DB_HOST", "db:7"), ("DB_NAME", "n"), ("DB_USER", "u"), ("DB_PASS", "p%40")]),
        "postgres://u@db:7/n"
    );
    assert_eq!(url(&[("DB_HOST", "db"), ("DB_URI", "sqlite:///b.db")]), "sqlite://b.db");
    let loaded = parse("", &[("DB_HOST", "db"), ("DB_URI", "sqlite:///b.db")]).unwrap();
    let note = loaded.notes.iter().find(|note| note.name == "DB_HOST").unwrap();
    assert!(note.effect.contains("no effect"), "{note:?}");
    let text = errors("", &[("DB_HOST", "db:x"), ("DB_PASS", "pa55")]);
    assert!(text.contains("DB_PASS") && text.contains("HOST:PORT"), "{text}");
    assert!(!text.contains("pa55"), "{text}");
    // The password of a URL in an error would end in a journal.
    let text = errors("", &[("ASYNC_URI", "mysql+x://u:pa55@h/n")]);
    assert!(text.contains("postgresql+DRIVER://") && !text.contains("pa55"), "{text}");
    let text = errors("[jwthenticator]\ndatabase_url = \"postgres://u:pa55@h\"\n", &[]);
    assert!(text.starts_with("t.toml:2: [jwthenticator] database_url: expected"), "{text}");
    assert!(!text.contains("pa55"), "{text}");
    let text = "[jwthenticator]\ndatabase_url = \"postgres://u:pa55@h/n\"\n";
    let shown = format!("{:?}", parse(text, &[]).unwrap());
    assert!(!shown.contains("pa55"), "{shown}");
}

#[test]
fn a_given_key_pair_keeps_the_originals_claims_unless_told_otherwise() {
    let pair = [("RSA_PUBLIC_KEY_PATH", "a.pub"), ("RSA_PRIVATE_KEY_PATH", "a.pem")];
    let loaded = parse("", &pair).unwrap();
    assert!(loaded.config.keys.given.is_some() && !loaded.config.jwthenticator.standard_claims);
    let loaded = parse("[jwthenticator]\nstandard_claims = true\n", &pair).unwrap();
    assert!(loaded.config.jwthenticator.standard_claims);
    assert!(loaded.warnings.iter().any(|w| w.contains("standard_claims")));
    let loaded = parse("[keys]\ndirectory = \"k\"\n", &pair).unwrap();
    assert!(loaded.config.keys.given.is_none() && loaded.config.jwthenticator.standard_claims);
    let loaded = parse("", &pair[..1]).unwrap();
    assert!(loaded.warnings.iter().any(|w| w.contains("none are issued")), "{loaded:?}");
    assert!(errors("", &pair[1..]).contains("RSA_PUBLIC_KEY_PATH"));
    let texts = [("RSA_PUBLIC_KEY", "public"), ("RSA_PRIVATE_KEY", "hunter2")];
    let loaded = parse("", &texts).unwrap();
    assert!(matches!(loaded.config.keys.given, Some(GivenKey::PrivateText(_, Some(_)))));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let private = parse("", &texts[1..]).unwrap();
    assert!(matches!(private.config.keys.given, Some(GivenKey::PrivateText(_, None))));
    // The warning of a deployment of the original, and none about a missing half.
    assert!(!private.warnings.iter().any(|w| w.contains("none are issued")), "{private:?}");
    // An empty one counts as unset.
    assert!(parse("", &[("RSA_PUBLIC_KEY", "")]).unwrap().config.keys.given.is_none());
    let both = [pair[0], pair[1], texts[0]];
    assert!(matches!(parse("", &both).unwrap().config.keys.given, Some(GivenKey::Files { .. })));
    assert!(errors("", &[pair[0], pair[1], ("JWT_ALGORITHM", "ES256")]).contains("ES256"));
}

#[test]
fn tunnel_authentication_is_never_half_configured() {
    assert!(errors("[netunnel]\nauth = \"secret\"\n", &[]).contains("JWTUNNEL_NETUNNEL_SECRET"));
    let text = errors("[netunnel]\nsecret = \"hunter2\"\n", &[]);
    assert!(
        text.contains("is not used with auth = \"jwt\"") && !text.contains("hunter2"),
        "{text}"
    );
    assert!(
        errors("[netunnel]\nauth = \"none\"\nlisten = \"0.0.0.0:1\"\n", &[]).contains("loopback")
    );
    let secret = ("JWTUNNEL_NETUNNEL_SECRET", "hunter2");
    let loaded = parse("[netunnel]\nauth = \"secret\"\n", &[secret]).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert_eq!(loaded.config.netunnel.secret.unwrap().expose(), "hunter2");
}

#[test]
fn rules_are_typed_and_complete() {
    let loaded = parse(
        "[[netunnel.rule]]\nidentifier = \"*\"\ndestinations = [\"127.0.0.1:22\"]\n\
         [[netunnel.rule]]\nclaim = \"role\"\nvalue = \"ops\"\nreverse_binds = [\"127.0.0.1:*\"]\n",
        &[],
    )
    .unwrap();
    assert_eq!(loaded.config.netunnel.rules.len(), 2);
    assert_eq!(loaded.config.netunnel.rules[1].value.as_deref(), Some("ops"));
    assert_eq!(
        errors("[[netunnel.rule]]\nclaim = \"role\"\n\n[[netunnel.rule]]\nidentifier = 1\n", &[]),
        "t.toml:1: [[netunnel.rule]]: expected either identifier, or claim and value
t.toml:5: [[netunnel.rule]] identifier = 1: expected a text in quotes
t.toml:4: [[netunnel.rule]]: expected either identifier, or claim and value"
    );
    assert!(
        errors("[[netunnel.rule]]\nidentifer = \"*\"\n", &[]).contains("did you mean identifier?")
    );
}

/// rel:A5.
#[test]
fn peers_settings_are_complete_and_there_once() {
    let text = "[netunnel]\n[[netunnel.peer]]\nca_file = \"/a.pem\"\ninsecure = true\n\
        [[netunnel.peer]]\nname = \"b\"\nclient_key_file = \"/k.pem\"\n[[netunnel.peer]]\nname = \"b\"\n";
    assert_eq!(
        errors(text, &[]),
        "t.toml:2: [[netunnel.peer]]: expected name = \"…\", the name of a peer\n\
         t.toml:2: [[netunnel.peer]]: expected either ca_file or insecure = true, which looks at no certificate\n\
         t.toml:5: [[netunnel.peer]]: client_cert_file and client_key_file belong together\n\
         t.toml:8: [[netunnel.peer]]: expected one table for each peer; another one has this name"
    );
}

#[test]
fn parts_of_later_versions_say_so() {
    let text = errors("[signer_proxy]\nx = 1\n", &[]);
    assert!(text.contains("t.toml:1: [signer_proxy]: not available yet"), "{text}");
}

/// A `[[jwks.remote]]` with these lines besides its name.
fn remote(lines: &str) -> String {
    format!("[[jwks.remote]]\nname = \"corp\"\n{lines}")
}

#[test]
fn a_remote_issuer_has_defaults_and_shows_what_holds() {
    let text = remote("url = \"https://corp.example/jwks\"\nrefresh = \"1h\"\n");
    let loaded = parse(&format!("[jwks]\nfile = \"/p/jwks.json\"\n{text}"), &[]).unwrap();
    let corp = &loaded.config.jwks.remotes[0];
    assert_eq!((corp.refresh, corp.timeout), (HOUR, Duration::from_secs(10)));
    assert_eq!((&*corp.file, corp.max_size), (Path::new("/p/corp.json"), Size(1 << 20)));
    assert!(!corp.tunnels && !corp.allow_private && corp.audience.is_empty());
    let shown: Vec<_> = loaded.effective.iter().filter(|e| e.section == "jwks.remote").collect();
    assert!(shown.iter().all(|e| e.table == Some(0)) && shown.len() == 11, "{shown:?}");
    let refresh = shown.iter().find(|e| e.key == "refresh").unwrap();
    assert_eq!((&*refresh.value, refresh.place.to_string()), ("\"1h\"", "t.toml:6".into()));
    // OpenID Connect Discovery 1.0, section 4.1.
    for issuer in ["https://corp.example/realms/a", "https://corp.example/realms/a/"] {
        let loaded = parse(&remote(&format!("issuer = \"{issuer}\"\n")), &[]).unwrap();
        let url = "https://corp.example/realms/a/.well-known/openid-configuration";
        let source = RemoteSource::Discovery(url.parse().unwrap());
        assert_eq!(loaded.config.jwks.remotes[0].source, source);
        assert_eq!(loaded.config.jwks.remotes[0].issuer.as_deref(), Some(issuer));
    }
    // A caller of anybody's service is hardly meant.
    let loaded = parse(&remote("issuer = \"https://a.example\"\ntunnels = true\n"), &[]).unwrap();
    assert!(loaded.warnings[0].contains("tunnels = true without audience"));
}

#[test]
fn a_remote_issuer_that_could_be_mistaken_or_reach_too_far_is_refused() {
    for (lines, place_and_text) in [
        ("", "t.toml:1: [[jwks.remote]]: expected url, the address of a JWK Set; or issuer"),
        ("url = \"corp\"\n", "t.toml:3: [[jwks.remote]] url: expected a URL such as"),
        ("url = \"http://corp.example\"\n", "t.toml:3: [[jwks.remote]] url: the URL is not https"),
        ("url = \"https://10.0.0.1\"\n", "allow_private = true allows that"),
        ("url = \"https://169.254.169.254\"\nallow_private = true\n", "never connected to"),
        ("url = \"https://u:pa55@corp.example\"\n", "holds a user name or a password"),
        ("issuer = \"https://corp.example?x=1\"\n", "expected a URL without a query"),
        ("url = \"https://a\"\nrefresh = \"9s\"\n", "t.toml:4: [[jwks.remote]] refresh: expected"),
        ("url = \"https://a\"\ntimeout = \"2m\"\n", "timeout: expected from \"1s\" to \"60s\""),
        ("url = \"https://a\"\nmax_size = \"2m\"\n", "max_size: expected from \"1k\" to \"1m\""),
        ("url = \"https://a\"\nURL = 1\n", "t.toml:4: [[jwks.remote]] URL: unknown setting"),
        ("url = \"https://a\"\nfile = \"/p/../p/jwks.json\"\n", "is the file of [jwks] file"),
        ("url = \"https://a\"\nfile = \"/k/corp.json\"\n", "another folder than [keys] directory"),
        (
            "url = \"https://a\"\n[[jwks.remote]]\nname = \"corp\"\nurl = \"https://b\"\n",
            "t.toml:5: [[jwks.remote]] name: \"corp\" is the name of another one",
        ),
        (
            "url = \"https://a\"\nfile = \"x\"\n[[jwks.remote]]\nname = \"b\"\nurl = \"https://b\"\nfile = \"x\"\n",
            "t.toml:8: [[jwks.remote]] file: x is the file of another [[jwks.remote]] already",
        ),
        (
            "url = \"https://a\"\ntunnels = true\n[netunnel]\nauth = \"none\"\n",
            "t.toml:4: [[jwks.remote]] tunnels: needs [netunnel] auth = \"jwt\"",
        ),
        (
            "url = \"https://a\"\n[[netunnel.rule]]\nclaim = \"a\"\nvalue = \"b\"\nremote = \"corp\"\n",
            "t.toml:7: [[netunnel.rule]] remote: expected the name of a [[jwks.remote]] with tunnels",
        ),
        (
            "url = \"https://a\"\n[[netunnel.rule]]\nidentifier = \"*\"\nremote = \"corp\"\n",
            "t.toml:4: [[netunnel.rule]]: remote goes with claim",
        ),
    ] {
        // The other sections' lines are not counted.
        let variables = [("JWTUNNEL_JWKS_FILE", "/p/jwks.json"), ("JWTUNNEL_KEYS_DIRECTORY", "/k")];
        let text = errors(&remote(lines), &variables);
        assert!(text.contains(place_and_text), "{lines}: {text}");
        assert!(!text.contains("pa55"), "{text}");
    }
    for name in ["", "Corp", "a b", "a:b", "a/b", &*"x".repeat(33)] {
        let text = format!("[[jwks.remote]]\nname = \"{name}\"\nurl = \"https://a.example\"\n");
        assert!(errors(&text, &[]).contains("t.toml:2: [[jwks.remote]] name: expected"), "{name}");
    }
    let text = errors("", &[("JWTUNNEL_JWKS_REMOTE", "corp")]);
    assert!(text.contains("write the tables [[jwks.remote]] in the configuration file"), "{text}");
}

#[test]
fn netunnels_variables_replace_defaults_of_the_state_file() {
    let loaded = parse("", &[("NETUNNEL_ALLOW_UNVERIFIED_SSL_PEERS", "true")]).unwrap();
    assert_eq!(loaded.config.netunnel.state_overrides.0["allow_unverified_ssl_peers"], true);
    assert_eq!(loaded.notes[0].name, "NETUNNEL_ALLOW_UNVERIFIED_SSL_PEERS");
    let text = errors("", &[("NETUNNEL_PEERS", "[hunter2")]);
    assert!(text.contains("NETUNNEL_PEERS") && text.contains("JSON"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    // 32 zero bytes.
    let fernet = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let key = ("NETUNNEL_SECRET_KEY", fernet);
    let loaded = parse("[netunnel]\nstate_file = \"/x/n.json\"\n", &[key]).unwrap();
    assert!(!format!("{loaded:?}").contains(fernet));
    assert_eq!(loaded.config.netunnel.secret_key.unwrap().expose(), fernet);
    assert_eq!(loaded.config.netunnel.secret_key_file, Path::new("/x/n.key"));
}

#[test]
fn a_secret_key_that_is_none_is_told_with_its_place_and_never_shown() {
    for (text, variables, place) in [
        ("[netunnel]\n\nsecret_key = \"hunter2\"\n", None, "t.toml:3: [netunnel] secret_key: "),
        ("", Some(("JWTUNNEL_NETUNNEL_SECRET_KEY", "hunter2")), "environment variable JWTUNNEL_"),
        (
            "",
            Some(("NETUNNEL_SECRET_KEY", "hunter2")),
            "environment variable NETUNNEL_SECRET_KEY: ",
        ),
    ] {
        let error = errors(text, variables.as_slice());
        assert!(error.starts_with(place) && error.contains("expected a Fernet key: 32"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn only_the_default_file_may_be_missing() {
    let text = Loaded::read(Some(Path::new("/nonexistent.toml")), &Environment::new()).unwrap_err();
    assert!(text.to_string().starts_with("/nonexistent.toml: cannot read the configuration:"));
}
