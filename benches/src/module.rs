//! The rows of the nginx module: what protecting a location costs, against the same location without protection,
//! against HAProxy's `jwt_verify`, and against the bare signature check.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::callgrind;
use crate::haproxy::Haproxy;
use crate::http::Connection;
use crate::keys::{Algorithm, Keys};
use crate::load::{self, CONNECTIONS, Content, Load};
use crate::needs::Need;
use crate::nginx::{self, Kind, Nginx, Running};
use crate::options::RunOptions;
use crate::process;
use crate::progress::say;
use crate::report::{Report, Unit};
use crate::rounds::{Leg, Row, Sample, group};
use crate::statistics::Budget;
use crate::verify;

/// The ids of all rows.
pub(crate) const IDS: &[&str] = &[
    "cached",
    "unprotected-header",
    "unprotected-module",
    "uncached-rs256",
    "distinct-rs256",
    "limit-rs256",
    "haproxy-rs256",
    "versus-rs256",
    "uncached-es256",
    "limit-es256",
    "haproxy-es256",
    "versus-es256",
    "uncached-eddsa",
    "limit-eddsa",
    "uncached-hs256",
    "limit-hs256",
    "haproxy-hs256",
    "versus-hs256",
    "memory-nocache",
    "memory-cache",
    "instructions",
];

/// What a row needs.
pub(crate) fn needs(id: &str) -> &'static [Need] {
    match id {
        "instructions" => &[Need::Nginx, Need::Module, Need::Valgrind],
        _ => &[Need::Nginx, Need::Module, Need::Haproxy],
    }
}

/// What the numbers were made with.
pub(crate) fn setup() -> String {
    format!(
        "{CONNECTIONS} kept-alive connections, file of {} bytes, sendfile off, access_log off, both legs of a \
         pair send the same bytes",
        nginx::BODY.len()
    )
}

/// Far more than the cache holds, so that none is met again before it was driven out.
const DISTINCT_TOKENS: u32 = 20_000;
/// `auth_jwt_cache` by default.
const CACHE_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// The parts of a leg's name that rows refer to.
mod leg {
    pub(super) const UNPROTECTED: &str = "unprotected";
    pub(super) const CACHED: &str = "cached";
    pub(super) const NO_HEADER: &str = "unprotected, no token";
    pub(super) const PLAIN: &str = "nginx without module";
    pub(super) const UNCACHED: &str = "uncached";
    pub(super) const DISTINCT: &str = "distinct tokens";
    pub(super) const DISTINCT_OPEN: &str = "distinct unprotected";
    pub(super) const HAPROXY_OPEN: &str = "HAProxy unprotected";
    pub(super) const HAPROXY: &str = "HAProxy jwt_verify";
    pub(super) const VERIFY: &str = "bare verification";
}

/// What all rows share.
struct Bench<'a> {
    options: &'a RunOptions,
    keys: &'a Keys,
    plain: Running,
    uncached: Running,
    cached: Running,
    haproxy: Haproxy,
    /// Made when a wanted row needs them.
    distinct: Option<PathBuf>,
}

/// Measures the wanted rows.
pub(crate) fn run(options: &RunOptions, report: &mut Report) -> Result<()> {
    say("making keys and tokens");
    let keys = Keys::generate(&options.folder)?;
    let nginx = Nginx::new(&options.folder, &options.build.join("ngx_http_jwt_module.so"), &keys)?;
    let timed = IDS.iter().any(|id| *id != "instructions" && options.wants(id));
    if timed {
        let needs_distinct = ["distinct-rs256", "memory-nocache", "memory-cache"];
        let distinct = if needs_distinct.iter().any(|id| options.wants(id)) {
            say(&format!("signing {DISTINCT_TOKENS} tokens"));
            Some(keys.distinct_tokens(Algorithm::Rs256, DISTINCT_TOKENS)?)
        } else {
            None
        };
        say("starting nginx (without the module, with it, with its cache) and HAProxy");
        let bench = Bench {
            options,
            keys: &keys,
            plain: nginx.start(Kind::Plain)?,
            uncached: nginx.start(Kind::Uncached)?,
            cached: nginx.start(Kind::Cached)?,
            haproxy: Haproxy::start(&options.folder, &keys)?,
            distinct,
        };
        bench.check_answers()?;
        bench.cached(report)?;
        for alg in Algorithm::ALL {
            bench.uncached(alg, report)?;
        }
        bench.memory(report)?;
    }
    if options.wants("instructions") {
        instructions(options, &nginx, &keys, report)?;
    }
    Ok(())
}

