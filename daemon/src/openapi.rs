//! The API's document (OpenAPI 3.1), put together from the handlers' descriptions.

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{Info, License, OpenApi};

const DESCRIPTION: &str =
    "The HTTP interfaces of jwtunneld. Each operation has the listeners that serve it as tags.";

/// The listeners, by the tags that name them.
const TAGS: [(&str, &str); 3] = [
    (
        "public",
        "`[jwthenticator] listen`, for clients. Behind the shipped nginx configuration /jwthenticator is in \
        front of its paths, but not of /oauth2 and /.well-known.",
    ),
    (
        "internal",
        "`[jwthenticator] internal_listen`, for administrators on the same machine. Nobody is asked for a \
        credential there, so web pages are refused.",
    ),
    (
        "netunnel",
        "`[netunnel] listen`, for tunnels. Behind the shipped nginx configuration /netunnel is in front of its paths. \
        Those of peers and /config only with `admin_routes = true`, and for `admin_identifiers`. Under \
        `auth = \"secret\"` it also has POST /authenticate, which exchanges `{\"secret\": …}` for `{\"token\": …}`.",
    ),
];

/// The document of a daemon whose issuer's paths begin with `prefix`, as JSON.
pub(crate) fn text(prefix: &str) -> String {
    document(prefix).to_json().expect("texts, maps and lists always serialise")
}

fn document(prefix: &str) -> OpenApi {
    let mut document = crate::http::openapi::document(prefix);
    document.merge(crate::tunnel::openapi::document());
    document.info = Info::new("jwtunneld", env!("CARGO_PKG_VERSION"));
    document.info.description = Some(DESCRIPTION.into());
    document.info.license = Some(License::new("Apache-2.0"));
    document.tags = Some(
        TAGS.iter()
            .map(|&(name, text)| TagBuilder::new().name(name).description(Some(text)).build())
            .collect(),
    );
    let components = document.components.get_or_insert_default();
    let http = |scheme| SecurityScheme::Http(Http::new(scheme));
    components.add_security_scheme("bearer", http(HttpAuthScheme::Bearer));
    components.add_security_scheme("client", http(HttpAuthScheme::Basic));
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn parsed(prefix: &str) -> Value {
        serde_json::from_str(&text(prefix)).unwrap()
    }

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| {
                (format!("{} {path}", method.to_uppercase()), operation)
            })
        })
    }

    #[test]
    fn every_route_is_documented_and_none_is_made_up() {
        let document = parsed("");
        let documented: BTreeSet<String> = operations(&document).map(|(name, _)| name).collect();
        let served: BTreeSet<String> = crate::http::all_routes()
            .into_iter()
            .chain(crate::tunnel::openapi::all_routes())
            .map(|(method, path)| format!("{method} {path}"))
            .collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn every_operation_has_a_listener_a_summary_and_a_name_of_its_own() {
        let document = parsed("");
        let tags = TAGS.map(|(name, _)| name);
        let mut names = BTreeSet::new();
        for (name, operation) in operations(&document) {
            let listeners = operation["tags"].as_array().unwrap();
            assert!(!listeners.is_empty(), "{name}");
            for listener in listeners {
                assert!(tags.contains(&listener.as_str().unwrap()), "{name}: {listener}");
            }
            assert!(operation["summary"].is_string(), "{name}");
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{name}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                // Websockets, and answers that NETunnel's clients read as nothing.
                let has_no_body = status == "101"
                    || response["description"].as_str().unwrap().contains("there is no body");
                assert!(
                    has_no_body || response["content"].is_object(),
                    "{name}: {status} has no schema"
                );
                assert!(response["description"].is_string(), "{name}: {status} is not described");
            }
        }
    }

    #[test]
    fn the_prefix_is_in_front_of_the_issuers_paths_only() {
        let document = parsed("/jwthenticator");
        let paths = document["paths"].as_object().unwrap();
        for path in ["/jwthenticator/", "/jwthenticator/authenticate", "/status", "/openapi.json"] {
            assert!(paths.contains_key(path), "{path}");
        }
        assert!(!paths.contains_key("/authenticate"));
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = parsed("");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