impl Bench<'_> {
    /// What is not refused must be let pass because of its token: else the rows would measure nothing.
    fn check_answers(&self) -> Result<()> {
        for alg in Algorithm::ALL {
            let token = fs::read_to_string(self.keys.token(alg))?;
            let token = token.trim_end();
            // Its first character: the last one of a base64url text can have bits that mean nothing.
            let (input, signature) = token.rsplit_once('.').context("not a token")?;
            let other = if signature.starts_with('A') { "B" } else { "A" };
            let forged = format!("{input}.{other}{}", &signature[1..]);
            let mut urls = vec![
                (self.uncached.protected(), self.uncached.errors()),
                (self.cached.protected(), self.cached.errors()),
            ];
            if let Ok(url) = self.haproxy.protected(alg) {
                urls.push((url, String::new()));
            }
            for (url, errors) in urls {
                let name = alg.name();
                let (status, body) = Connection::open(&url, Some(token))?.ask()?;
                ensure!(status == 200, "{url} answers {status} to a good {name} token\n{errors}");
                ensure!(body == nginx::BODY.as_bytes(), "{url} does not serve the file");
                for (what, token) in [("no token", None), ("a forged token", Some(&*forged))] {
                    let (status, _) = Connection::open(&url, token)?.ask()?;
                    ensure!(
                        status == 401 || status == 403,
                        "{url} answers {status} to {what} ({name})"
                    );
                }
            }
        }
        Ok(())
    }

    /// The group around a cached token.
    fn cached(&self, report: &mut Report) -> Result<()> {
        let token = self.keys.token(Algorithm::Rs256);
        let nginx = &self.cached;
        let rows = vec![
            Row::ratio(
                "cached",
                "cached token (RS256), against unprotected",
                leg::CACHED,
                leg::UNPROTECTED,
                Some(Budget::AtLeast(0.95)),
            ),
            Row::ratio(
                "unprotected-header",
                "unprotected: requests with the token, against without one",
                leg::UNPROTECTED,
                leg::NO_HEADER,
                None,
            ),
            Row::ratio(
                "unprotected-module",
                "unprotected: nginx with the module, against without it",
                leg::UNPROTECTED,
                leg::PLAIN,
                None,
            ),
        ];
        let legs = vec![
            self.nginx(leg::UNPROTECTED, nginx, nginx.open(), Some(token.clone())),
            self.nginx(leg::CACHED, nginx, nginx.protected(), Some(token.clone())),
            self.nginx(leg::NO_HEADER, nginx, nginx.open(), None),
            self.nginx(leg::PLAIN, &self.plain, self.plain.open(), Some(token)),
        ];
        self.group("cached", legs, rows, report)
    }

    /// The group of one algorithm.
    fn uncached(&self, alg: Algorithm, report: &mut Report) -> Result<()> {
        let name = alg.name();
        let (uncached, limit, haproxy, versus, budget) = match alg {
            Algorithm::Rs256 => {
                ("uncached-rs256", "limit-rs256", "haproxy-rs256", "versus-rs256", 0.41)
            }
            Algorithm::Es256 => {
                ("uncached-es256", "limit-es256", "haproxy-es256", "versus-es256", 0.19)
            }
            Algorithm::EdDsa => ("uncached-eddsa", "limit-eddsa", "", "", 0.235),
            Algorithm::Hs256 => {
                ("uncached-hs256", "limit-hs256", "haproxy-hs256", "versus-hs256", 0.80)
            }
        };
        let budget = Some(Budget::AtLeast(budget));
        let mut rows = vec![Row::ratio(
            uncached,
            format!("uncached {name}, against unprotected"),
            leg::UNCACHED,
            leg::UNPROTECTED,
            budget,
        )];
        let token = self.keys.token(alg);
        let nginx = &self.uncached;
        let mut legs = vec![
            self.nginx(leg::UNPROTECTED, nginx, nginx.open(), Some(token.clone())),
            self.nginx(leg::UNCACHED, nginx, nginx.protected(), Some(token.clone())),
        ];
        if alg == Algorithm::Rs256
            && let Some(tokens) = &self.distinct
        {
            rows.push(Row::ratio(
                "distinct-rs256",
                "all-distinct tokens, cache on, RS256, against unprotected",
                leg::DISTINCT,
                leg::DISTINCT_OPEN,
                budget,
            ));
            let nginx = &self.cached;
            let tokens = || Some(tokens.clone());
            legs.push(self.nginx(leg::DISTINCT_OPEN, nginx, nginx.open(), tokens()));
            legs.push(self.nginx(leg::DISTINCT, nginx, nginx.protected(), tokens()));
        }
        rows.push(Row {
            id: limit,
            title: format!("limit {name}: plain nginx plus aws-lc-rs alone"),
            legs: vec![leg::UNPROTECTED, leg::VERIFY],
            value: Box::new(|round| {
                let (serve, check) = (round.rate(leg::UNPROTECTED), round.rate(leg::VERIFY));
                1.0 / (1.0 / serve + 1.0 / check) / serve
            }),
            unit: Unit::Ratio,
            budget: None,
        });
        let folder = &self.options.folder;
        legs.push(Leg {
            name: leg::VERIFY,
            measure: Box::new(move || verify::measure(folder, alg, Duration::from_millis(300))),
        });
        if let Ok(url) = self.haproxy.protected(alg) {
            rows.push(Row::ratio(
                haproxy,
                format!("HAProxy {name}, against HAProxy unprotected"),
                leg::HAPROXY,
                leg::HAPROXY_OPEN,
                None,
            ));
            rows.push(Row {
                id: versus,
                title: format!("the module's share for {name}, as a multiple of HAProxy's"),
                legs: vec![leg::UNCACHED, leg::UNPROTECTED, leg::HAPROXY, leg::HAPROXY_OPEN],
                value: Box::new(|round| {
                    (round.rate(leg::UNCACHED) / round.rate(leg::UNPROTECTED))
                        / (round.rate(leg::HAPROXY) / round.rate(leg::HAPROXY_OPEN))
                }),
                unit: Unit::Ratio,
                budget: Some(Budget::AtLeast(1.0)),
            });
            legs.push(self.haproxy(leg::HAPROXY_OPEN, self.haproxy.open(), token.clone()));
            legs.push(self.haproxy(leg::HAPROXY, url, token));
        }
        self.group(name, legs, rows, report)
    }

    /// Measures those legs that wanted rows need.
    fn group(
        &self,
        name: &str,
        legs: Vec<Leg<'_>>,
        rows: Vec<Row>,
        report: &mut Report,
    ) -> Result<()> {
        group(name, legs, rows, self.options, report)
    }

    fn nginx<'l>(
        &'l self,
        name: &'static str,
        nginx: &'l Running,
        url: String,
        tokens: Option<PathBuf>,
    ) -> Leg<'l> {
        let measure = move || {
            self.load(&url, tokens.as_deref(), nginx.worker())
                .with_context(|| format!("the end of the error log:\n{}", nginx.errors()))
        };
        Leg { name, measure: Box::new(measure) }
    }

    fn haproxy(&self, name: &'static str, url: String, token: PathBuf) -> Leg<'_> {
        let measure = move || self.load(&url, Some(&token), self.haproxy.id());
        Leg { name, measure: Box::new(measure) }
    }

    fn load(&self, url: &str, tokens: Option<&Path>, server: u32) -> Result<Sample> {
        let content = tokens.map_or(Content::None, Content::Tokens);
        let duration = self.options.duration();
        let load = Load { url, content, server, duration, connections: CONNECTIONS, probe: None };
        Ok(load::measure(load)?.sample)
    }

    /// What a worker holds more than one of plain nginx, after the same load.
    fn memory(&self, report: &mut Report) -> Result<()> {
        let rows = [
            ("memory-nocache", "worker's RssAnon over plain nginx, cache off"),
            ("memory-cache", "worker's RssAnon over plain nginx, less the full cache (8 MiB)"),
        ];
        let [uncached, cached] = rows.map(|(id, _)| self.options.wants(id));
        let (Some(tokens), true) = (&self.distinct, uncached || cached) else { return Ok(()) };
        say("memory: all-distinct tokens for each nginx");
        let hold = |nginx: &Running, url: String| -> Result<f64> {
            let load = || {
                self.load(&url, Some(tokens), nginx.worker())
                    .with_context(|| format!("the end of the error log:\n{}", nginx.errors()))
            };
            // Twice: the second finds everything allocated that the first made.
            load()?;
            load()?;
            process::anonymous_memory(nginx.worker())
        };
        let plain = hold(&self.plain, self.plain.open())?;
        let budget = Some(Budget::AtMost(MIB));
        if uncached {
            let more = hold(&self.uncached, self.uncached.protected())? - plain;
            report.add_value(rows[0].0, rows[0].1, Unit::Kib, more, budget)?;
        }
        if cached {
            let more = hold(&self.cached, self.cached.protected())? - plain - CACHE_BYTES;
            report.add_value(rows[1].0, rows[1].1, Unit::Kib, more, budget)?;
        }
        Ok(())
    }
}

/// Instructions of a request in each state.
fn instructions(
    options: &RunOptions,
    nginx: &Nginx<'_>,
    keys: &Keys,
    report: &mut Report,
) -> Result<()> {
    fs::create_dir_all(&options.profiles)
        .with_context(|| format!("can't make {}", options.profiles.display()))?;
    let mut count = |kind: Kind, name: &str, open: bool, token: &Path| -> Result<()> {
        say(&format!("instructions: {name}"));
        let url = |running: &Running| if open { running.open() } else { running.protected() };
        let found = callgrind::instructions(nginx, kind, name, url, token, &options.profiles)?;
        let title = format!("per request: {}", name.replace('-', " "));
        report.add_value("instructions", &title, Unit::Instructions, found, None)
    };
    let rs256 = keys.token(Algorithm::Rs256);
    count(Kind::Plain, "without-module-RS256", true, &rs256)?;
    count(Kind::Cached, "cached-RS256", false, &rs256)?;
    // Each with the unprotected request that sends the same bytes.
    for alg in Algorithm::ALL {
        for (state, open) in [("unprotected", true), ("uncached", false)] {
            count(Kind::Uncached, &format!("{state}-{}", alg.name()), open, &keys.token(alg))?;
        }
    }
    say(&format!("profiles for callgrind_annotate: {}", options.profiles.display()));
    Ok(())
}
